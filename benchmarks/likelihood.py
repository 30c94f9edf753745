"""Measure the memory that the likelihood of a whole test set takes, whatever the number of draws.

`vaekit.metrics.negative_log_likelihood` of the 10,000 test images of MNIST, by an MLP of 784-400-20
with the weights that it begins with, in a fresh process for each number of draws. The peak is of
extra memory, over what there is when the model and the data are.

    VAEKIT_DATA=... python benchmarks/likelihood.py [--images 10000] [--json FILE]
"""

import argparse
import time
from pathlib import Path

import memory
import results
import torch
import turns

import vaekit as vk

DRAWS = (50, 500, 5000)


def measure(samples: int, images: int, device: str) -> dict[str, float]:
    """Return the peak of extra memory and the minutes; called in a fresh process."""
    torch.manual_seed(0)
    image = vk.likelihoods.Bernoulli((1, 28, 28))
    nets = vk.recipes.perceptrons([400])
    model = vk.recipes.vae(image, 20, nets=nets).model.to(device)
    _, test = vk.datasets.mnist(binarize="threshold")
    data, started = test.subset(range(images)), time.perf_counter()
    # What is loaded at first use is there before.
    vk.metrics.negative_log_likelihood(model, test.subset(range(2)), 2)
    peak = memory.peak(lambda: vk.metrics.negative_log_likelihood(model, data, samples), device)
    return {"peak_megabytes": peak, "minutes": (time.perf_counter() - started) / 60}


def main() -> None:
    """Measure each and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    args = parser.parse_args()

    rows = {}
    for samples in DRAWS:
        name = f"{args.images} images, {samples} draws of each"
        rows[name] = memory.fresh(measure, samples, args.images, args.device)
        print(name, *(f"{key} {value:.3g}" for key, value in rows[name].items()), flush=True)
    device, threads = turns.processor(args.device), torch.get_num_threads()
    machine = results.machine(device, threads=threads, seed=0)
    results.write(args.json, {"machine": machine, "rows": rows})


if __name__ == "__main__":
    main()
