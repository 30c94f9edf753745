"""What a batch is, in whatever form data come."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from vaekit import _checks
from vaekit.datasets.arrays import ArrayDataset, from_tensors, no_masked

__all__ = ["ArrayBatches", "Batch", "batches", "beginning", "is_batch", "loader", "size", "unpack"]


class Batch(NamedTuple):
    """One batch of data.

    Attributes:
        x: What goes into the encoder, ``(B, *event)``.
        target: What is to be reconstructed; ``x`` itself, unless the data say otherwise.
        y: The labels, or None.

    Example:
        >>> x, target, y = next(iter(vk.datasets.batches(vk.datasets.digits()[0], 10)))
        >>> x.shape, y.shape, target is x
        (torch.Size([10, 1, 8, 8]), torch.Size([10]), True)
    """

    x: Tensor
    target: Tensor
    y: Any = None


def is_batch(value: Any) -> bool:
    """Tell a batch (a tensor, an array, a tuple, a list or a mapping of them) from a data set.

    Example:
        >>> is_batch((torch.zeros(5, 2), torch.zeros(5))), is_batch(vk.datasets.digits()[0])
        (True, False)
    """
    if isinstance(value, Tensor):
        return True
    if isinstance(value, tuple | list):
        return bool(value) and isinstance(value[0], Tensor | np.ndarray)
    return isinstance(value, np.ndarray | Mapping)


def unpack(batch: Any, *, pairs: bool | None = False, dtype: torch.dtype | None = None) -> Batch:
    """Find the data, the target and the labels in a batch.

    Args:
        batch: ``x``; ``(x, y)``; or a mapping with ``x`` and, where there are any, ``target``
            and ``y``.
        pairs: Whether the second of a pair is the target, and not a label; None refuses a pair that
            looks like either.
        dtype: Of the floats made of numpy's; torch's default dtype if None.

    Raises:
        TypeError: If it is none of these.
        ValueError: If a mapping has no ``x``, a pair was promised and none came, a tuple holds more
            than that, or the target or the labels are another number of elements.

    Example:
        >>> unpack((torch.zeros(8, 2), torch.arange(8))).x.shape
        torch.Size([8, 2])
    """
    if isinstance(batch, Tensor) and not pairs:  # the commonest first: this runs at every step
        x = _checks.counted("x", batch)
        return Batch(x, x)
    if isinstance(batch, Batch):
        return batch
    if isinstance(batch, Mapping):
        if "x" not in batch:
            hint = "Rename them: x, and where there are any, target and y."
            got = f"keys {list(batch)}"
            raise ValueError(_checks.expected("batch", "a mapping with 'x'", got, hint))
        if pairs and batch.get("target") is None:
            got = f"keys {list(batch)}"
            raise ValueError(_checks.expected("batch", "a mapping with 'x' and 'target'", got))
        x, target = _tensor(batch["x"], dtype), batch.get("target")
        target = x if target is None else _target(x, target, dtype)
        return Batch(x, target, _labels(x, batch.get("y")))
    if isinstance(batch, tuple | list) and batch and isinstance(batch[0], Tensor | np.ndarray):
        x, rest = _tensor(batch[0], dtype), list(batch[1:])
        what = "(input, target) or (input, target, y)" if pairs else "x or (x, y)"
        hint = "What else belongs to an element has no place; y may be a tensor of several columns."
        _checks.require(len(rest) < 2 + bool(pairs), "batch", what, f"{len(batch)} parts", hint)
        if pairs and not rest:
            raise ValueError(_checks.expected("batch", "a pair (input, target)", "the input alone"))
        if pairs is None and rest and alike(x, rest[0]):
            what = "pairs=True or pairs=False"
            got = "batches (a, b) of one shape, where b may be a target or a label"
            raise ValueError(_checks.expected("pairs", what, got))
        if pairs:
            return Batch(x, _target(x, rest[0], dtype), _labels(x, [*rest, None][1]))
        return Batch(x, x, _labels(x, [*rest, None][0]))
    if isinstance(batch, Tensor | np.ndarray):
        if pairs:
            raise ValueError(_checks.expected("batch", "a pair (input, target)", "the input alone"))
        x = _tensor(batch, dtype)
        return Batch(x, x)
    what = "x, (x, y) or a mapping with 'x'"
    raise TypeError(_checks.expected("batch", what, type(batch).__name__))


def alike(one: Any, other: Any) -> bool:
    """Tell whether two arrays could both be data: of floats and of one shape but for the batch."""
    if not (isinstance(one, Tensor | np.ndarray) and isinstance(other, Tensor | np.ndarray)):
        return False
    floats = other.is_floating_point() if isinstance(other, Tensor) else other.dtype.kind == "f"
    return floats and one.ndim > 1 and tuple(one.shape[1:]) == tuple(other.shape[1:])


def _target(x: Tensor, value: Any, dtype: torch.dtype | None) -> Tensor:
    """Make a tensor of a target, which is not to be broadcast against the data."""
    target = _tensor(value, dtype)
    if target.shape[:1] != x.shape[:1]:
        what = f"one for each of the {len(x)} elements of x"
        raise ValueError(_checks.expected("target", what, f"shape {tuple(target.shape)}"))
    return target


def _labels(x: Tensor, y: Any) -> Any:
    """Return the labels, of which there is to be one for each element where they are counted."""
    if isinstance(y, np.ndarray) and y.dtype.kind == "u" and y.dtype.itemsize > 1:
        y = torch.as_tensor(y)
    if isinstance(y, Tensor):
        y = _checks.counted("y", y)
    arrays = isinstance(y, Tensor | np.ndarray) and y.ndim
    listed = isinstance(y, list | tuple) and not any(isinstance(each, Tensor) for each in y)
    if (arrays or listed) and len(y) != len(x):
        what = f"one for each of the {len(x)} elements of x"
        got = f"shape {tuple(y.shape)}" if arrays else len(y)
        raise ValueError(_checks.expected("y", what, got))
    return y


def _tensor(value: Any, dtype: torch.dtype | None) -> Tensor:
    """Make a tensor; numpy's floats become those of a dtype, as in `from_tensors`."""
    no_masked("batch", value)
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):  # lists of lists of tensors, pictures, words
        hint = 'Let the data set return tensors; those of Hugging Face: .with_format("torch").'
        what, got = "tensors or arrays", f"a {type(value).__name__}"
        raise TypeError(_checks.expected("batch", what, got, hint)) from None
    if not isinstance(value, Tensor) and tensor.is_floating_point():
        return tensor.to(dtype or torch.get_default_dtype())
    return _checks.counted("batch", tensor)


def loader(
    data: Any,
    batch_size: int = 128,
    *,
    shuffle: bool = False,
    generator: Generator | None = None,
    dtype: torch.dtype | None = None,
    argument: str = "data",
) -> Iterable[Any]:
    """Return an iterable over batches of whatever data are given.

    Args:
        data: A tensor or an array; a torch ``Dataset``, or another that has its ``__getitems__``,
            as those of Hugging Face do; or anything that yields batches by itself, like a
            ``DataLoader``, which is returned as it is.
        batch_size: How many elements a batch has, where it is for us to say.
        shuffle: Whether a ``Dataset`` is gone through in random order.
        generator: Of that order, and of what an `ArrayDataset` draws; torch's global ones if None.
        dtype: Of the floats made of a bare tensor or array; torch's default dtype if None.
        argument: How errors name the data.

    Raises:
        TypeError: If nothing of the kind is given.
        ValueError: If it is empty.

    Example:
        >>> [len(batch) for batch in loader(torch.rand(10, 2), batch_size=4)]
        [4, 4, 2]
    """
    batch_size = _checks.positive_int("batch_size", batch_size)
    if isinstance(data, Tensor | np.ndarray):
        with _checks.calling("x", argument):
            data = from_tensors(data, dtype=dtype)
    if hasattr(data, "columns") and hasattr(data, "to_numpy"):
        hint = "Give its numbers: data.to_numpy(), of the columns that are numbers."
        what = "a data set, a loader or an array"
        raise TypeError(_checks.expected(argument, what, f"a {type(data).__name__}", hint))
    if hasattr(data, "toarray") and hasattr(data, "nnz"):
        what, hint = "a data set, a loader or a dense array", "Give all of it: data.toarray()."
        raise TypeError(_checks.expected(argument, what, f"a {type(data).__name__}", hint))
    if isinstance(data, tuple | Mapping):
        what = "a data set, a loader or an array"
        hint = "Arrays that belong together: vaekit.datasets.from_tensors(x, labels)."
        raise TypeError(_checks.expected(argument, what, f"a {type(data).__name__}", hint))
    if size(data) == 0:
        raise ValueError(_checks.expected(argument, "at least one element", "none"))
    if isinstance(data, ArrayDataset):
        return ArrayBatches(data, batch_size, shuffle, generator)
    if isinstance(data, IterableDataset):
        return DataLoader(data, batch_size)
    if _is_dataset(data):
        if not hasattr(data, "__len__"):
            what = "a Dataset that tells its length, or an IterableDataset"
            raise TypeError(_checks.expected(argument, what, type(data).__name__))
        return DataLoader(data, batch_size, shuffle=shuffle, generator=generator)
    if not isinstance(data, Iterable):
        what = "a torch Dataset, a DataLoader, an array, or an iterable of batches"
        raise TypeError(_checks.expected(argument, what, type(data).__name__))
    return data


class ArrayBatches:
    """The batches of arrays in memory, each gathered whole."""

    def __init__(
        self, data: ArrayDataset, batch_size: int, shuffle: bool, generator: Generator | None
    ) -> None:
        self._data, self._batch_size = data, batch_size
        self._shuffle, self.generator = shuffle, generator

    def __len__(self) -> int:
        return -(-len(self._data) // self._batch_size)

    def without_classes(self) -> None:
        """Leave out labels that are whole numbers: to gather them takes time.

        Those of floats stay, for `unpack` asks whether they are a target where nobody has said.
        """
        labels = self._data.labels
        if labels is not None and not labels.is_floating_point():
            self._data = copy.copy(self._data)
            self._data.labels = None

    def __iter__(self) -> Iterator[Any]:
        for _, gather in self.ungathered():
            yield gather()

    def ungathered(self) -> Iterator[tuple[int, Callable[..., Any]]]:
        """Go through the sizes of batches, with what gathers each, or a ``part=`` of it.

        The ones of a dynamic binarisation are those of the whole batch, whatever part is gathered.
        """
        # Nothing is drawn before the first batch is asked for: Lightning calls iter() to look.
        data, rows, coins = self._data, torch.arange(len(self._data)), None
        if self._shuffle:
            rows = torch.randperm(len(rows), generator=self.generator)
        if self.generator is not None and data.binarize == "dynamic":
            seed = torch.randint(2**63 - 1, (), generator=self.generator)
            coins = Generator(data.device).manual_seed(int(seed))
        # At once, for each batch by itself would wait for what the device has to do before.
        for batch in rows.to(data.device).split(self._batch_size):
            yield len(batch), partial(data.gather, batch, coins)


def batches(
    data: Any,
    batch_size: int = 512,
    *,
    dtype: torch.dtype | None = None,
    argument: str = "data",
) -> Iterator[Batch]:
    """Go through the data once, in order.

    Raises:
        TypeError: If the data are none that `loader` knows.
        ValueError: If there are none.

    Example:
        >>> train, _ = vk.datasets.digits()
        >>> sum(len(batch.x) for batch in batches(train)) == len(train)
        True
    """
    empty = True
    for batch in loader(data, batch_size, dtype=dtype, argument=argument):
        empty = False
        yield unpack(batch, dtype=dtype)
    if empty:
        raise ValueError(_checks.expected(argument, "at least one batch", "none"))


def tell_epoch(data: Any, epoch: int) -> None:
    """Tell samplers and streams, whose order goes by the number of the epoch, which one begins."""
    holders = [data]
    if isinstance(data, DataLoader):
        batch_sampler = data.batch_sampler
        inner = getattr(batch_sampler, "sampler", None)
        holders = [data.dataset, data.sampler, batch_sampler, inner]
    for each in {id(holder): holder for holder in holders}.values():
        if callable(tell := getattr(each, "set_epoch", None)):
            tell(epoch)


def _is_dataset(data: Any) -> bool:
    """Tell what has elements from what yields batches, also where it is no class of torch's."""
    return isinstance(data, Dataset) or hasattr(data, "__getitems__")


def size(data: Any) -> int | None:
    """Count the elements, where that can be known without reading them.

    Example:
        >>> size(torch.zeros(10, 2)), size(batch for batch in [torch.zeros(5, 2)])
        (10, None)
    """
    whole = isinstance(data, DataLoader | Tensor | np.ndarray) or _is_dataset(data)
    if isinstance(data, DataLoader):  # whose sampler may take a part of its data set
        data = data.dataset if isinstance(data.dataset, IterableDataset) else data.sampler
    if whole:
        try:
            return len(data)
        except TypeError:
            return None
    return 0 if hasattr(data, "__len__") and not len(data) else None


def beginning(data: Any, count: int) -> Any:
    """Return the first elements of data that can be asked for some; None of others (streams)."""
    if isinstance(data, Tensor | np.ndarray):
        return data[:count]
    if isinstance(data, ArrayDataset):
        return data.subset(range(min(count, len(data))))
    if isinstance(data, list):
        return data[:1]
    collate = None
    if isinstance(data, DataLoader):
        if data.batch_size is None or isinstance(data.dataset, IterableDataset):
            return None
        data, count, collate = data.dataset, data.batch_size, data.collate_fn
    if isinstance(data, IterableDataset) or not _is_dataset(data):
        return None
    first = Subset(data, range(min(count, len(data))))
    return DataLoader(first, count, collate_fn=collate)


def element_shape(data: Any) -> torch.Size | None:
    """Return the shape of one element, where arrays tell it."""
    if isinstance(data, ArrayDataset):
        return data.shape
    return torch.Size(data.shape[1:]) if isinstance(data, Tensor | np.ndarray) else None


def target_shape(data: Any) -> torch.Size | None:
    """Return the shape of what is to be reconstructed of one element, where arrays tell it."""
    if isinstance(data, ArrayDataset) and data._target is not None:
        return torch.Size(data._target.shape[1:])
    return element_shape(data)
