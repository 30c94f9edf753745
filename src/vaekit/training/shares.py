"""What of the data each of several processes sees."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler

from vaekit import _checks, datasets
from vaekit.datasets.batches import ArrayBatches
from vaekit.training.world import World

__all__ = ["Share", "Unpack", "dealt"]

Unpack = Callable[[Any], datasets.Batch]

_HINT = (
    "Seed the order of the data (fit(seed=) does so where they come unbatched); "
    "of data that each process has a part of, say divided=True."
)


def dealt(
    loader: Iterable[Any], world: World, unpack: Unpack, seed: int, divided: bool = False
) -> Iterable[Any]:
    """Return a loader of this process's parts, each with the number of the whole batch.

    Args:
        loader: Of whole batches, the same in every process; or of parts, where ``divided``.
        world: The processes.
        unpack: Finds data, target and labels in a batch.
        seed: Of the order, where a ``DataLoader`` draws one of torch's global generator.
        divided: As for `fit`.

    Raises:
        ValueError: When gone through, if the processes are given other batches.
    """
    if world.size == 1:
        return loader
    return _Parts(loader, world, unpack) if divided else _Shares(loader, world, unpack, seed)


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
