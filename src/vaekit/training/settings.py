"""What a run is, as plain values: what has to be the same where it is gone on with."""

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from vaekit.architecture import is_plain, plain_arguments

__all__ = ["differs", "of_model", "of_optimizer", "of_scheduler", "said"]

_HOW = ("foreach", "fused", "capturable", "differentiable")  # arithmetic is done
_NOT_OPTIONS = ("self", "optimizer", "last_epoch", "verbose")
_OF_CYCLES = ("total_size", "step_ratio")  # what CyclicLR makes of its step sizes


def of_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    """Tell what an optimiser was made with, but for how its arithmetic is done."""
    given = {name: _plain(each) for name, each in optimizer.defaults.items() if name not in _HOW}
    return {"class": type(optimizer).__name__} | given


def of_scheduler(scheduler: Any) -> dict[str, Any] | None:
    """Tell what a scheduler of torch was made with, as far as it keeps it; of others the class.

    Options are read off attributes that do not move as the scheduler is stepped, for one that was
    used before is another's equal.
    """
    if scheduler is None:
        return None
    told: dict[str, Any] = {"class": type(scheduler).__name__}
    if not type(scheduler).__module__.startswith("torch."):
        return told
    groups = scheduler.optimizer.param_groups
    for name in (*inspect.signature(type(scheduler).__init__).parameters, *_OF_CYCLES):
        places = [each for each in (name, f"{name}s", f"_{name}") if hasattr(scheduler, each)]
        if name in _NOT_OPTIONS:
            continue
        if name == "schedulers":
            told[name] = [said(of_scheduler(each)) for each in scheduler._schedulers]
        elif places:
            told[name] = _plain(getattr(scheduler, places[0]))
        elif any(name in group for group in groups):  # as OneCycleLR keeps its highest rate
            told[name] = [_plain(group.get(name)) for group in groups]
    return {name: value for name, value in told.items() if is_plain(value)}


def of_model(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Tell what each part of a model is made with, by its place, as far as it tells.

    Of classes of the user's own, and of parts that keep a state beside their tensors (a temperature
    that is annealed), the class alone is told: what they keep may move.
    """
    parts = dict(model.named_modules(prefix="model"))
    if any(isinstance(part, nn.modules.lazy.LazyModuleMixin) for part in parts.values()):
        return {}  # which are other classes once they were called
    found: dict[str, dict[str, Any]] = {}
    for place, part in [*parts.items()][1:]:
        found[place] = {"class": type(part).__name__}
        moves = type(part).get_extra_state is not nn.Module.get_extra_state
        if type(part).__module__.startswith(("torch.", "vaekit.")) and not moves:
            found[place] |= plain_arguments(part)
        if isinstance(part, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            found[place]["parts"] = [*part._modules]
    return found


def differs(before: Any, now: Any) -> bool:
    """Tell whether a setting is another, as far as both versions wrote it down."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return any(differs(before[name], now[name]) for name in before.keys() & now.keys())
    if isinstance(before, Sequence) and isinstance(now, Sequence) and not isinstance(now, str):
        return len(before) != len(now) or any(map(differs, before, now))
    if isinstance(now, Mapping):
        return before not in (now["class"], said(now))  # as older versions wrote it
    return bool(before != now) and repr(before) != repr(now)  # NaN is as it was


def said(value: Any) -> str:
    """Word a setting."""
    if isinstance(value, Mapping):
        options = ", ".join(f"{key}={each}" for key, each in value.items() if key != "class")
        return f"{value['class']}({options})"
    return repr(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Counter):
        return sorted(value.elements())
    if isinstance(value, list | tuple):
        return type(value)([_plain(each) for each in value])
    return value
