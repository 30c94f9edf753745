"""Writing training down as it goes, so that a run which was cut off goes on as if it had not."""

import hashlib
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Generator, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from vaekit import _checks, datasets, storage
from vaekit.training.history import History
from vaekit.training.randomness import random_states, set_random_states
from vaekit.training.rows import Rows
from vaekit.training.settings import differs, said
from vaekit.training.sharding import loadable, whole
from vaekit.training.shares import Share
from vaekit.training.world import World

__all__ = ["Checkpoints", "load_checkpoint"]

_NAME = re.compile(r"step-(\d+)-[0-9a-f]+\.safetensors")
_FORMAT = 1  # raised where what older versions wrote is no longer read as they meant it


@dataclass(frozen=True)
class Checkpoints:
    """Where `fit` writes training down, how often, and how many of the files it keeps.

    A file holds the model, the optimiser, the scheduler, the terms and their optimisers, the random
    states, the position in the data and the history, as tensors and plain values: safetensors,
    never pickle. It appears under its name once it is on the disk, and its name holds a sum of its
    bytes, so that a damaged file is known. The first is written before the first step, then one at
    the end of each row of the history.

    Attributes:
        folder: Where to.
        every: How many steps there are between further checkpoints, beside those of the rows.
        keep: How many of the newest are kept, beside that of the lowest validation loss.

    Raises:
        ValueError: If a number does not fit.

    Example:
        >>> Checkpoints("runs/digits", every=500)
        Checkpoints(folder='runs/digits', every=500, keep=2)
    """

    folder: str | PathLike[str]
    every: int | None = None
    keep: int = 2

    def __post_init__(self) -> None:
        if self.every is not None:
            _checks.positive_int("every", self.every)
        _checks.positive_int("keep", self.keep)

    def start(self, resume: bool) -> dict[str, Any] | None:
        """Return the newest whole checkpoint to go on from, or None where a run begins.

        A checkpoint of no steps is of a run that failed before its first one: it hinders no other.
        """
        folder = Path(self.folder)
        found, damaged = _files(folder), sorted(folder.glob("step-*.damaged"))
        if found and not resume and _step(found[0]):
            what = "a folder without checkpoints, or resume=True"
            got = f"{folder} with one of step {_step(found[0])}"
            raise ValueError(_checks.expected("checkpoint", what, got))
        if damaged and not found:
            raise storage.DamagedFileError(damaged[-1], "there is no other checkpoint beside it")
        storage.sweep(folder)
        if not resume:
            for path in found:
                path.unlink(missing_ok=True)
            return None
        return _newest(found, aside=True) if found else None

    def save(self, step: int, state: dict[str, Any], history: History) -> None:
        """Write a checkpoint, and then remove those that need not be kept.

        Raises:
            OSError: If it cannot be written; those before it are untouched.
            TypeError: If the state of a part is more than tensors and plain values.
        """
        whole = {"format": _FORMAT} | state
        written = storage.write(Path(self.folder), f"step-{step:08d}", whole)
        found = [path for path in _files(written.parent) if path != written]
        best = None if history.best is None else history.step[history.best]
        older = [path for path in found if _step(path) < step]
        kept = {*older[: self.keep - 1], *(path for path in older if _step(path) == best)}
        for path in found:
            if _step(path) <= step and path not in kept:
                path.unlink(missing_ok=True)


def load_checkpoint(
    model: nn.Module, folder: str | PathLike[str], which: Literal["last", "best"] = "last"
) -> History:
    """Give a model the weights of a checkpoint that `fit` wrote.

    Args:
        model: A model made of the same parts; given the moving average of the weights, where the
            run had one.
        folder: Where the checkpoints are.
        which: The newest, or that of the lowest validation loss.

    Returns:
        The history until then.

    Raises:
        DamagedFileError: If no file is as it was written.
        FileNotFoundError: If the folder holds no checkpoint, or not the best one.
        ValueError: If the model's parts are others.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> model, objective = vk.recipes.vae(vk.likelihoods.Gaussian(3), latent_dim=2)
        >>> options = {"steps": 4, "checkpoint": folder, "progress": False}
        >>> history = vk.fit(model, objective, torch.randn(64, 3), **options)
        >>> same, _ = vk.recipes.vae(vk.likelihoods.Gaussian(3), latent_dim=2)
        >>> load_checkpoint(same, folder).step
        [1, 2, 3, 4]
    """
    _checks.one_of("which", which, ("last", "best"))
    found = _files(Path(folder))
    if not found:
        raise FileNotFoundError(_checks.expected("folder", "checkpoints in it", str(folder)))
    state = _newest(found)
    if which == "best":
        history = History(**state["history"])
        best = None if history.best is None else history.step[history.best]
        paths = [path for path in found if _step(path) == best]
        if not paths:
            got = f"none of step {best}" if best is not None else "a run without validation"
            raise FileNotFoundError(_checks.expected("which", "the best row's checkpoint", got))
        state = _read(paths[0])
    load_states({"model": model}, {"model": _shown(state["parts"])})
    return History(**state["history"])


def _shown(states: dict[str, Any]) -> dict[str, Any]:
    """Return the state of the model, or of its moving average where there is one."""
    averaged: dict[str, Any] | None = states.get("averaged")
    if not averaged:
        model: dict[str, Any] = states["model"]
        return model
    start = "module."
    return {k.removeprefix(start): each for k, each in averaged.items() if k.startswith(start)}


def load_states(parts: dict[str, Any], states: dict[str, Any]) -> None:
    """Give modules, optimisers and the like their states, or say that they are another's.

    Modules and optimisers are looked at first, so that none has changed where one does not fit.
    """
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            mine, others = _shapes(part.state_dict()), _shapes(states[name])
        elif isinstance(part, Optimizer):
            mine, others = _groups(part.state_dict()), _groups(states[name])
        else:
            continue
        if mine != others:
            lacks = [f"{key}: {mine[key]}" for key in mine if mine[key] != others.get(key)]
            brings = [f"{key}: {others[key]}" for key in others if mine.get(key) != others[key]]
            what = f"the parts that the checkpoint was written of, with {', '.join(brings)}"
            raise ValueError(_checks.expected(name, what, ", ".join(lacks) or "none of that"))
    for name, part in parts.items():
        part.load_state_dict(loadable(part, states[name]))
        if isinstance(part, Optimizer):
            _lay_out(part)


def _shapes(state: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(getattr(value, "shape", ())) for name, value in state.items()}


def _groups(state: dict[str, Any]) -> dict[str, Any]:
    groups = state["param_groups"]
    return {f"parameters of group {i}": len(group["params"]) for i, group in enumerate(groups)}


def _lay_out(optimizer: Optimizer) -> None:
    """Give what an optimiser remembers the memory layout of its parameters, as it had it."""
    for parameter, held in optimizer.state.items():
        for name, value in held.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                like = torch.empty_like(parameter, dtype=value.dtype, device=value.device)
                held[name] = like.copy_(value)


class Position(NamedTuple):
    """How far a run has come: steps, whole epochs, and batches of the next epoch."""

    step: int = 0
    epoch: int = 0
    batches: int = 0


@dataclass
class Writer:
    """Writes a run's state down, where a folder was given, and puts it back.

    Attributes:
        checkpoints: Where to and how often; None writes nothing.
        device: Whose generator is random.
        parts: By name, what has a ``state_dict``: the model, the optimiser and so on.
        rows: The rows of the history.
        settings: By the names of `fit`'s arguments and the places of the model's parts, what is to
            be the same where a run goes on.
        loaders: Of the data and of the validation data, None where there are none.
        world: The processes, whose random states are written together.
    """

    checkpoints: Checkpoints | None
    device: torch.device
    parts: dict[str, Any]
    rows: Rows
    settings: dict[str, Any]
    loaders: Sequence[Any]
    world: World
    _at: Position = field(default_factory=Position)
    _began: dict[str, Any] = field(default_factory=dict)  # the random states as the epoch began
    _now: dict[str, Any] = field(default_factory=dict)  # those of the checkpoint
    _mark: str = ""  # of the batch that came before the checkpoint
    _last: Any = None  # batch
    _names: set[str] = field(default_factory=set)  # of the files, when last looked at

    def start(self, resume: bool) -> Position:
        """Put the newest checkpoint's state back, or write the first one; return how far it is."""
        if self.checkpoints is None:
            return self._at
        checkpoints = self.checkpoints
        state = self.world.agreed(lambda: checkpoints.start(resume))
        self._names = _names(checkpoints)
        if state is None:
            self.write(self._at)
            return self._at
        self.world.together(partial(self._compare, state["settings"]), self.device)
        versions = self.rows.history.versions
        if state["history"]["versions"] != versions:
            before = state["history"]["versions"]
            what = f"resume: the run began with {before}, and goes on with {versions}."
            warnings.warn(f"{what} It may not end as it would have.", stacklevel=3)
        if list(state["parts"]) != list(self.parts):
            what = f"the parts {list(state['parts'])}, as in the checkpoint"
            raise ValueError(_checks.expected("resume", what, list(self.parts)))
        load_states(self.parts, state["parts"])
        self.rows.load_state_dict(state["rows"], state["history"])
        self._at = Position(*state["at"])
        first = self.loaders[0]
        if self._at.epoch and getattr(first, "persistent_workers", False):
            iter(first)  # workers that live on draw their seed in the first epoch alone
        self._began, self._now, *marks = state["random"][self.world.rank]
        self._mark = "".join(marks)  # which the first checkpoints of version 0.1 do not hold
        if not self._at.batches:
            self._set_random(self._now)
        return self._at

    def _compare(self, settings: Mapping[str, Any]) -> None:
        """Say so where the run to go on with had other settings."""
        for name, value in self.settings.items():
            before = settings.get(name, value)  # of a version that did not write it
            if differs(before, value):
                what = f"{said(before)}, as in the checkpoint that the run goes on from"
                raise ValueError(_checks.expected(name, what, said(value)))

    @property
    def passed(self) -> int:
        """How many batches of the epoch to come were gone through before."""
        return self._at.batches

    def batches(self, loader: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """Go through an epoch, or what is left of it, and count its batches."""
        passed, self._at = self._at.batches, Position()
        if passed:
            self._set_random(self._began)
            left, self._last = _skipping(loader, passed)
            if self._mark not in ("", _marked(self._last)):
                what = "data: the batches that were gone through before do not come again as they"
                what = f"{what} came (batch {passed - 1} is another). The run does not end as it"
                warnings.warn(f"{what} would have.", stacklevel=5)
            self._set_random(self._now, with_loader=False)
            return enumerate(self._remembered(left), passed)
        if self.checkpoints is None:
            return enumerate(loader)
        self._began = self._random()
        return enumerate(self._remembered(loader))

    def _remembered(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Go through batches, and remember the last, by which it is known again."""
        for batch in batches:
            self._last = batch
            yield batch

    def due(self, step: int) -> bool:
        """Tell whether a checkpoint is to be written after so many steps, whatever the row."""
        every = None if self.checkpoints is None else self.checkpoints.every
        return every is not None and step % every == 0

    def write(self, at: Position) -> None:
        """Write a checkpoint, where there is a folder for it.

        Raises:
            FileExistsError: If another run writes to the folder.
            OSError: If it cannot be written; those before it are untouched.
            TypeError: If the state of a part is more than tensors and plain values.
        """
        if self.checkpoints is None:
            return
        state = {
            "at": list(at),
            "parts": self._whole({name: part.state_dict() for name, part in self.parts.items()}),
            "rows": self._whole(self.rows.state_dict()),
            "random": self.world.collected(
                [self._began, self._random(), _marked(self._last)]
                if at.batches
                else [{}, self._random(), ""]
            ),
            "settings": self.settings,
            "history": self.rows.history.to_dict(),
        }
        checkpoints, history = self.checkpoints, self.rows.history

        def save() -> None:
            self._look_for_others(checkpoints)
            checkpoints.save(at.step, state, history)
            self._names = _names(checkpoints)

        self.world.agreed(save)

    def _look_for_others(self, checkpoints: Checkpoints) -> None:
        """Say so where another run writes to the folder, before either removes what it needs."""
        if foreign := sorted(_names(checkpoints) - self._names):
            got = f"{foreign[0]} in {checkpoints.folder}, which this run did not write"
            raise FileExistsError(_checks.expected("checkpoint", "a folder of one run alone", got))

    def _whole(self, states: dict[str, Any]) -> dict[str, Any]:
        """Put what is spread over the processes together, for the first to write."""
        if self.world.size == 1:
            return states
        put: dict[str, Any] = whole(states, self.world.leads)
        return put

    def _random(self) -> dict[str, Any]:
        orders = [[each.get_state() for each in _generators(loader)] for loader in self.loaders]
        return random_states(self.device) | {"orders": orders}

    def _set_random(self, states: dict[str, Any], with_loader: bool = True) -> None:
        set_random_states(self.device, states)
        # That of the data has gone on by itself where batches were passed over.
        which = slice(0 if with_loader else 1, None)
        names = ["data", "validation"][which]
        for name, loader, orders in zip(
            names, self.loaders[which], states["orders"][which], strict=True
        ):
            generators = _generators(loader)
            if len(generators) != len(orders):
                what = f"data whose order {len(orders)} generators draw, as in the checkpoint"
                raise ValueError(_checks.expected(name, what, len(generators)))
            for generator, order in zip(generators, orders, strict=True):
                generator.set_state(order)


def _generators(loader: Any) -> list[Generator]:
    """List the generators that a loader draws the order of its data from, if they are its own."""
    if not isinstance(loader, DataLoader):
        own = getattr(loader, "generator", None)
        return [own] if isinstance(own, Generator) else []
    batch_sampler = getattr(loader, "batch_sampler", None)
    holders = loader, loader.sampler, batch_sampler, getattr(batch_sampler, "sampler", None)
    found = [getattr(holder, "generator", None) for holder in holders]
    return list({id(each): each for each in found if isinstance(each, Generator)}.values())


def _files(folder: Path) -> list[Path]:
    """List the checkpoints of a folder, the newest first."""
    found = [
        path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_file()
    ]
    return sorted(found, key=lambda path: (_step(path), path.stat().st_mtime), reverse=True)


def _names(checkpoints: Checkpoints) -> set[str]:
    return {path.name for path in _files(Path(checkpoints.folder))}


def _step(path: Path) -> int:
    return int(path.name.split("-")[1])


def _newest(files: list[Path], aside: bool = False) -> dict[str, Any]:
    """Read the newest whole file; warn of those that are not, and lay them aside if asked."""
    *others, last = files
    for path in others:
        try:
            return _read(path)
        except storage.DamagedFileError as error:
            warnings.warn(f"{error} The one before is taken.", stacklevel=5)
        if aside:
            path.replace(path.with_suffix(".damaged"))
    return _read(last)


def _read(path: Path) -> dict[str, Any]:
    """Read a file.

    Raises:
        DamagedFileError: If it is not as it was written.
        ValueError: If a newer version wrote it.
    """
    state: dict[str, Any] = storage.read(path)
    if not isinstance(state, dict) or not isinstance(state.get("format"), int):
        raise storage.DamagedFileError(path, "it holds no state of a run")
    if state["format"] > _FORMAT:
        got = f"{path.name}, of format {state['format']}"
        raise ValueError(_checks.expected("checkpoint", f"one of format {_FORMAT} at most", got))
    return state


def _marked(batch: Any) -> str:
    """Return a sum of a batch's values."""
    if isinstance(batch, Share):
        found = batch.batch
    else:  # of a tuple the data come first, whatever the rest is
        found = datasets.unpack(batch[0] if isinstance(batch, tuple | list) else batch)
    x = found.x.detach().cpu().contiguous().flatten()
    return hashlib.blake2b(x.view(torch.uint8).numpy().tobytes(), digest_size=16).hexdigest()


def _skipping(loader: Any, count: int) -> tuple[Iterator[Any], Any]:
    """Go through a loader but for its first batches, the last of which is returned too.

    Raises:
        ValueError: If it has fewer.
    """
    batches: Iterator[Any] = iter(loader)
    last = None
    for index in range(count):
        try:
            last = next(batches)
        except StopIteration:
            what, got = f"the data of the checkpoint, at least {count} batches", f"{index} batches"
            raise ValueError(_checks.expected("data", what, got)) from None
    return batches, last
