"""Compare all with all: total correlation and MMD against the plain broadcast.

`vaekit.total_correlation`, by each of its estimators, and `vaekit.losses.mmd` of a batch of 4,096
draws of 64 dimensions: time and peak of extra memory, forward and backward, in a fresh process,
after a small batch that loads what the libraries load once. The broadcast is the formula written
down, (B, B, D) at once; a single copy of that is 4.3 GB for this batch, so both take turns on a
smaller batch that it fits. Their gradients are compared there, as the largest difference over the
largest gradient: both in double precision, and vaekit's in single with the broadcast's in double.

    python benchmarks/pairwise.py [--batch 4096] [--broadcast 1024] [--rounds 5] [--json FILE]
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import memory
import results
import torch
import turns
from torch import Tensor

import vaekit as vk

DATASET = 60_000
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # of mu, logvar and noise


def estimated(estimator: vk.losses.Estimator) -> Loss:
    """Return vaekit's total correlation; the data set of "exact" is the batch itself."""

    def loss(mu: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
        q = vk.distributions.DiagonalGaussian(mu, logvar)
        z = mu + (0.5 * logvar).exp() * noise
        whole = q if estimator == "exact" else None
        size = None if estimator == "exact" else DATASET
        return vk.total_correlation(
            q, z, estimator=estimator, dataset_size=size, dataset_posterior=whole
        )

    return loss


def broadcast(estimator: vk.losses.Estimator) -> Loss:
    """Return the total correlation as the formula is written, with all pairs at once."""

    def loss(mu: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
        batch = len(mu)
        z = mu + (0.5 * logvar).exp() * noise
        squared = (z[:, None] - mu).square() * (-logvar).exp()
        components = -0.5 * (squared + logvar + math.log(2 * math.pi))
        if estimator == "stratified":
            weights = vk.losses.elbo.stratified_log_weights(batch, DATASET).to(z)
        else:
            size = batch if estimator == "exact" else batch * DATASET
            weights = torch.full((batch, batch), -math.log(size)).to(z)
        joint = (weights + components.sum(-1)).logsumexp(1)
        by_dimension = (weights[..., None] + components).logsumexp(1)
        return (joint - by_dimension.sum(-1)).mean()

    return loss


def kernels(mu: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """Return vaekit's MMD of the draws and of as many from the prior."""
    return vk.losses.mmd(mu + (0.5 * logvar).exp() * noise, noise.roll(1, 0))


def kernels_broadcast(mu: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """Return the MMD as the formula is written, with all differences at once."""
    z, reference = mu + (0.5 * logvar).exp() * noise, noise.roll(1, 0)
    kernel, size = vk.losses.InverseMultiquadric.of_dim(z.shape[1]), len(z)
    pairs = 1 - torch.eye(size).to(z)

    def alike(one: Tensor, other: Tensor) -> Tensor:
        return kernel((one[:, None] - other).square().sum(-1))

    own, others = (alike(each, each) * pairs for each in (z, reference))
    return (own + others).sum() / (size * (size - 1)) - 2 * alike(z, reference).mean()


ESTIMATORS: tuple[vk.losses.Estimator, ...] = ("stratified", "weighted", "exact")
LOSSES: dict[str, tuple[Loss, Loss]] = {
    f"total correlation, {name}": (estimated(name), broadcast(name)) for name in ESTIMATORS
}
LOSSES["MMD"] = (kernels, kernels_broadcast)


def draws(batch: int, dim: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return parameters of posteriors, and noise."""
    torch.manual_seed(0)
    mu, logvar = torch.randn(batch, dim), torch.randn(batch, dim) - 1
    noise = torch.randn(batch, dim)
    return mu.to(device).requires_grad_(), logvar.to(device).requires_grad_(), noise.to(device)


def gradients(loss: Loss, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Go forward and backward."""
    return torch.autograd.grad(loss(*tensors), tensors[:2])


def measure(name: str, which: int, batch: int, dim: int, device: str) -> tuple[float, float]:
    """Return the peak of extra memory and the seconds; called in a fresh process."""
    loss = LOSSES[name][which]
    gradients(loss, *draws(8, dim, device))
    tensors, started = draws(batch, dim, device), time.perf_counter()
    return memory.peak(lambda: gradients(loss, *tensors), device), time.perf_counter() - started


def difference(name: str, dtype: torch.dtype, batch: int, dim: int, device: str) -> float:
    """Return how far the gradient is from the broadcast's in double, relative to the largest."""
    ours, plain = (
        gradients(loss, *(t.detach().to(kind).requires_grad_() for t in draws(batch, dim, device)))
        for loss, kind in zip(LOSSES[name], (dtype, torch.double), strict=True)
    )
    pairs = zip(ours, plain, strict=True)
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)


def main() -> None:
    """Measure memory, then time, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--broadcast", type=int, default=1024, help="a batch that it fits")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    args = parser.parse_args()

    small = (args.broadcast, args.dim, args.device)

    def way(loss: Loss) -> Callable[[], turns.Work]:
        return lambda: lambda part: gradients(loss, *draws(*small))

    ways = {}
    for name, (loss, plain) in LOSSES.items():
        ways[name], ways[f"{name}, broadcast"] = way(loss), way(plain)
    times = turns.take_turns(ways, args.rounds, device=args.device)
    machine = results.machine(
        turns.processor(args.device),
        threads=torch.get_num_threads(),
        rounds=args.rounds,
        seed=0,
        batch=args.batch,
        broadcast_batch=args.broadcast,
        dimensions=args.dim,
    )
    rows, bars = {}, {}
    for name in LOSSES:
        peak, seconds = memory.fresh(measure, name, 0, args.batch, args.dim, args.device)
        row = {
            "peak_megabytes": peak,
            "seconds": seconds,
            "broadcast_peak_megabytes": memory.fresh(measure, name, 1, *small)[0],
            "over_broadcast": times.ratio(name, f"{name}, broadcast"),
            "double": difference(name, torch.double, *small),
            "single": difference(name, torch.float, *small),
        }
        bars[f"{name}: megabytes"] = turns.judge(peak, "at most", 300)
        bars[f"{name}: time, over the broadcast's"] = turns.judge(
            row["over_broadcast"], "at most", 1
        )
        bars[f"{name}: gradient, in double precision"] = turns.judge(row["double"], "at most", 1e-6)
        print(name, *(f"{key} {value:.3g}" for key, value in row.items()), flush=True)
        rows[name] = row
    print(*(f"{key}: {value}" for key, value in bars.items()), sep="\n")
    results.write(args.json, {"machine": machine, "bars": bars, "rows": rows})


if __name__ == "__main__":
    main()
