"""The rows of the history: what happens at the end of each."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from vaekit.objectives import Objective
from vaekit.training.history import History
from vaekit.training.measures import Sums
from vaekit.training.world import World
from vaekit.vae import VAE

__all__ = ["TrainingState"]

_T = TypeVar("_T")

Callback = Callable[["TrainingState"], bool | None]


@dataclass(frozen=True)
class TrainingState:
    """What a callback is given at the end of each row of the history.

    Attributes:
        model: The model in training; with ``ema``, its copy of averaged weights.
        objective: The objective.
        optimizer: The optimiser.
        history: All rows, the newest included.
        step: How many steps were taken.
        epoch: How many epochs were begun.

    Example:
        >>> def enough(state: TrainingState) -> bool:
        ...     return state.step >= 3 or state.history["loss"][-1] < 1
        >>> model, objective = vk.recipes.vae(vk.likelihoods.Gaussian(3), latent_dim=2)
        >>> options = {"steps": 10, "validate_every": 1, "progress": False}
        >>> history = vk.fit(model, objective, torch.randn(64, 3), callbacks=[enough], **options)
        >>> history.step, history.stopped
        ([1, 2, 3], 'callback')
    """

    model: VAE
    objective: Objective
    optimizer: Optimizer
    history: History
    step: int
    epoch: int


@dataclass
class Rows:
    """Adds rows to the history: measures, keeps the best weights, asks the callbacks."""

    model: VAE
    trained: VAE
    objective: Objective
    optimizer: Optimizer
    history: History
    measure: Callable[[int], dict[str, float] | None]
    plateau: ReduceLROnPlateau | None
    patience: int | None
    callbacks: Sequence[Callback]
    world: World
    device: torch.device
    spread: bool
    best: dict[str, Any] | None = None
    best_of_terms: dict[str, Any] | None = None
    _aims: list[float] = field(default_factory=list)  # of the terms, in the best row
    _sums: Sums = field(default_factory=Sums)
    _started: float = field(default_factory=time.perf_counter)
    _closed_at: int = 0

    def __post_init__(self) -> None:
        inner = (term.schedules().values() for term, _ in self.objective.pairs)
        self._inner = [each for found in inner for each in found if callable(each)]

    def add(self, names: Sequence[str], numbers: Sequence[float], count: int) -> None:
        """Add a batch to the row under way."""
        self._sums.add(names, numbers, count)

    def close(self, step: int, epoch: int, part: float) -> bool:
        """End the row after a part of an epoch; tell whether training is to stop."""
        if step == self._closed_at:
            return False
        history, train = self.history, self._sums.means()
        self.world.level(self.trained, self.model, device=self.device)
        measured = self._asked(lambda: self.measure(step - 1))
        aims = [schedule(step - 1) for schedule in self._inner]
        history.add(
            step=step,
            epoch=epoch - 1 + part,
            seconds=time.perf_counter() - self._started,
            train=train,
            validation=measured,
            weights=self.objective.weights(step - 1),
            comparable=aims == self._aims,
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
        )
        self._sums, self._started, self._closed_at = Sums(), time.perf_counter(), step
        if history.best == len(history) - 1:
            self._aims = aims
        if self.plateau is not None:
            self.plateau.step((measured or train)["loss"])
        if self.patience is not None and history.best == len(history) - 1:
            self.best = copy.deepcopy(self.model.state_dict())
            self.best_of_terms = copy.deepcopy(self.objective.state_dict())
        state = TrainingState(self.model, self.objective, self.optimizer, history, step, epoch)
        if self._asked(lambda: True in [callback(state) for callback in self.callbacks]):
            history.stopped = "callback"
        elif self._out_of_patience():
            history.stopped = "early"
        self._set_alike()
        self.trained.train()
        return history.stopped != "finished"

    def state_dict(self) -> dict[str, Any]:
        """Return what is under way, and the best weights; the history is written beside it."""
        return {
            "sums": vars(self._sums),
            "seconds": time.perf_counter() - self._started,
            "closed_at": self._closed_at,
            "best": self.best,
            "best of terms": self.best_of_terms,
            "aims": self._aims,
        }

    def load_state_dict(self, state: dict[str, Any], history: dict[str, Any]) -> None:
        """Go on with a row, and with the history until then."""
        vars(self.history).update(history)
        self._sums = Sums(**state["sums"])
        self._started = time.perf_counter() - state["seconds"]
        self._closed_at, self.best = state["closed_at"], state["best"]
        # Which the first checkpoints of version 0.1 do not hold.
        self.best_of_terms, self._aims = state.get("best of terms"), state.get("aims", [])
        self.history.stopped = "early" if self._out_of_patience() else "finished"

    def _asked(self, ask: Callable[[], _T]) -> _T:
        """Return what the first process finds; all look where each has a piece of the model."""
        if self.spread:
            found = self.world.together(ask, self.device)
            return self.world.agreed(lambda: found)
        return self.world.agreed(ask)

    def _set_alike(self) -> None:
        """Give all processes what the callbacks of the first have set: rates, and what is held."""
        if self.world.size == 1 or self.spread:  # where they are called in each
            return
        groups, parameters = self.optimizer.param_groups, [*self.trained.parameters()]
        own = [{key: group[key] for key in group if key != "params"} for group in groups]
        said = own, [parameter.requires_grad for parameter in parameters]
        settings, learned = self.world.agreed(lambda: said)
        for group, values in zip(groups, settings, strict=True):
            group.update(values)
        for parameter, learns in zip(parameters, learned, strict=True):
            parameter.requires_grad_(learns)

    def _out_of_patience(self) -> bool:
        rows, best = len(self.history), self.history.best or 0
        return self.patience is not None and rows > self.patience + best
