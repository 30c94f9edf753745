"""Measure how time and memory grow as what is trained grows tenfold.

A convolutional VAE of two layers by `fit`: the seconds of a step and the peak of extra memory as
the batch, the latent dimensions or the image's side grow, and the seconds of an epoch as the data
set does; and `total_correlation` with its gradient, which compares all of a batch with all, as
batch and latents grow. Each point is measured in a process of its own (its memory from making the
model and the data on, after a small run that loads what the libraries load once), the points of a
curve in turns over the rounds. The exponent is the slope of a straight line through the logarithms:
1 where twice as much takes twice as long. An image has side times side values, so 2 is linear
there; what does not grow pulls exponents down.

    python benchmarks/growth.py [--device cuda] [--rounds 3] [--json FILE] [--picture FILE]
"""

import argparse
import statistics
import time
from pathlib import Path

import memory
import numpy as np
import results
import torch
import turns

import vaekit as vk

USUAL = {"batch": 64, "latents": 20, "side": 32, "elements": 640}
STEPS = 4
FACTORS = [10 ** (i / 4) for i in range(5)]
FIT, TC = "fit", "total correlation"
# What grows from where, in tenfold steps, and what is timed of it.
CURVES = {
    "fit, batch": (FIT, "batch", 64),
    "fit, latents": (FIT, "latents", 20),
    "fit, image side": (FIT, "side", 16),
    "fit, data set": (FIT, "elements", 1280),
    "total correlation, batch": (TC, "batch", 256),
    "total correlation, latents": (TC, "latents", 10),
}


def train(size: dict[str, int], steps: int | None, device: str) -> None:
    """Make the model and the data, and train for a few steps, or an epoch."""
    shape = (1, size["side"], size["side"])
    model, objective = vk.recipes.vae(
        vk.likelihoods.Bernoulli(shape, grey_levels=True),
        size["latents"],
        nets=vk.recipes.convolutions([32, 64]),
    )
    images = torch.randint(0, 256, (size["elements"], *shape), dtype=torch.uint8)
    length = {"epochs": 1} if steps is None else {"steps": steps}
    data = vk.datasets.from_tensors(images).to(device)
    vk.fit(model.to(device), objective, data, batch_size=size["batch"], progress=False, **length)


def correlate(size: dict[str, int], device: str) -> None:
    """Take the total correlation of a batch, and its gradient."""
    params = torch.randn(size["batch"], 2 * size["latents"], device=device, requires_grad=True)
    q = vk.distributions.DiagonalGaussian.of_halves(params)
    vk.total_correlation(q, q.rsample(), dataset_size=60_000).backward()


def measure(what: str, name: str, value: int, device: str) -> tuple[float, float]:
    """Return the seconds and the peak of extra memory of one point, in a process of its own."""
    torch.manual_seed(0)
    size, small = USUAL | {name: value}, USUAL | {"batch": 8, "side": 16, "latents": 2}
    steps = None if name == "elements" else STEPS

    def work() -> None:
        correlate(size, device) if what == TC else train(size, steps, device)
        if "cuda" in device:
            torch.cuda.synchronize()

    correlate(small, device) if what == TC else train(small, 2, device)
    peak = memory.peak(work, device)
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) / (steps if what == FIT and steps else 1), peak


def draw(points: dict[str, list[tuple[int, float, float]]], path: Path) -> None:
    """Draw every curve, with its exponents."""
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "growth"}
    bands = -(-len(points) // 3)
    figure, axes = plt.subplots(2 * bands, 3, figsize=(8.5, 4.5 * bands), layout="tight")
    columns = [column for band in np.split(axes, bands) for column in band.T]
    for column in columns[len(points) :]:
        for axis in column:
            axis.set_axis_off()
    for (name, curve), column in zip(points.items(), columns, strict=False):
        sizes, *measured = zip(*curve, strict=True)
        for axis, values, unit in zip(column, measured, ("seconds", "megabytes"), strict=True):
            axis.loglog(sizes, values, "o-", markersize=4)
            axis.set_title(f"{name}\nexponent {turns.exponent(sizes, values):.2f}", fontsize=9)
            axis.set_xticks([sizes[0], sizes[-1]], [str(sizes[0]), str(sizes[-1])])
            axis.minorticks_off()
            axis.set_ylabel(unit, fontsize=8)
            middle = (min(values) * max(values)) ** 0.5
            reach = max((max(values) / min(values)) ** 0.5, 10**0.5) * 1.5
            axis.set_ylim(middle / reach, middle * reach)
            axis.tick_params(labelsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    """Measure every point, print the exponents, and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--curves", nargs="+", default=list(CURVES), choices=list(CURVES))
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--picture", type=Path, help="where to draw the curves")
    args = parser.parse_args()

    points, rows = {}, {}
    for name in args.curves:
        what, grows, start = CURVES[name]
        sizes = [round(start * factor) for factor in FACTORS]
        found: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}
        for _ in range(args.rounds):
            for size, each in found.items():
                each.append(memory.fresh(measure, what, grows, size, args.device))
        seconds = [statistics.median(s for s, _ in found[size]) for size in sizes]
        peaks = [statistics.median(p for _, p in found[size]) for size in sizes]
        points[name] = list(zip(sizes, seconds, peaks, strict=True))
        rows[name] = {
            "from": sizes[0],
            "to": sizes[-1],
            "seconds": f"{seconds[0]:.3g} to {seconds[-1]:.3g}",
            "time_exponent": turns.exponent(sizes, seconds),
            "megabytes": f"{peaks[0]:.3g} to {peaks[-1]:.3g}",
            "memory_exponent": turns.exponent(sizes, peaks),
        }
        print(name, *(f"{key} {value}" for key, value in rows[name].items()), flush=True)
    machine = results.machine(
        turns.processor(args.device),
        threads=torch.get_num_threads(),
        rounds=args.rounds,
        seed=0,
        usual_sizes=", ".join(f"{value} {key}" for key, value in USUAL.items()),
    )
    results.write(args.json, {"machine": machine, "rows": rows, "points": points})
    if args.picture:
        draw(points, args.picture)


if __name__ == "__main__":
    main()
