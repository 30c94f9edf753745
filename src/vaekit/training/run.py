"""A run from its first step to its last: epochs, rows, checkpoints, and where it ends."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vaekit import _checks, datasets
from vaekit.datasets.batches import tell_epoch
from vaekit.training.checkpoints import Position, Writer
from vaekit.training.rows import Rows
from vaekit.training.shares import Share, Unpack
from vaekit.training.steps import Steps
from vaekit.training.world import World

__all__ = ["Run", "total_steps"]


@dataclass
class Run:
    """Goes through the data until training is done, from where it stands.

    Attributes:
        loader: The batches.
        shares: What this process takes of them.
        unpack: Finds data, target and labels in a batch.
        stepper: Takes the steps.
        rows: Closes the rows of the history.
        writer: Writes the checkpoints, where there is a folder for them.
        world: The processes.
        epochs: How many there are to be; None where steps are counted.
        steps: How many there are to be; None where epochs are counted.
        validate_every: After how many steps a row ends; None for the end of each epoch.
        step: How many were taken.
        epoch: How many were gone through, or begun.
    """

    loader: Any
    shares: Any
    unpack: Unpack
    stepper: Steps
    rows: Rows
    writer: Writer
    world: World
    epochs: int | None
    steps: int | None
    validate_every: int | None
    step: int
    epoch: int
    _index: int = -1  # of the newest batch in its epoch

    def go(self, interrupted: Callable[[], bool]) -> None:
        """Train until it is done, or was asked to end."""
        done = self._ends() or self.rows.history.stopped == "early"
        while not done:
            done = self._through(interrupted)

    def _ends(self) -> bool:
        return self.step >= (self.steps or math.inf) or self.epoch >= (self.epochs or math.inf)

    def _through(self, interrupted: Callable[[], bool]) -> bool:
        """Go through the data once, or what is left of them; tell whether training is done."""
        self.epoch += 1
        self._index, done, history = self.writer.passed - 1, False, self.rows.history
        tell_epoch(self.loader, self.epoch - 1)
        for index, raw in self.writer.batches(self.shares):
            self._index = index
            share = raw if isinstance(raw, Share) else _whole(self.unpack(raw), index)
            stopping = self.stepper.take(share, self.step, index, interrupted())
            self.step += 1
            done, ended = self.steps is not None and self.step >= self.steps, False
            if self.validate_every is not None and self.step % self.validate_every == 0:
                done = self._close(_part(index, self.loader)) or done
                ended = True
            if stopping or (self.world.size == 1 and interrupted()):
                # As the run now is, for the row that is closed would not have been.
                self._write(self._within())
                history.stopped, done = "interrupted", True
            if done:
                break
            if ended or self.writer.due(self.step):
                self._write(self._within())
        if self._index < 0:
            _say_empty(self.epoch)
            return True
        at = self._within() if done else Position(self.step, self.epoch)
        part = _part(self._index, self.loader) if done else 1.0
        done = done or self._ends()
        if done or self.validate_every is None:
            cut_off = history.stopped == "interrupted"
            done = self._close(part) or done
            if cut_off:
                history.stopped = "interrupted"
            else:
                self._write(at)
        return done

    def _within(self) -> Position:
        """Tell where in the epoch the run is."""
        return Position(self.step, self.epoch - 1, self._index + 1)

    def _close(self, part: float) -> bool:
        """End the row, unless a step has spoilt the weights; tell whether training is to stop."""
        self.stepper.look(self.step, self._index)
        self.stepper.look_again()
        return self.rows.close(self.step, self.epoch, part)

    def _write(self, at: Position) -> None:
        """Write a checkpoint if there is a folder for it, unless a step has spoilt the weights."""
        if self.writer.checkpoints is not None:
            self.stepper.look(self.step, self._index)
            self.writer.write(at)


def total_steps(loader: Any, epochs: int | None) -> int | None:
    """Return how many steps so many epochs have, None where their batches are not counted."""
    try:
        return len(loader) * (epochs or 1)
    except TypeError:
        return None


def _whole(batch: datasets.Batch, index: int) -> Share:
    """Return a batch that comes to one process alone."""
    if not batch.x.ndim or not len(batch.x):
        of = "none" if batch.x.ndim else "a single number"
        what, got = "at least one element in each batch", f"{of} in batch {index}"
        raise ValueError(_checks.expected("data", what, got))
    return Share(batch, len(batch.x))


def _part(batch_index: int, loader: Any) -> float:
    try:
        return (batch_index + 1) / len(loader)
    except TypeError:
        return 1.0


def _say_empty(epoch: int) -> None:
    if epoch == 1:
        raise ValueError(_checks.expected("data", "at least one batch", "none"))
    warnings.warn(f"data: nothing came in epoch {epoch}; training ended.", stacklevel=5)
