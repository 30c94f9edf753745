"""One step of training: what happens between a batch and the next."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from vaekit import _checks
from vaekit.training import sharding
from vaekit.training.graphs import Graphs
from vaekit.training.history import NonFiniteLossError
from vaekit.training.measures import context_of
from vaekit.training.optimizers import Inner, take_step
from vaekit.training.passes import Passes
from vaekit.training.shares import Share
from vaekit.training.world import World
from vaekit.vae import VAE

__all__ = ["Steps"]

_LEAST_SCALE = 2.0**-16  # 32 halvings from where torch starts: no gradient is that large


@dataclass
class Steps:
    """Takes steps: forward and back, the gradient cut, the optimiser, the average, the rate.

    Attributes:
        model: What is trained.
        passes: Puts the gradients of a batch on the parameters.
        graphs: Takes whole steps where they were captured; None takes all by hand.
        optimizer: Of the model and the objective.
        inner: Of what terms train by themselves.
        cleared: The parameters whose gradients are made anew.
        clip: What the gradient's norm is cut to; None leaves it.
        scaler: What keeps gradients of half precision from vanishing; None leaves them.
        averaged: The average of the weights; None where there is none.
        by_step: A scheduler that advances with every step, or None.
        device: Where batches go.
        world: The processes.
        note: Is told each step's names, numbers and count of elements, in their order.
    """

    model: VAE
    passes: Passes
    graphs: Graphs | None
    optimizer: Optimizer
    inner: Inner
    cleared: Sequence[nn.Parameter]
    clip: float | None
    scaler: torch.amp.GradScaler | None
    averaged: AveragedModel | None
    by_step: Any
    device: torch.device
    world: World
    note: Callable[[Sequence[str], Sequence[float], int], None]
    _unread: list[tuple[int, int, int]] = field(default_factory=list)  # of graphs, in their order

    def __post_init__(self) -> None:
        groups = self.optimizer.param_groups
        self._trained = [parameter for group in groups for parameter in group["params"]]
        self._conditional = self.model.takes_context

    def take(self, share: Share, step: int, index: int, interrupted: bool) -> bool:
        """Take a step.

        Args:
            share: This process's elements.
            step: Which step it is.
            index: Which batch of the epoch it is.
            interrupted: Whether this process was asked to end.

        Returns:
            Whether one of several processes was asked to end.

        Raises:
            NonFiniteLossError: If the data hold NaN or the loss is not finite.
        """
        batch, count, failure = share
        if failure is not None:  # which the others are told with their gradients
            empty = torch.empty(0, device=self.device)
            self.passes(empty, empty, None, step, count, interrupted, failure)
        x = batch.x.to(self.device, non_blocking=True)
        target = x
        if batch.target is not batch.x:
            target = batch.target.to(self.device, non_blocking=True)
        context = context_of(batch, self.device) if self._conditional else None
        for parameter in self.cleared:
            parameter.grad = None
        moved, asked = True, False
        if self.graphs is not None and self.graphs.step(x, target, context, step):
            self._unread.append((step, index, count))
            if self.graphs.full:
                self.read()
        else:
            self.read()
            try:
                names, numbers, out, asked = self.passes(
                    x, target, context, step, count, interrupted
                )
            except _checks.NotFiniteError as error:
                raise self._lost(error, step, index) from error
            moved = self._optimize(step, index)
            if out is not None:
                with self.world.drawing_alike(self.device):
                    self.inner.step(out, target)
            if self.averaged is not None and moved:
                self.averaged.update_parameters(self.model)
            self.note(names, numbers, count)
        if self.by_step is not None and moved:
            self.by_step.step()
        return asked

    def read(self) -> None:
        """Take note of the steps that graphs took."""
        if self.graphs is None or not self._unread:
            return
        for (step, index, count), left in zip(self._unread, self.graphs.read(), strict=True):
            try:
                numbers = self.graphs.checked(left)
            except _checks.NotFiniteError as error:
                raise self._lost(error, step, index) from error
            self.note(self.graphs.names, numbers, count)
        self._unread.clear()

    def look(self, step: int, index: int) -> None:
        """Say so where the last step has spoilt the weights, of any process."""
        self.read()
        self.world.together(lambda: self._look(step, index), self.device)

    def look_again(self) -> None:
        """Have graphs look for tensors where they now lie: a caller had the model."""
        if self.graphs is not None:
            self.graphs.look_again()

    def _look(self, step: int, index: int) -> None:
        for name, parameter in self.model.named_parameters():
            try:
                _checks.finite(name, sharding.piece_of(parameter))
            except _checks.NotFiniteError as error:
                found = str(error)
                before = max(step - 1, 0)
                raise NonFiniteLossError(before, name, index, found, weights=True) from error

    def _say_never_finite(self, step: int, index: int) -> NoReturn:
        """Name a parameter whose gradient is infinite or NaN, and was for many steps."""
        for name, parameter in self.model.named_parameters():
            grad = parameter.grad
            if grad is not None and not grad.isfinite().all():
                what = _checks.expected(f"gradient of {name}", "finite values", "none for 32 steps")
                raise NonFiniteLossError(step, name, index, what, weights=True)
        what = _checks.expected("precision", "gradients that fp16 can hold", "none for 32 steps")
        raise NonFiniteLossError(step, "loss", index, what, weights=True)

    def _lost(self, error: _checks.NotFiniteError, step: int, index: int) -> NonFiniteLossError:
        """Word what is not finite at a step."""
        name = str(error).split(":")[0]
        try:
            if step:
                self._look(step, index)
        except (
            NonFiniteLossError
        ) as earlier:  # a step that spoilt them: what came of it is no cause
            return earlier
        spoilt = name in dict(self.model.named_parameters())
        return NonFiniteLossError(step, name, index, str(error), weights=spoilt)

    def _optimize(self, step: int, index: int) -> bool:
        """Move the parameters, unless a scaled gradient was infinite; tell whether they moved.

        Raises:
            NonFiniteLossError: If gradients are not finite, however little they are scaled.
        """
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.clip is not None:
            sharding.clip(self._trained, self.clip)
        if self.graphs is not None:
            self.graphs.optimize()
        elif self.scaler is None:
            take_step(self.optimizer)
        else:
            before = self.scaler.get_scale()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            after = self.scaler.get_scale()
            if after < min(before, _LEAST_SCALE):
                self._say_never_finite(step, index)
            return after >= before
        return True
