"""Optimisers: that of the model, and those of what terms train by themselves."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from inspect import signature, unwrap
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from vaekit import _checks
from vaekit.objectives import Objective
from vaekit.vae import VAEOutput

__all__ = [
    "Inner",
    "check_optimizer",
    "check_scheduler",
    "make_optimizer",
    "make_scheduler",
    "take_step",
]


def make_optimizer(
    given: Optimizer | Callable[[Iterable[nn.Parameter]], Optimizer] | None,
    parameters: Sequence[nn.Parameter],
    learning_rate: float,
) -> Optimizer:
    """Return the optimiser that is given or made, or Adam."""
    check_optimizer(given)
    if not any(parameter.requires_grad for parameter in parameters):
        got = "none" + ", for each has requires_grad=False" * bool(parameters)
        raise ValueError(_checks.expected("model", "at least one parameter to train", got))
    if given is not None:
        made = given if isinstance(given, Optimizer) else given(parameters)
        if not isinstance(made, Optimizer):
            what = "a function that makes an optimiser of the parameters"
            raise TypeError(_checks.expected("optimizer", what, f"one that returns {made!r}"))
        check_optimizer(made)
        held = {id(p) for group in made.param_groups for p in group["params"]}
        if held.isdisjoint(map(id, parameters)):
            what = "an optimiser over the model's parameters"
            raise ValueError(_checks.expected("optimizer", what, "one over others"))
        return made
    try:
        return torch.optim.Adam(parameters, learning_rate, fused=True)
    except RuntimeError:  # no fused kernel for this device or dtype
        return torch.optim.Adam(parameters, learning_rate)


def check_optimizer(given: Any) -> None:
    """Say so where it neither is an optimiser nor makes one, or is none that `fit` can step."""
    if given is not None and not callable(given) and not isinstance(given, Optimizer):
        what = "an optimiser, or a function that makes one of the parameters"
        raise TypeError(_checks.expected("optimizer", what, repr(given)))
    kind = type(given) if isinstance(given, Optimizer) else given
    closure = signature(kind.step).parameters.get("closure") if hasattr(kind, "step") else None
    if closure is not None and closure.default is closure.empty:
        what = "one whose step needs no closure, for a batch goes through the model once"
        got = getattr(kind, "__name__", repr(kind))
        raise ValueError(_checks.expected("optimizer", what, got))


def take_step(optimizer: Optimizer) -> None:
    """Take a step; one of torch's own, without what surrounds it where nobody listens.

    Looking for hooks and marking the step for a profiler take a tenth as long as a fused step on
    half a million weights.
    """
    kind = type(optimizer)
    heard = (
        vars(optimizer).get("step")  # of a scheduler, or somebody's own
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
        or optimizer.defaults.get("differentiable")
        or torch._C._autograd._profiler_enabled()
    )
    if heard or not kind.__module__.startswith("torch.optim."):
        optimizer.step()
        return
    with torch.no_grad():
        _bare(kind.step)(optimizer)


_bare = cache(unwrap)  # which looks for wrappers


def make_scheduler(given: Any, optimizer: Optimizer) -> Any:
    """Return the scheduler that is given or made, over the optimiser in use, or None."""
    made = given(optimizer) if callable(given) else given
    if made is None:
        return None
    check_scheduler(made, makes=False)
    if getattr(made, "optimizer", optimizer) is not optimizer:
        what = "one over the optimiser in use, or a function that makes one of it"
        raise ValueError(_checks.expected("scheduler", what, "one over another optimiser"))
    return made


def check_scheduler(given: Any, makes: bool = True) -> None:
    """Say so where it is no scheduler, nor a function where that may make one."""
    if given is not None and not hasattr(given, "step") and not (makes and callable(given)):
        what = "a scheduler, or a function that makes one of the optimiser"
        raise TypeError(_checks.expected("scheduler", what, repr(given)))


class Inner:
    """Trains the parameters that terms own, each by what it minimises itself."""

    def __init__(self, objective: Objective) -> None:
        made = [(term, term.inner_optimizer()) for term, _ in objective.pairs]
        self.terms = [(term, optimizer) for term, optimizer in made if optimizer is not None]

    def without(self, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """Leave out the parameters trained here."""
        groups = (group for _, optimizer in self.terms for group in optimizer.param_groups)
        own = {id(parameter) for group in groups for parameter in group["params"]}
        return [parameter for parameter in parameters if id(parameter) not in own]

    def step(self, out: VAEOutput, x: Tensor) -> None:
        """Take a step of each, on draws of their own and without a gradient to the model.

        They are drawn from the posteriors of the step's own pass, so that nothing which moves as
        the model is called (statistics of batches, a codebook) moves twice.
        """
        for term, optimizer in self.terms:
            optimizer.zero_grad()
            loss = term.inner_loss(out, x)
            if loss is not None:
                loss.backward()
                optimizer.step()
