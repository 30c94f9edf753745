"""Measuring an objective over data."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vaekit import _checks, datasets
from vaekit.objectives import ImportanceWeighted, Objective, Term
from vaekit.training.how import How, Precision, check_precision
from vaekit.training.randomness import set_seeds
from vaekit.vae import VAE, dtype_of, evaluating

__all__ = ["evaluate", "measuring"]


def evaluate(
    model: VAE,
    objective: Objective | Term,
    data: Any,
    *,
    batch_size: int = 128,
    pairs: bool | None = None,
    samples: int | None = None,
    corruption: Callable[[Tensor], Tensor] | None = None,
    precision: Precision | None = None,
    metrics: Mapping[str, Any] | None = None,
    step: int = 0,
    seed: int = 0,
) -> dict[str, float]:
    """Measure an objective over data, in evaluation mode and without touching the model.

    Each draw of z is seeded, and torch's generators are left as they were, so that two calls agree
    and training goes on as if there had been none. One draw for each element: the estimate of the
    negative ELBO is unbiased.

    Args:
        model: The model.
        objective: What to measure.
        data: As for `fit`.
        batch_size: How many elements a batch has, where the data come unbatched; statistics of a
            batch depend on it.
        pairs: As for `fit`.
        samples: As for `fit`.
        corruption: As for `fit`.
        precision: As for `fit`.
        metrics: As for `fit`: what they compute is added to what is returned.
        step: The training step, for the schedules.
        seed: Of the draws.

    Returns:
        ``"loss"`` and each named term without its weight: means over the elements, in nats.

    Raises:
        TypeError: If the data are none that can be gone through, or a metric is none.
        ValueError: If there are none, or a metric is called as a term is.

    Example:
        >>> model, objective = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> _, test = vk.datasets.digits(binarize="threshold")
        >>> list(evaluate(model, objective, test))
        ['loss', 'reconstruction', 'kl']
    """
    objective = check_parts(model, objective)
    dtype = dtype_of(model)
    check_precision(precision, dtype)
    how = How(check_samples(objective, samples), corruption, precision)
    conditional = model.takes_context
    metrics = _as_metrics(metrics, objective, device_of(model))
    updates = [_update_of(metric) for metric in metrics.values()]
    sums = Sums()
    graph = any(term.needs_graph for term, _ in objective.pairs)
    with (
        measuring(model, seed) as device,
        evaluating(objective),
        torch.set_grad_enabled(graph),
        dataset_size(objective, datasets.size(data)),
        _by_themselves(metrics),
    ):
        for raw in datasets.loader(data, batch_size, dtype=dtype):
            batch = datasets.unpack(raw, pairs=pairs, dtype=dtype)
            context = context_of(batch, device) if conditional else None
            out = how(model, batch.x.to(device), context)
            with nullcontext() if batch.target is batch.x else _checks.calling("x", "target"):
                loss = objective(out, batch.target.to(device), step)
            numbers = read_numbers([loss.total, *loss.terms.values()])
            sums.add(["loss", *loss.terms], numbers, len(batch.x))
            for update in updates:
                x_hat = out.x_hat if samples is None else out.x_hat.mean(0)
                update(x_hat.detach(), batch.target.to(device))
        if not sums.count:
            raise ValueError(_checks.expected("data", "at least one batch", "none"))
        found = sums.means()
        for name, metric in metrics.items():
            found |= _named(name, metric.compute())
    return found


def _as_metrics(
    given: Mapping[str, Any] | None, objective: Objective, device: torch.device
) -> Mapping[str, Any]:
    """Make metrics ready for data on a device."""
    check_metrics(given, objective)
    for metric in (given or {}).values():
        metric.reset()
        if isinstance(metric, nn.Module):
            metric.to(device)
    return given or {}


def check_metrics(given: Any, objective: Objective) -> None:
    """Say so where metrics are none, or one is called as a term is."""
    if not isinstance(given, Mapping | None):
        what = "metrics by name, {name: metric}"
        raise TypeError(_checks.expected("metrics", what, repr(given)))
    taken = ["loss", *(name for term, _ in objective.pairs for name in term.names)]
    for name, metric in (given or {}).items():
        lacking = [each for each in ("update", "compute", "reset") if not hasattr(metric, each)]
        if lacking:
            what = "metrics with update, compute and reset, as those of torchmetrics"
            raise TypeError(_checks.expected("metrics", what, repr(metric)))
        _checks.require(name not in taken, "metrics", "other names than the terms'", repr(name))


@contextmanager
def _by_themselves(metrics: Mapping[str, Any]) -> Iterator[None]:
    """Keep metrics of torchmetrics from waiting for other processes, which may not measure."""
    tell = "distributed_available_fn"  # by which they ask whether there are others
    modules = [metric for metric in metrics.values() if isinstance(metric, nn.Module)]
    parts = [part for each in modules for part in each.modules() if hasattr(part, tell)]
    before = [getattr(part, tell) for part in parts]
    try:
        for part in parts:
            setattr(part, tell, lambda: False)
        yield
    finally:
        for part, asked in zip(parts, before, strict=True):
            setattr(part, tell, asked)


def _update_of(metric: Any) -> Callable[[Tensor, Tensor], Any]:
    """Return what shows a metric reconstructions and targets: as pairs, or as two sets (FID)."""
    update: Callable[..., Any] = metric.update
    try:
        of_sets = "real" in inspect.signature(update).parameters
    except (TypeError, ValueError):  # what is not written in Python
        of_sets = False

    def update_sets(x_hat: Tensor, target: Tensor) -> None:
        update(target, real=True)
        update(x_hat, real=False)

    return update_sets if of_sets else update


def _named(name: str, value: Any) -> dict[str, float]:
    """Name each number that a metric computes: one alone as the metric, several by what they are.

    Raises:
        TypeError: If there is something else than numbers.
    """
    if isinstance(value, Mapping):
        return {
            f"{name}_{key}": number for key, part in value.items() for number in _one(name, part)
        }
    if isinstance(value, tuple | list):
        return {
            f"{name}_{i}": number for i, part in enumerate(value) for number in _one(name, part)
        }
    return dict(zip([name], _one(name, value), strict=True))


def _one(name: str, value: Any) -> list[float]:
    try:
        return [float(value)]
    except (TypeError, ValueError, RuntimeError) as error:
        what = f"one that computes a number, or several that have names ({name!r})"
        got = f"{type(value).__name__}{list(getattr(value, 'shape', []))}"
        raise TypeError(_checks.expected("metrics", what, got)) from error


@contextmanager
def measuring(model: VAE, seed: int) -> Iterator[torch.device]:
    """Put a model into evaluation mode and seed the draws, and leave both as they were.

    Args:
        model: The model; its device is what is yielded.
        seed: Of torch's generators of the processor and of that device.
    """
    if not isinstance(model, VAE):
        raise TypeError(_checks.expected("model", "a VAE", type(model).__name__))
    device = device_of(model)
    devices = [device] if device.type not in ("cpu", "mps") else []
    fork = torch.random.fork_rng(devices, device_type=device.type if devices else "cuda")
    with evaluating(model), fork:
        set_seeds(device, seed)
        yield device


def device_of(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


@dataclass
class Sums:
    """Running means over elements, in double precision."""

    count: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, names: Sequence[str], numbers: Sequence[float], count: int) -> None:
        self.count += count
        for name, value in zip(names, numbers, strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + value * count

    def means(self) -> dict[str, float]:
        return {name: total / self.count for name, total in self.sums.items()}


def check_samples(objective: Objective, samples: int | None) -> int | None:
    needing = [term for term, _ in objective.pairs if term.needs_draws]
    if samples is None and needing:
        what = f"a number of draws, as {needing[0]!r} takes several"
        raise ValueError(_checks.expected("samples", what, None))
    if samples is None:
        return None
    grouped = [term for term in needing if isinstance(term, ImportanceWeighted)]
    groups = math.lcm(*(term.groups for term in grouped))
    if _checks.positive_int("samples", samples) % groups:
        what = f"a multiple of {groups}, the groups of {grouped[0]!r}"
        raise ValueError(_checks.expected("samples", what, samples))
    return samples


def context_of(batch: datasets.Batch, device: torch.device) -> Tensor:
    if batch.y is None:
        what = "batches (x, y), whose y is the context that the model takes"
        raise ValueError(_checks.expected("data", what, "batches without y"))
    return torch.as_tensor(batch.y).to(device)


def check_parts(model: Any, objective: Any) -> Objective:
    if not isinstance(model, VAE):
        raise TypeError(_checks.expected("model", "a VAE", type(model).__name__))
    if isinstance(objective, Term):
        return Objective((objective, 1))
    if not isinstance(objective, Objective):
        what = "an objective, like vk.Reconstruction() + vk.KL()"
        raise TypeError(_checks.expected("objective", what, type(objective).__name__))
    return objective


def without_size(objective: Objective) -> list[Any]:
    """List the terms that need the number of elements and were not given it."""
    terms = [term for term in objective.terms if hasattr(term, "run_size")]
    return [each for each in terms if each.dataset_size is None and each.estimator != "exact"]


@contextmanager
def dataset_size(objective: Objective, size: int | None) -> Iterator[None]:
    """Tell the terms the number of elements while the data are gone through."""
    terms = without_size(objective)
    before = [term.run_size for term in terms]
    try:
        for term in terms:
            if size is None:
                what = f"a number in {term!r}, since these data do not tell how many they are"
                raise ValueError(_checks.expected("dataset_size", what, None))
            term.run_size = size
        yield
    finally:
        for term, old in zip(terms, before, strict=True):
            term.run_size = old


def read_numbers(scalars: Sequence[Tensor]) -> list[float]:
    """Read scalars, waiting for the device once."""
    if scalars[0].device.type == "cpu":
        return [scalar.item() for scalar in scalars]
    found: list[float] = torch.stack([scalar.detach() for scalar in scalars]).tolist()
    return found
