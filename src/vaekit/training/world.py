"""The processes that train one model together, and what each of them sees of a batch."""

import atexit
import hashlib
import os
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial, reduce
from itertools import pairwise
from typing import Any, NamedTuple, NoReturn, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler

from vaekit import _checks, datasets, storage
from vaekit.datasets.batches import ArrayBatches
from vaekit.training.randomness import random_states, set_random_states

__all__ = ["Share", "World", "filled", "parts"]

_T = TypeVar("_T")
Unpack = Callable[[Any], datasets.Batch]

_HINT = (
    "Seed the order of the data (fit(seed=) does so where they come unbatched); "
    "of data that each process has a part of, say divided=True."
)

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

    def share(
        self, loader: Iterable[Any], unpack: Unpack, seed: int, divided: bool = False
    ) -> Iterable[Any]:
        """Return a loader of this process's parts, each with the number of the whole batch.

        Args:
            loader: Of whole batches, the same in every process; or of parts, where ``divided``.
            unpack: Finds data, target and labels in a batch.
            seed: Of the order, where a ``DataLoader`` draws one of torch's global generator.
            divided: As for `fit`.

        Raises:
            ValueError: When gone through, if the processes are given other batches.
        """
        if self.size == 1:
            return loader
        return _Parts(loader, self, unpack) if divided else _Shares(loader, self, unpack, seed)


class Share(NamedTuple):
    """A process's part of a batch, and how many elements the whole has."""

    batch: datasets.Batch
    whole: int
    failure: Exception | None = None  # why this process has no part


class _Parts:
    """Goes through loaders that have other elements in every process, as long as all have some.

    Attributes:
        source: The loader, whose generators tell the order.
    """

    def __init__(self, loader: Iterable[Any], world: World, unpack: Unpack) -> None:
        self._loader, self._world, self._unpack = loader, world, unpack
        self.source = loader

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Share]:
        for batch in iter(partial(self._next, iter(self._loader)), None):
            yield Share(batch, len(batch.x) * self._world.size)

    def _next(self, batches: Iterator[Any]) -> datasets.Batch | None:
        """Take the next batch, where all have one and it fits those of the others."""
        batch, failure, size = None, None, 0
        try:
            raw = next(batches, None)
            if raw is not None:
                batch = self._unpack(raw)
                size = len(batch.x)
        except Exception as error:
            failure, size = error, -1
        least, most = self._world.extremes(size)
        if least < 0:
            self._world.fail(failure)
        return None if most == 0 else self._fitting(batch, least, most)

    def _fitting(self, batch: datasets.Batch | None, least: int, most: int) -> Any:
        """Cut a batch to the size of the smallest; None where one process has none left."""
        return None if batch is None or least == 0 else _rows_of(batch, slice(least))


class _Shares(_Parts):
    """Goes through loaders that are the same in every process, and takes a part of every batch.

    Attributes:
        source: The loader, or one of this process's part.
    """

    def __init__(self, loader: Iterable[Any], world: World, unpack: Unpack, seed: int) -> None:
        super().__init__(loader, world, unpack)
        self._wholes: deque[int] = deque()  # of the batches that are on their way
        self._reads_part = False
        if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
            batches = _seeded(loader.batch_sampler, seed)
            if batches is not None:
                self.source, self._reads_part = self._reading_part(loader, batches), True

    def __iter__(self) -> Iterator[Share]:
        """Go through the parts; an error of reading one's own comes in the place of a part."""
        shares = self._shares()
        while True:
            try:
                yield next(shares)
            except StopIteration:
                return
            except Exception as error:
                nothing = torch.empty(0)
                yield Share(datasets.Batch(nothing, nothing), 1, error)
                return

    def _shares(self) -> Iterator[Share]:
        self._wholes.clear()
        if self._reads_part:
            for raw in self.source:
                yield Share(self._unpack(raw), self._wholes.popleft())
        elif isinstance(self._loader, ArrayBatches):
            for index, (count, gather) in enumerate(self._loader.ungathered()):
                if index == 0:  # whole, to be held to the others'
                    yield self._cut(self._unpack(gather()), first=True)
                else:
                    yield Share(self._unpack(gather(part=self._world.part(count))), count)
        else:
            batches = iter(self._loader)
            for index, batch in enumerate(iter(partial(self._next, batches), None)):
                yield self._cut(batch, first=index == 0)

    def _cut(self, batch: datasets.Batch, first: bool) -> Share:
        """Take a part of a whole batch, the first of which has to be that of the others."""
        if first:
            held = batch.x.detach().cpu().contiguous().view(torch.uint8)
            self._agree(hashlib.sha256(held.numpy().tobytes()).hexdigest())
        return Share(_rows_of(batch, self._world.part(len(batch.x))), len(batch.x))

    def _fitting(self, batch: datasets.Batch | None, least: int, most: int) -> Any:
        """Return a batch that is as large as the others'."""
        if least < most:
            what = "batches of one size in every process, and as many, of which each takes its part"
            got = f"one of {least} and one of {most}"
            raise ValueError(_checks.expected("data", what, got, _HINT))
        return batch

    def _reading_part(
        self, loader: DataLoader[Any], batches: Iterable[list[int]]
    ) -> DataLoader[Any]:
        """Make a loader of the same data that reads no more than this process's part."""

        def rows() -> Iterator[list[int]]:
            for index, batch in enumerate(batches):
                if index == 0:
                    self._agree(list(batch))
                self._wholes.append(len(batch))
                yield batch[self._world.part(len(batch))]

        return DataLoader(
            loader.dataset,
            batch_sampler=_Rows(rows, getattr(batches, "sampler", None)),
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            generator=loader.generator,
            prefetch_factor=loader.prefetch_factor,
            persistent_workers=loader.persistent_workers,
        )

    def _agree(self, first: Any) -> None:
        """Make sure that all processes see one order, by the first batch of an epoch."""
        if any(other != first for other in self._world.collected(first)):
            what = "the same batches in every process, of which each takes its part"
            raise ValueError(_checks.expected("data", what, "other ones in each", _HINT))


def _rows_of(batch: datasets.Batch, part: slice) -> datasets.Batch:
    """Return a part of a batch."""
    x = batch.x[part]
    target = x if batch.target is batch.x else batch.target[part]
    return datasets.Batch(x, target, None if batch.y is None else batch.y[part])


@dataclass
class _Rows:
    """Batches of indices, made anew each time they are gone through, and the order's sampler."""

    make: Callable[[], Iterator[list[int]]]
    sampler: Any

    def __iter__(self) -> Iterator[list[int]]:
        return self.make()


def _seeded(batches: Any, seed: int) -> Any:
    """Give an order that torch's global generator draws a generator of its own."""
    sampler = getattr(batches, "sampler", None)
    if type(batches) is not BatchSampler or type(sampler) is not RandomSampler:
        return batches
    if sampler.generator is not None:
        return batches
    generator = torch.Generator().manual_seed(seed)
    size = None if not sampler.replacement else sampler.num_samples
    own = RandomSampler(sampler.data_source, sampler.replacement, size, generator)
    return BatchSampler(own, batches.batch_size, batches.drop_last)


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
