"""What training measures, and the error of a loss that is not finite."""

import copy
import math
import platform
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from vaekit import _checks
from vaekit._version import __version__

__all__ = ["History", "NonFiniteLossError"]

Stopped = Literal["finished", "interrupted", "early", "callback"]


class NonFiniteLossError(ArithmeticError, ValueError):
    """The loss, or what it is made of, became infinite or NaN.

    The model's parameters are as they were before that step, unless it is one of them that is not
    finite: then a gradient was not, though the loss was, and that step or one before it took it.
    Such parameters are neither measured nor written to a checkpoint.

    Attributes:
        step: The step, counted from 0.
        term: What is not finite: the first such term, ``"loss"`` if only their sum is not, or what
            holds the values: ``"x"``, ``"mu"``, a parameter's name.
        batch_index: The batch's index in its epoch, counted from 0.
        history: What was measured until then.

    Example:
        >>> model, objective = vk.recipes.vae(vk.likelihoods.Gaussian(3), latent_dim=2)
        >>> try:
        ...     vk.fit(model, objective, [torch.full((8, 3), torch.nan)], steps=1, progress=False)
        ... except NonFiniteLossError as error:
        ...     print(error.step, error.term)
        0 x
    """

    history: "History"

    def __init__(
        self, step: int, term: str, batch_index: int, what: str, *, weights: bool = False
    ) -> None:
        after = (
            "the model's parameters are as they were before it."
            if term in ("x", "target", "value")
            else "a gradient was infinite or NaN though the loss was not, in this step or one "
            "before it; a checkpoint, where there is one, is from before. Look for a square root, "
            "a logarithm or a division at zero."
            if weights
            else "the model's parameters are as they were before it. Where the data are sound, a "
            "lower learning rate or clip_grad_norm= often helps."
        )
        where = f"This was at step {step}, the batch of index {batch_index} in its epoch; "
        super().__init__(f"{what} {where}{after}")
        self.step, self.term, self.batch_index = step, term, batch_index
        self._what, self._weights = what, weights

    def __reduce__(self) -> tuple[Any, ...]:
        make = partial(type(self), weights=self._weights)
        made_of = (self.step, self.term, self.batch_index, self._what)
        return make, made_of, {"history": getattr(self, "history", None)}


@dataclass
class History:
    """What training measured: a row for each epoch, or for every ``validate_every`` steps.

    Attributes:
        step: How many steps had been taken at the end of each row.
        epoch: How many epochs, in parts of one.
        seconds: How long each row took, validation included.
        train: For ``"loss"`` and each named term the mean over the row's training data, in nats.
        validation: The same over the validation data, where there are any.
        weights: The weight of each named term at the end of each row.
        learning_rate: The learning rate at the end of each row.
        stopped: ``"finished"``, ``"interrupted"``, ``"early"`` or ``"callback"``.
        best: The row of the lowest validation loss since schedules last changed a weight or a term,
            for losses of different objectives are not to be compared; None without validation.
        seed: The seed that was given.
        versions: Of vaekit, torch, numpy and Python.

    Example:
        >>> history = History()
        >>> history.add(step=10, epoch=1.0, seconds=0.1, train={"loss": 5.0, "kl": 1.0})
        >>> history["kl"]
        array([1.])
    """

    step: list[int] = field(default_factory=list)
    epoch: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    train: dict[str, list[float]] = field(default_factory=dict)
    validation: dict[str, list[float]] = field(default_factory=dict)
    weights: dict[str, list[float]] = field(default_factory=dict)
    learning_rate: list[float] = field(default_factory=list)
    stopped: Stopped = "finished"
    best: int | None = None
    seed: int | None = None
    versions: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, term: str) -> npt.NDArray[np.float64]:
        """Return the training values of a term, one for each row, in nats.

        Raises:
            KeyError: If there is no such term.
        """
        if term not in self.train:
            hint = "What was measured on validation data is in history.validation."
            raise KeyError(_checks.expected("term", f"one of {list(self.train)}", repr(term), hint))
        return np.asarray(self.train[term])

    def __len__(self) -> int:
        return len(self.step)

    def __repr__(self) -> str:
        rows = f"{len(self)} rows, {self.step[-1] if self.step else 0} steps"
        last = {f"train {k}": v[-1:] for k, v in self.train.items() if k == "loss"}
        last |= {f"validation {k}": v[-1:] for k, v in self.validation.items() if k == "loss"}
        losses = "".join(f", {name} {value[0]:.2f}" for name, value in last.items() if value)
        return f"History({rows}{losses}, {self.stopped})"

    def add(
        self,
        *,
        step: int,
        epoch: float,
        seconds: float,
        train: dict[str, float],
        validation: dict[str, float] | None = None,
        weights: dict[str, float] | None = None,
        learning_rate: float = math.nan,
        comparable: bool = True,
    ) -> None:
        """Add a row, ``comparable`` where the terms are what they were in the best one."""
        self.step.append(step)
        self.epoch.append(epoch)
        self.seconds.append(seconds)
        self.learning_rate.append(learning_rate)
        for table, row in (
            (self.train, train),
            (self.validation, validation or {}),
            (self.weights, weights or {}),
        ):
            for name, value in row.items():
                table.setdefault(name, []).append(value)
        if validation and (self.best is None or not comparable or self._better_than(self.best)):
            self.best = len(self) - 1

    def _better_than(self, row: int) -> bool:
        """Tell whether the newest row has a lower loss than another, or other weights."""
        if any(weights[-1] != weights[row] for weights in self.weights.values()):
            return True
        return self.validation["loss"][-1] < self.validation["loss"][row]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, lists and dictionaries, ready for JSON.

        ``History(**found)`` makes a history of them again.
        """
        return copy.deepcopy(vars(self))


def versions() -> dict[str, str]:
    """Return the versions that training depends on."""
    own = {"vaekit": __version__, "torch": torch.__version__, "numpy": np.__version__}
    return own | {"python": platform.python_version()}
