"""What `fit` is given, held to what it takes, before anything is made or written."""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from vaekit import _checks, datasets
from vaekit.datasets.batches import element_shape, target_shape
from vaekit.likelihoods import Likelihood
from vaekit.objectives import Objective
from vaekit.training.checkpoints import Checkpoints
from vaekit.training.measures import check_metrics
from vaekit.training.optimizers import check_optimizer, check_scheduler
from vaekit.training.world import World
from vaekit.vae import VAE

__all__ = [
    "as_checkpoints",
    "check_captured",
    "check_data",
    "check_length",
    "check_options",
    "check_spread",
    "say_ignored",
]


def check_length(epochs: int | None, steps: int | None, data: Any) -> None:
    """Ask for either epochs or steps, and of one epoch alone where data end."""
    if (epochs is None) == (steps is None):
        got = "neither" if epochs is None else "both"
        raise ValueError(_checks.expected("epochs", "either epochs= or steps=", got))
    _checks.positive_int(*(("epochs", epochs) if steps is None else ("steps", steps)))
    if epochs is not None and epochs > 1 and isinstance(data, Iterator):
        what = "data that can be gone through again, where epochs is above 1"
        hint = "Give steps= instead, or an object with __iter__."
        raise ValueError(_checks.expected("data", what, type(data).__name__, hint))


def check_options(
    *,
    callbacks: Sequence[Any],
    patience: int | None,
    validation: Any,
    measures: bool,
    metrics: Mapping[str, Any] | None,
    validate_every: int | None,
    accumulate: int,
    ema: float | None,
    clip_grad_norm: float | None,
    learning_rate: float | None,
    optimizer: Any,
    scheduler: Any,
    corruption: Callable[[Tensor], Tensor] | None,
    objective: Objective,
    shard: bool | str,
    **switches: Any,
) -> None:
    """Look at what can be told to be wrong by itself.

    Of several processes, those that do not measure the validation data may have none.
    """
    if not isinstance(shard, bool | str):
        what = "True, False, or the name of a device"
        raise TypeError(_checks.expected("shard", what, repr(shard)))
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise TypeError(_checks.expected(name, "True or False", repr(value)))
    check_optimizer(optimizer)
    check_scheduler(scheduler)
    check_metrics(metrics, objective)
    for callback in callbacks if isinstance(callbacks, Sequence) else [None]:
        if not callable(callback):
            what = "a sequence of functions"
            raise TypeError(_checks.expected("callbacks", what, repr(callbacks)))
    if patience is not None:
        _checks.positive_int("patience", patience)
        if validation is None and measures:
            raise ValueError(_checks.expected("validation", "data, where patience is set", None))
    if metrics is not None and validation is None and measures:
        raise ValueError(_checks.expected("validation", "data, where metrics are given", None))
    if isinstance(validation, Iterator):
        what = "data that can be gone through again"
        raise TypeError(_checks.expected("validation", what, type(validation).__name__))
    if validate_every is not None:
        _checks.positive_int("validate_every", validate_every)
    _checks.positive_int("accumulate", accumulate)
    if ema is not None:
        what = "a decay between 0 and 1, such as 0.999"
        _checks.require(isinstance(ema, Real) and 0 < ema < 1, "ema", what, repr(ema))
    if clip_grad_norm is not None:
        _checks.number("clip_grad_norm", clip_grad_norm, above=0)
    if learning_rate is not None:
        _checks.number("learning_rate", learning_rate, above=0)
        what = "None beside an optimizer, which has a rate of its own"
        _checks.require(optimizer is None, "learning_rate", what, learning_rate)
    if corruption is not None and not callable(corruption):
        raise TypeError(_checks.expected("corruption", "a function of x", repr(corruption)))


def as_checkpoints(
    given: str | PathLike[str] | Checkpoints | None, resume: bool
) -> Checkpoints | None:
    """Return where a run is written down, if anywhere."""
    if resume and given is None:
        raise ValueError(_checks.expected("checkpoint", "a folder, where resume=True", None))
    if isinstance(given, str | PathLike):
        given = Checkpoints(given)
    if not isinstance(given, Checkpoints | None):
        what = "a folder, or Checkpoints"
        raise TypeError(_checks.expected("checkpoint", what, repr(given)))
    if given is not None and Path(given.folder).is_file():
        raise FileExistsError(_checks.expected("checkpoint", "a folder", f"a file, {given.folder}"))
    return given


def say_ignored(precision: Any, accumulate: int, shard: Any) -> None:
    """Warn where ``accelerate launch`` was asked for what `fit` is to be asked for."""
    asked = {
        "precision": (precision, os.environ.get("ACCELERATE_MIXED_PRECISION", "no"), "no"),
        "accumulate": (
            accumulate > 1,
            os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"),
            "1",
        ),
        "shard": (shard, os.environ.get("ACCELERATE_USE_FSDP", "false").lower(), "false"),
    }
    for name, (given, launched, plain) in asked.items():
        if launched != plain and not given:
            what = f"{name}: accelerate launch was asked for it ({launched}), and fit does not look"
            warnings.warn(f"{what} there; give it {name}=.", stacklevel=3)


def check_spread(
    objective: Objective,
    optimizer: Any,
    ema: float | None,
    precision: Any,
    channels_last: bool,
    compile: bool,
) -> None:
    """Refuse what does not go with weights that are spread over the processes."""
    bending = [term for term, _ in objective.pairs if term.needs_graph]
    if bending:  # back through layers that are taken apart again
        what = f"False for {bending[0]!r}, which takes gradients of the decoder"
        raise ValueError(_checks.expected("shard", what, True))
    if isinstance(optimizer, Optimizer):
        what = "a function that makes one, for the parameters change as they are spread"
        raise ValueError(_checks.expected("optimizer", what, type(optimizer).__name__))
    refused = {"ema": (ema, None), "channels_last": (channels_last, False)}
    for name, (given, plain) in (refused | {"compile": (compile, False)}).items():
        _checks.require(given == plain, name, f"{plain}, where shard is set", given)
    what = "None or 'bf16', where shard is set"
    _checks.require(precision != "fp16", "precision", what, repr(precision))


def check_captured(
    objective: Objective,
    device: torch.device,
    world: World,
    accumulate: int,
    precision: Any,
    recompute: bool,
) -> None:
    """Refuse what does not go with captured steps."""
    owning = [term for term, _ in objective.pairs if [*term.parameters()]]
    refused = {
        f"on {device.type}": device.type != "cuda",
        "in several processes": world.size > 1,
        f"with accumulate={accumulate}": accumulate > 1,
        "with precision='fp16'": precision == "fp16",
        "with recompute=True": recompute,
        f"with {owning[0]!r}, which trains parameters of its own" if owning else "": bool(owning),
    }
    for where, holds in refused.items():
        _checks.require(not holds, "cuda_graph", f"False {where}", True)


def check_data(
    model: VAE, objective: Objective, data: Any, validation: Any, batch_size: int, divided: bool
) -> None:
    """Look at data and validation data, as far as they tell of themselves."""
    likelihood, shape = getattr(model.decoder, "likelihood", None), target_shape(data)
    if isinstance(likelihood, Likelihood) and shape is not None:
        what = f"elements of shape {tuple(likelihood.shape)}, as the likelihood has"
        _checks.require(shape == likelihood.shape, "data", what, tuple(shape))
    if validation is not None:
        datasets.loader(validation, batch_size, argument="validation")
        one, other = element_shape(data), element_shape(validation)
        if one is not None and other is not None and one != other:
            what = f"elements of shape {tuple(one)}, as data has"
            raise ValueError(_checks.expected("validation", what, tuple(other)))
        _check_last_batch(objective, "validation", validation, batch_size)
    if not divided:
        _check_last_batch(objective, "data", data, batch_size)


def _check_last_batch(objective: Objective, argument: str, data: Any, batch_size: int) -> None:
    """Refuse a last batch of one element where a term compares the elements of a batch."""
    comparing = [term for term, _ in objective.pairs if term.compares]
    size = None if isinstance(data, torch.utils.data.DataLoader) else datasets.size(data)
    single = size is not None and size > 1 and (batch_size == 1 or size % batch_size == 1)
    if comparing and single:
        what = f"a size that leaves no batch of one element, for {comparing[0]!r}"
        got = f"{batch_size} for the {size} elements of {argument}"
        raise ValueError(_checks.expected("batch_size", what, got))
