"""Time one epoch of training, side by side in one run.

The model is a VAE of 784-400-20-400-784, the data 60,000 MNIST images held as bytes (or random
bytes of the same shape where ``VAEKIT_DATA`` names no MNIST: the arithmetic is the same), batches
of 128, Adam. Each epoch goes through the data in four quarters, and the ways take turns at each
quarter, each time from another one on, so that a slow second of the machine falls on all alike; and
each round has models made anew (where they are not compiled), so that no way keeps a lucky place in
memory. What is printed is each way's median, and the median over the rounds of its ratio to another
way of the same round.

    python benchmarks/training.py [--device cuda] [--rounds 20] [--json FILE]
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import results
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vaekit as vk

BATCH, HIDDEN, LATENT, PIXELS = 128, 400, 20, 784
QUARTERS = 4

Epoch = Callable[[int], None]  # of one quarter


def images() -> tuple[Tensor, str]:
    """Return 60,000 images as bytes, and what they are."""
    try:
        train = vk.datasets.mnist(os.environ["VAEKIT_DATA"], download=False)[0]
    except (KeyError, FileNotFoundError, ImportError):
        return torch.randint(0, 256, (60_000, 1, 28, 28), dtype=torch.uint8), "random bytes"
    from torchvision.datasets import MNIST

    held = MNIST(os.environ["VAEKIT_DATA"], train=True)
    return held.data[:, None], f"MNIST ({len(train)} images)"


def make_model(device: str, seed: int = 0) -> vk.VAE:
    """Make the model, the same for the same seed."""
    torch.manual_seed(seed)
    latent = vk.GaussianLatent(LATENT)
    encoder = vk.Encoder(vk.networks.mlp(PIXELS, [HIDDEN], latent.num_params), latent)
    likelihood = vk.likelihoods.Bernoulli((1, 28, 28), grey_levels=True)
    decoder = vk.Decoder(vk.networks.mlp(LATENT, [HIDDEN], PIXELS), likelihood)
    return vk.VAE(encoder, decoder).to(device)


class HandWritten(nn.Module):
    """The same model as anybody would write it in a script."""

    def __init__(self) -> None:
        """Make the four layers."""
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT)
        )
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS)
        )

    def loss(self, x: Tensor) -> Tensor:
        """Return the mean negative ELBO."""
        mu, logvar = self.encoder(x).chunk(2, dim=-1)
        z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
        cross_entropy = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        kl = -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum()
        return (cross_entropy + kl) / len(x)


def hand_written(quarters: Sequence[Tensor], device: str) -> Epoch:
    """Return an epoch of a loop over the tensor in memory, with fused Adam."""
    model = HandWritten().to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    def epoch(quarter: int) -> None:
        total, flat = 0.0, quarters[quarter]
        for rows in torch.randperm(len(flat), device=device).split(BATCH):
            x = flat[rows].float().div_(255)
            optimizer.zero_grad(set_to_none=True)
            loss = model.loss(x)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)

    return epoch


def torchvision_mnist() -> Any:
    """Return torchvision's own data set, or None where it is not to be had."""
    try:
        from torchvision.datasets import MNIST
        from torchvision.transforms import ToTensor

        return MNIST(os.environ["VAEKIT_DATA"], train=True, transform=ToTensor())
    except (KeyError, RuntimeError, ImportError):
        return None


def torchvision_loop(held: Any, device: str) -> Epoch:
    """Return an epoch of the usual loop over torchvision's data set and a plain DataLoader."""
    size = len(held) // QUARTERS
    loaders = [
        torch.utils.data.DataLoader(
            torch.utils.data.Subset(held, range(first, first + size)), BATCH, shuffle=True
        )
        for first in range(0, len(held), size)
    ]
    model = HandWritten().to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def epoch(quarter: int) -> None:
        total = 0.0
        for x, _ in loaders[quarter]:
            x = x.flatten(1).to(device)
            optimizer.zero_grad()
            loss = model.loss(x)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)

    return epoch


def matrix_products(count: int, device: str) -> Epoch:
    """Return the matrix products of an epoch alone, on batches made before."""
    sizes = [(PIXELS, HIDDEN), (HIDDEN, 2 * LATENT), (LATENT, HIDDEN), (HIDDEN, PIXELS)]
    weights = [torch.randn(n_in, n_out, device=device) * 0.01 for n_in, n_out in sizes]
    inputs = [torch.randn(BATCH, n_in, device=device) for n_in, _ in sizes]
    gradients = [torch.randn(BATCH, n_out, device=device) for _, n_out in sizes]

    def epoch(quarter: int) -> None:
        for _ in range(count // QUARTERS // BATCH):
            for index, (w, x, g) in enumerate(zip(weights, inputs, gradients, strict=True)):
                x @ w
                x.T @ g
                if index:  # the data need no gradient
                    g @ w.T

    return epoch


def with_fit(quarters: Sequence[vk.datasets.ArrayDataset], device: str, compile: bool) -> Epoch:
    """Return an epoch of `vaekit.fit`."""
    model = make_model(device)
    objective = vk.Reconstruction() + vk.KL()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    def epoch(quarter: int) -> None:
        vk.fit(
            model,
            objective,
            quarters[quarter],
            epochs=1,
            batch_size=BATCH,
            optimizer=optimizer,
            compile=compile,
            progress=False,
        )

    return epoch


def main() -> None:
    """Time them and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    args = parser.parse_args()

    data, what = images()
    flat = data.flatten(1).to(args.device).chunk(QUARTERS)
    quarters = [vk.datasets.from_tensors(part).to(args.device) for part in data.chunk(QUARTERS)]
    products = matrix_products(len(data), args.device)
    compiled = with_fit(quarters, args.device, compile=True)
    ways: dict[str, Callable[[], Epoch]] = {
        "matrix products alone": lambda: products,
        "hand-written loop": lambda: hand_written(flat, args.device),
        "fit": lambda: with_fit(quarters, args.device, compile=False),
        "fit(compile=True)": lambda: compiled,
    }
    if (held := torchvision_mnist()) is not None:
        ways["torchvision DataLoader loop"] = lambda: torchvision_loop(held, args.device)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for make in ways.values():  # once to warm up, and to compile
        make()(0)
    names = list(times)
    for turn in range(args.rounds):
        epochs = {name: make() for name, make in ways.items()}
        taken = dict.fromkeys(names, 0.0)
        for quarter in range(QUARTERS):
            first = (turn + quarter) % len(names)  # each way comes after each other one
            for name in [*names[first:], *names[:first]]:
                _synchronise(args.device)
                started = time.perf_counter()
                epochs[name](quarter)
                _synchronise(args.device)
                taken[name] += time.perf_counter() - started
        for name, seconds in taken.items():
            times[name].append(seconds)

    def ratio(name: str, base: str) -> float:
        return statistics.median(a / b for a, b in zip(times[name], times[base], strict=True))

    machine = results.machine(
        torch.cuda.get_device_name() if "cuda" in args.device else _processor(),
        threads=torch.get_num_threads(),
        data=what,
        rounds=args.rounds,
    )
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"{'one epoch':30}{'seconds':>10}{'/ products':>12}{'/ hand-written':>16}")
    rows = {}
    for name, each in times.items():
        rows[name] = {
            "seconds": statistics.median(each),
            "over_products": ratio(name, "matrix products alone"),
            "over_hand_written": ratio(name, "hand-written loop"),
        }
        seconds, products, by_hand = rows[name].values()
        print(f"{name:30}{seconds:10.3f}{products:12.2f}{by_hand:16.2f}")
    bars = {"fit over the hand-written loop": (ratio("fit", "hand-written loop"), "at most", 1.10)}
    bars["fit(compile=True) over fit"] = (ratio("fit(compile=True)", "fit"), "at most", 1.0)
    if "torchvision DataLoader loop" in times:
        speed_up = ratio("torchvision DataLoader loop", "fit")
        bars["torchvision loop over fit"] = (speed_up, "at least", 2.5)
    judged = {}
    for name, (value, sense, bar) in bars.items():
        met = value <= bar if sense == "at most" else value >= bar
        judged[name] = f"{value:.3f} ({sense} {bar}: {'met' if met else 'MISSED'})"
        print(f"{name}: {judged[name]}")
    results.write(args.json, {"machine": machine, "bars": judged, "rows": rows})


def _synchronise(device: str) -> None:
    if "cuda" in device:
        torch.cuda.synchronize()


def _processor() -> str:
    lines = Path("/proc/cpuinfo")
    found = lines.read_text().splitlines() if lines.exists() else []
    names = [line.split(":")[1].strip() for line in found if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
