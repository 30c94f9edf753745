"""The processes that train one model together."""

import atexit
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import reduce
from itertools import pairwise
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, distributed, nn

from vaekit import _checks, storage
from vaekit.training.randomness import random_states, set_random_states

__all__ = ["World", "filled", "parts"]

_T = TypeVar("_T")

_groups: list[Any] = []  # that of all, and the patient one beside it
_broken: list[BaseException] = []  # errors of this process that the others do not know of


@dataclass(frozen=True)
class World:
    """The processes of a launcher (``torchrun``, ``accelerate launch``), or this one alone.

    Each goes through the same batches and takes a part of its own of every one.

    Attributes:
        size: How many there are.
        rank: Which this one is, from 0.
    """

    size: int = 1
    rank: int = 0

    @classmethod
    def joined(cls, device: torch.device) -> "World":
        """Join the others, where a launcher has started several."""
        if not distributed.is_available():
            return cls()
        if "LOCAL_RANK" in os.environ and not distributed.is_initialized():
            from accelerate import PartialState

            PartialState(cpu=device.type == "cpu")  # without cpu, each would be by itself on one
            alone = int(os.environ.get("WORLD_SIZE", 1)) > 1 and not distributed.is_initialized()
            what = "one that lets its processes be connected (torchrun, accelerate launch)"
            _checks.require(not alone, "launcher", what, "one process of several, by itself")
            atexit.register(_leave)
        if not distributed.is_initialized():
            return cls()
        _patient()
        return cls(distributed.get_world_size(), distributed.get_rank())

    @property
    def leads(self) -> bool:
        """Whether this process speaks for all: writes files, shows the bar, asks the callbacks."""
        return self.rank == 0

    def sizes(self, count: int) -> list[int]:
        """Return how many of a batch's elements each process takes."""
        return [len(range(count)[part]) for part in parts(count, self.size)]

    def agreed(self, make: Callable[[], _T]) -> _T:
        """Return what the first process makes, in all of them; an error too is raised in all."""
        if self.size == 1:
            return make()
        made = failure = None
        if self.leads:
            try:
                made = make()
            except BaseException as error:
                failure = error
        told: list[Any] = [made, _portable(failure)]
        distributed.broadcast_object_list(told, 0, group=_patient())
        agreed, theirs = told
        if theirs is not None:
            raise failure or theirs
        done: _T = agreed
        return done

    def together(self, make: Callable[[], _T], device: torch.device) -> _T:
        """Do something in every process, and raise the error of one in all of them."""
        if self.size == 1:
            return make()
        made = failure = None
        try:
            made = make()
        except Exception as error:
            failure = error
        if self.any(failure is not None, device):
            self.fail(failure)
        done: Any = made
        return done  # type: ignore[no-any-return]

    def break_off(self, failure: BaseException) -> None:
        """Remember an error that the others cannot be told, for they wait for something else.

        This process then ends without waiting for them, and its launcher ends the others.
        """
        if self.size > 1:
            _broken.append(failure)

    def fail(self, failure: BaseException | None) -> NoReturn:
        """Raise this process's error, or another's where it has none; all have to call it."""
        found = self.collected(_portable(failure))
        raise failure or next(error for error in found if error is not None)

    def collected(self, value: _T) -> list[_T]:
        """Return what every process has, in order."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value, group=_patient())
        return found

    def check_alike(self, settings: Mapping[str, Any]) -> None:
        """Say so where the processes were given different settings."""
        first, *others = self.collected(settings)
        for name, value in first.items():
            for rank, given in enumerate(others, 1):
                if repr(given[name]) != repr(value):
                    what = f"{value!r} in every process, as in the first"
                    got = f"{given[name]!r} in process {rank}"
                    raise ValueError(_checks.expected(name, what, got))

    def mean(self, numbers: list[float], device: torch.device) -> list[float]:
        """Return the means of numbers over the processes."""
        if self.size == 1:
            return numbers
        given = torch.tensor(numbers, dtype=torch.float64, device=device)
        distributed.all_reduce(given)
        means: list[float] = (given / self.size).tolist()
        return means

    def settle(
        self, trained: Sequence[Tensor], numbers: Sequence[float], device: torch.device
    ) -> list[float]:
        """Put the means over the processes in the place of gradients, and return those of numbers.

        All at once, for an exchange takes long, however small it is. A parameter that one process
        used has a gradient in all of them, so that they stay alike.
        """
        if self.size == 1:
            return [*numbers]
        held = [each.grad for each in trained]
        said = [*numbers, *(float(grad is not None) for grad in held)]
        dtype = reduce(torch.promote_types, {each.dtype for each in trained}, torch.float32)
        flat = torch.cat(
            [
                torch.tensor(said, dtype=torch.float64).to(device, dtype),
                *(  # none where a process has failed
                    each.new_zeros(each.numel()) if grad is None else grad.flatten()
                    for each, grad in zip(trained, held, strict=True)
                ),
            ]
        )
        distributed.all_reduce(flat)
        sums, *others = flat.split([len(said), *(each.numel() for each in trained)])
        settled: list[float] = (sums / self.size).tolist()
        used = settled[len(numbers) :]
        for each, grad, added, share in zip(trained, held, others, used, strict=True):
            if grad is None and share:
                grad = each.grad = torch.empty_like(each)
            if grad is not None:
                torch.div(added.view(grad.shape), self.size, out=grad)
        return settled[: len(numbers)]

    def rows(self, own: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return the rows of all processes, without their gradients, where each has so many."""
        own = own.detach()
        if self.size == 1:
            return own
        padded = own.new_zeros(max(sizes), *own.shape[1:])
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(found, padded)
        return torch.cat([rows[:size] for rows, size in zip(found, sizes, strict=True)])

    def extremes(self, number: int) -> tuple[int, int]:
        """Return the least and the greatest of a number over the processes."""
        given = torch.tensor([-number, number])
        distributed.all_reduce(given, distributed.ReduceOp.MAX, group=_patient())
        return -int(given[0]), int(given[1])

    def any(self, flag: bool, device: torch.device) -> bool:
        """Tell whether it holds in one of the processes."""
        return self.mean([float(flag)], device)[0] > 0

    def device_for(self, device: torch.device) -> torch.device:
        """Return the device of this process, of the kind that the model is on."""
        if self.size == 1 or device.type == "cpu":
            return device
        count = torch.get_device_module(device).device_count()
        return torch.device(device.type, int(os.environ.get("LOCAL_RANK", self.rank)) % count)

    def level(self, *modules: nn.Module, device: torch.device, weights: bool = False) -> None:
        """Give all processes the first one's buffers (statistics of batches), or all weights."""
        if self.size > 1:
            for module in modules:
                for tensor in [*module.buffers(), *(module.parameters() if weights else [])]:
                    if not storage.is_spread(tensor):  # of which each has another piece
                        there = tensor.detach().to(device)
                        distributed.broadcast(there, 0)
                        tensor.detach().copy_(there)

    @contextmanager
    def drawing_alike(self, device: torch.device) -> Iterator[None]:
        """Draw the same random numbers in all processes: those of the first."""
        if self.size == 1:
            yield
            return
        own = random_states(device)
        set_random_states(device, self.agreed(lambda: own))
        try:
            yield
        finally:
            if not self.leads:
                set_random_states(device, own)

    def part(self, count: int) -> slice:
        """Return which of a batch's elements this process takes; the first where none is left."""
        return filled(parts(count, self.size)[self.rank])


def _patient() -> Any:
    """Return a group in which processes wait for one another as long as it takes, on processors.

    The first may measure, draw or write for longer than the group of all lets the others wait.
    """
    everyone = distributed.group.WORLD
    if not _groups or _groups[0] is not everyone:
        limit = timedelta(weeks=1)
        _groups[:] = everyone, distributed.new_group(backend="gloo", timeout=limit)
    return _groups[1]


def _leave() -> None:
    """Part from the others as they do: gloo aborts a process that ends while its threads run."""
    if distributed.is_initialized():
        if distributed.get_backend() == "gloo" and not _broken:
            with suppress(RuntimeError):  # where another has died
                distributed.monitored_barrier(timeout=timedelta(seconds=10))
        distributed.destroy_process_group()


def _portable(error: BaseException | None) -> BaseException | None:
    """Return an error as another process can be told it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def parts(count: int, pieces: int) -> list[slice]:
    """Cut a range into pieces of nearly one size, the larger ones first."""
    least, more = divmod(count, pieces)
    bounds = [i * least + min(i, more) for i in range(pieces + 1)]
    return [slice(first, last) for first, last in pairwise(bounds)]


def filled(part: slice) -> slice:
    """Return a part, or where it is empty the first element, which then does not count."""
    return part if part.start < part.stop else slice(0, 1)
