"""Whole steps as CUDA graphs, which a GPU repeats without being told of each operation."""

import math
import time
import traceback
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from vaekit import _checks
from vaekit.objectives import Objective
from vaekit.training import sharding
from vaekit.training.passes import check_finite
from vaekit.vae import dtype_of

__all__ = ["Graphs"]

_MOST_SHAPES = 8  # batches of others are taken by hand
_MOST_UNREAD = 256  # steps
_WAIT = 0.1  # seconds between two looks at the numbers, where steps are short
_FUSED = (torch.optim.Adam, torch.optim.AdamW)


class Graphs:
    """Takes whole steps by graphs: forward, backward, clipping, the optimiser, averaged weights.

    There is one graph for each shape of batch, captured when the shape comes for the second time.
    Nothing of a step waits for the processor, so the numbers stay on the device until they are
    read, some steps at once. From the first that is not finite on, the optimiser changes nothing
    (its kernel skips a step whose ``found_inf`` is set), so that the parameters are still those
    before that step when the numbers are read.

    What is set between steps is handed to the graph by tensors: the learning rate, the weights of
    the terms. Where anything else of the optimiser changes, the step is taken by hand.

    Args:
        forward: Returns the named terms of ``(x, target, context)``.
        model: The model.
        objective: The objective.
        optimizer: The optimiser.
        cleared: The parameters whose gradients are made anew at each step.
        clip: What the gradient's norm is cut to; None leaves it.
        averaged: The averaged weights, where there are any.
        device: The GPU.

    Raises:
        ValueError: If the optimiser is none whose step can be captured and skipped.
    """

    def __init__(
        self,
        forward: Callable[[Tensor, Tensor, Tensor | None], Mapping[str, Tensor]],
        model: nn.Module,
        objective: Objective,
        optimizer: Optimizer,
        *,
        cleared: Sequence[nn.Parameter],
        clip: float | None,
        averaged: AveragedModel | None,
        device: torch.device,
    ) -> None:
        fused = all(group.get("fused") for group in optimizer.param_groups)
        what = "Adam or AdamW with fused=True, where cuda_graph is set"
        got = f"{type(optimizer).__name__} with fused={fused}"
        _checks.require(isinstance(optimizer, _FUSED) and fused, "optimizer", what, got)
        self._forward, self._model, self._objective = forward, model, objective
        self._optimizer, self._cleared, self._clip = optimizer, cleared, clip
        self._averaged, self._device = averaged, device
        self._constant = objective._constant is not None
        self.names = ["loss", *objective.weights()]
        self._graphs: dict[Hashable, _Graph] = {}
        self._seen: set[Hashable] = set()
        self._settings: list[Any] = []
        self._held: list[Any] = []
        self._moved = False
        self._pool = torch.cuda.graph_pool_handle()  # graphs that take turns share their memory
        self._weighed: list[float] = []
        self._count, self._room, self._since = 0, 1, 0.0
        # What a graph reads and writes; the last two numbers tell whether x and target are finite.
        wide = torch.promote_types(dtype_of(model), torch.float32)
        self._weights = torch.zeros(len(self.names) - 1, dtype=wide, device=device)
        self._rates = [torch.zeros((), device=device) for _ in optimizer.param_groups]
        self._set = [math.nan] * len(self._rates)
        shape = _MOST_UNREAD, len(self.names) + 2
        self._numbers = torch.zeros(shape, dtype=torch.float64, device=device)
        self._at = torch.zeros(1, dtype=torch.long, device=device)
        self._spoilt = torch.zeros((), device=device)

    @property
    def full(self) -> bool:
        """Whether the numbers should be read before another step."""
        return self._count >= self._room

    def look_again(self) -> None:
        """Look whether tensors lie elsewhere, before the next step: a caller had the model."""
        self._moved = True

    def step(self, x: Tensor, target: Tensor, context: Tensor | None, step: int) -> bool:
        """Take a step by a graph; False where it has to be taken by hand."""
        self._forget_what_changed()
        shape = tuple(map(_shape, (x, None if target is x else target, context)))
        graph = self._graphs.get(shape)
        if graph is None:
            if shape not in self._seen or len(self._graphs) == _MOST_SHAPES:
                self._seen.add(shape)
                return False
            graph = self._graphs[shape] = self._captured(x, target, context)
        self._objective.set_step(step)
        self._hand_over(step)
        if not self._count:
            self._since = time.perf_counter()
        graph.replay(x, target, context)
        if self._averaged is not None:
            self._averaged.n_averaged.add_(1)  # which the processor holds
        self._count += 1
        return True

    def optimize(self) -> None:
        """Take a step of the optimiser by hand, at the rates that a graph would take it at."""
        self._set_rates()
        self._optimize()

    def _optimize(self) -> None:
        groups = self._optimizer.param_groups
        rates = [group["lr"] for group in groups]
        try:
            for group, rate in zip(groups, self._rates, strict=True):
                group["lr"] = rate
            self._optimizer.step()
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate

    def read(self) -> list[list[float]]:
        """Read what the steps left since it was read, for `checked` to take."""
        if not self._count:
            return []
        rows: list[list[float]] = self._numbers[: self._count].tolist()
        self._at.zero_()
        each = (time.perf_counter() - self._since) / self._count
        self._count = 0
        self._room = min(max(int(_WAIT / max(each, 1e-9)), 1), _MOST_UNREAD)
        return rows

    def checked(self, read: Sequence[float]) -> Sequence[float]:
        """Return the loss and the terms of what was read of a step.

        Raises:
            NotFiniteError: If one is not finite, naming the data, the weights, or else the term.
        """
        *numbers, x, target = read
        if not all(map(math.isfinite, numbers)):
            for argument, told in (("x", x), ("target", target)):
                if not math.isfinite(told):
                    what = _checks.expected(argument, "finite values", "infinite ones, or NaN")
                    raise _checks.NotFiniteError(what)
        check_finite(self._model, self.names, numbers)
        return numbers

    def _forget_what_changed(self) -> None:
        """Drop the graphs where something changed that they do not look up."""
        settings = [_settings(group) for group in self._optimizer.param_groups]
        stale = settings != self._settings
        if self._moved and self._graphs:
            stale = stale or self._state() != self._held
        if stale:
            self._graphs.clear()
            self._seen.clear()
        self._settings, self._moved = settings, False

    def _state(self) -> list[Any]:
        """Return where all tensors lie that a graph changes, and what of the model it fixes."""
        states = self._optimizer.state.values()
        held = [each for state in states for each in state.values() if isinstance(each, Tensor)]
        tensors = [*self._model.parameters(), *self._model.buffers(), *held]
        learns = [each.requires_grad for each in self._cleared]
        modes = [module.training for module in self._model.modules()]
        return [*(each.data_ptr() for each in tensors), *learns, *modes]

    def _hand_over(self, step: int) -> None:
        """Give the graph what schedules say of this step."""
        if not self._constant:
            weighed = [*self._objective.weights(step).values()]
            if weighed != self._weighed:
                self._weights.copy_(torch.tensor(weighed), non_blocking=True)
                self._weighed = weighed
        self._set_rates()

    def _set_rates(self) -> None:
        for index, group in enumerate(self._optimizer.param_groups):
            rate = float(group["lr"])
            if rate != self._set[index]:
                self._rates[index].fill_(rate)
                self._set[index] = rate

    def _captured(self, x: Tensor, target: Tensor, context: Tensor | None) -> "_Graph":
        """Capture a step, which does nothing yet."""
        graph, groups = _Graph(x, target, context), self._optimizer.param_groups
        kept = [group["capturable"] for group in groups]
        held: Any = self._optimizer
        try:
            held.found_inf, held.grad_scale = self._spoilt, None
            for group in groups:
                group["capturable"] = True
            with _checks.unvalidated():
                graph.capture(self._step, self._pool)
        except RuntimeError as error:
            raise ValueError(_refusal(error)) from error
        finally:
            del held.found_inf, held.grad_scale
            for group, before in zip(groups, kept, strict=True):
                group["capturable"] = before
        self._held = self._state()
        return graph

    def _step(self, x: Tensor, target: Tensor, context: Tensor | None) -> None:
        """Do what is captured: nothing of it may wait for the device."""
        values = self._forward(x, target, context)
        total = self._total(values)
        total.backward()
        if self._clip is not None:
            sharding.clip(self._cleared, self._clip)
        told = [total, *(values[name] for name in self.names[1:]), x.sum()]
        told.append(told[-1] if target is x else target.sum())
        spoilt = (total.detach().float() * 0).nan_to_num(nan=1)
        self._spoilt.copy_(torch.maximum(self._spoilt, spoilt))
        self._optimize()
        if self._averaged is not None:
            _average(self._averaged, self._model)
        numbers = torch.stack([each.detach() for each in told]).double()
        self._numbers.index_copy_(0, self._at, numbers[None])
        self._at.add_(1)

    def _total(self, values: Mapping[str, Tensor]) -> Tensor:
        if self._constant:
            return self._objective.total(values)
        weights = zip(self.names[1:], self._weights.unbind(), strict=True)
        weighed = [weight * values[name] for name, weight in weights]
        return sum(weighed[1:], weighed[0])


class _Graph:
    """A captured step, and the tensors that it reads a batch from."""

    def __init__(self, x: Tensor, target: Tensor, context: Tensor | None) -> None:
        self._x = x.clone()
        self._target = self._x if target is x else target.clone()
        self._context = None if context is None else context.clone()
        self._graph = torch.cuda.CUDAGraph()

    def capture(self, step: Callable[[Tensor, Tensor, Tensor | None], None], pool: Any) -> None:
        """Capture what a step does to the batch."""
        with torch.cuda.device(self._x.device):  # which need not be the current one
            stream = torch.cuda.current_stream()
            generator = torch.cuda.default_generators[stream.device_index]
            try:
                # Other threads, as a loader's that pins memory, may go on.
                with torch.cuda.graph(self._graph, pool, capture_error_mode="thread_local"):
                    step(self._x, self._target, self._context)
            except BaseException:
                # torch leaves both as they were while it captured (pytorch issue 171263).
                torch.cuda.set_stream(stream)
                generator.graphsafe_set_state(generator.clone_state())
                raise

    def replay(self, x: Tensor, target: Tensor, context: Tensor | None) -> None:
        """Take the step, with another batch."""
        self._x.copy_(x, non_blocking=True)
        if self._target is not self._x:
            self._target.copy_(target, non_blocking=True)
        if self._context is not None and context is not None:
            self._context.copy_(context, non_blocking=True)
        self._graph.replay()


def _refusal(error: BaseException) -> str:
    """Word why a step cannot be captured, and let go of what was captured until then."""
    found: BaseException | None = error
    while found is not None:  # the last is what the step itself ran into
        reason = str(found).partition("\n")[0]
        traceback.clear_frames(found.__traceback__)
        found = found.__context__
    what = "False for this model and objective, whose step cannot be captured"
    return _checks.expected("cuda_graph", what, True, f"torch says: {reason}")


def _shape(value: Tensor | None) -> Hashable:
    return None if value is None else (value.shape, value.dtype)


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a group of parameters is captured as it is."""
    return {
        name: id(value) if isinstance(value, Tensor) else value
        for name, value in group.items()
        if name not in ("params", "lr")
    }


def _average(averaged: AveragedModel, model: nn.Module) -> None:
    """Do what ``update_parameters`` does from the second time on, without a look at a number."""
    update: Any = averaged.multi_avg_fn
    update([*averaged.module.parameters()], [*model.parameters()], averaged.n_averaged)
    for mine, its in zip(averaged.module.buffers(), model.buffers(), strict=True):
        mine.detach().copy_(its.detach())
