"""What a batch is, in whatever form data come."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from vaekit.datasets import (
    ArrayDataset,
    Batch,
    batches,
    digits,
    from_tensors,
    is_batch,
    loader,
    size,
    unpack,
)

Refuses = Callable[..., Exception]

X, Y, T = torch.rand(10, 2), torch.arange(10), torch.rand(10, 3)


class _Stream(IterableDataset[Tensor]):
    """A data set that can only be gone through, and does not know its length."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(X)


class _Own(Dataset[tuple[Tensor, int]]):
    """A data set as users write them: an element at a time."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return X[index], index


@pytest.mark.parametrize("make", [torch.tensor, np.array])
@pytest.mark.parametrize("kind", ["uint16", "uint32", "uint64"])
def test_unsigned_numbers_are_made_such_as_torch_calculates_with(make: Any, kind: str) -> None:
    dtype = getattr(torch if make is torch.tensor else np, kind)
    values = make([[7, 40_000]], dtype=dtype)
    forms = [
        (values, False),
        ((values, 1), False),
        ({"x": values}, False),
        ((values, values), True),
    ]
    for batch, pairs in forms:
        found = unpack(batch, pairs=pairs)
        assert found.x.dtype == found.target.dtype == torch.int64
        assert found.x.tolist() == found.target.tolist() == [[7, 40_000]]
    labels = unpack((torch.zeros(2, 3), values[0])).y
    assert labels.dtype == torch.int64
    assert labels.tolist() == [7, 40_000]


@pytest.mark.parametrize("make", [torch.tensor, np.array])
def test_unsigned_numbers_that_int64_does_not_hold(make: Any, refuses: Refuses) -> None:
    values = make([[1, 2**63]], dtype=torch.uint64 if make is torch.tensor else np.uint64)
    got = "expected numbers below 2**63", str(2**63)
    refuses(ValueError, lambda: unpack((values, 1)), "batch", *got)
    refuses(ValueError, lambda: unpack((torch.zeros(2, 3), values[0])), "y", *got)


@pytest.mark.parametrize(
    ("batch", "pairs", "target", "y"),
    [
        (X, False, X, None),
        (X.numpy(), False, X, None),
        ((X,), False, X, None),
        ((X, Y), False, X, Y),
        ([X, Y], False, X, Y),
        ((X.numpy(), Y.numpy()), False, X, Y),
        ((X, T), True, T, None),
        ([X, T.numpy()], True, T, None),
        ((X, T, Y), True, T, Y),
        ({"x": X}, False, X, None),
        ({"x": X, "y": Y}, False, X, Y),
        ({"x": X, "target": None}, False, X, None),
        ({"x": X, "target": T, "y": Y}, False, T, Y),
        ({"x": X.numpy(), "target": T.numpy()}, True, T, None),
        (Batch(X, T, Y), False, T, Y),
    ],
)
def test_unpack(batch: Any, pairs: bool, target: Tensor, y: Tensor | None) -> None:
    found = unpack(batch, pairs=pairs)
    assert torch.equal(found.x, X)
    assert torch.equal(found.target, target)
    assert (found.target is found.x) == (target is X)
    assert found.y is None if y is None else torch.equal(torch.as_tensor(found.y), y)


@pytest.mark.parametrize(
    ("error", "batch", "pairs", "words"),
    [
        (TypeError, "x", False, ("batch: expected", "str")),
        (TypeError, None, False, ("batch: expected", "NoneType")),
        (TypeError, (), False, ("batch: expected", "tuple")),
        (TypeError, [[1.0]], False, ("batch: expected", "list")),
        (
            ValueError,
            np.ma.masked_less(X.numpy(), 2),
            False,
            ("batch: expected no masked", "20 masked"),
        ),
        (ValueError, {"image": X}, False, ("batch: expected", "'x'", "['image']")),
        (ValueError, X, True, ("batch: expected a pair", "the input alone")),
        (ValueError, (X,), True, ("batch: expected a pair", "the input alone")),
        (ValueError, {"x": X, "y": Y}, True, ("batch: expected", "'target'", "['x', 'y']")),
        (ValueError, {"x": X, "target": T[:1]}, False, ("target: expected", "10", "(1, 3)")),
        (ValueError, (X, T[:9]), True, ("target: expected", "10 elements", "(9, 3)")),
        (ValueError, (X, T[0, 0]), True, ("target: expected", "10 elements", "()")),
        (ValueError, (X, X), None, ("pairs: expected", "a target or a label")),
        (ValueError, (X.numpy(), X.numpy()), None, ("pairs: expected", "a target or a label")),
        (ValueError, (X, X.numpy()), None, ("pairs: expected", "a target or a label")),
    ],
)
def test_unpack_names_what_is_no_batch(
    error: type[Exception], batch: Any, pairs: bool | None, words: tuple[str, ...], refuses: Refuses
) -> None:
    refuses(error, lambda: unpack(batch, pairs=pairs), *words)


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (X, True),
        (X.numpy(), True),
        ((X, Y), True),
        ([X, Y], True),
        ({"x": X}, True),
        (Batch(X, X), True),
        ((), False),
        ([(X, Y), (X, Y)], False),
        ([{"x": X}], False),
        (from_tensors(X), False),
        (DataLoader(TensorDataset(X)), False),
        (iter([X]), False),
        (None, False),
    ],
)
def test_is_batch(value: Any, answer: bool) -> None:
    assert is_batch(value) is answer


# Everything that data can be

SOURCES: dict[str, Callable[[], Any]] = {
    "tensor": lambda: X,
    "array": lambda: X.numpy(),
    "ArrayDataset": lambda: from_tensors(X, Y),
    "TensorDataset": lambda: TensorDataset(X, Y),
    "own Dataset": _Own,
    "IterableDataset": _Stream,
    "DataLoader": lambda: DataLoader(TensorDataset(X, Y), 4),
    "DataLoader of a stream": lambda: DataLoader(_Stream(), 4),
    "list of batches": lambda: [(X[:4], Y[:4]), (X[4:], Y[4:])],
    "list of mappings": lambda: [{"x": X[:4]}, {"x": X[4:]}],
    "generator": lambda: (X[i : i + 4] for i in (0, 4, 8)),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_batches_go_through_everything_once_in_order(source: Callable[[], Any]) -> None:
    found = list(batches(source(), 4))
    assert len(found) > 1
    assert torch.equal(torch.cat([batch.x for batch in found]), X)
    labels = [batch.y for batch in found if batch.y is not None]
    assert not labels or torch.equal(torch.cat(labels), Y)


@pytest.mark.parametrize(
    "data", [DataLoader(TensorDataset(X), 3, shuffle=True), [X, X], iter([X])], ids=type
)
def test_what_yields_batches_is_returned_as_it_is(data: Any) -> None:
    assert loader(data, 4, shuffle=True) is data


@pytest.mark.parametrize("name", ["tensor", "ArrayDataset", "TensorDataset", "own Dataset"])
@given(batch_size=st.integers(1, 12))
def test_batches_have_the_size_asked_for(name: str, batch_size: int) -> None:
    lengths = [len(batch.x) for batch in batches(SOURCES[name](), batch_size)]
    assert lengths == [batch_size] * (10 // batch_size) + [10 % batch_size] * (10 % batch_size > 0)
    assert len(loader(SOURCES[name](), batch_size)) == len(lengths)  # type: ignore[arg-type]


def test_bytes_arrive_as_floats() -> None:
    (batch,) = batches(np.full((3, 2), 255, np.uint8))
    assert torch.equal(batch.x, torch.ones(3, 2))


@pytest.mark.parametrize("make", [from_tensors, TensorDataset], ids=["fast", "torch's"])
def test_shuffling_is_a_permutation_that_follows_the_seed(make: Any) -> None:
    def order(generator: torch.Generator | None = None) -> list[int]:
        found = loader(make(X, Y), 3, shuffle=True, generator=generator)
        return [int(y) for _, ys in found for y in ys]

    torch.manual_seed(1)
    first, second = order(), order()
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert first != list(range(10))
    torch.manual_seed(1)
    assert order() == first
    own = order(torch.Generator().manual_seed(5))
    assert own == order(torch.Generator().manual_seed(5)) != first


def test_each_epoch_has_its_own_order() -> None:
    data = loader(from_tensors(X, Y), 3, shuffle=True)
    first, second = ([int(y) for _, ys in data for y in ys] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_each_epoch_has_its_own_coins() -> None:
    data = from_tensors(torch.full((10, 200), 0.5), binarize="dynamic")

    def epochs(seed: int) -> list[Tensor]:
        batches = loader(data, 4, generator=torch.Generator().manual_seed(seed))
        return [torch.cat([*batches]) for _ in range(2)]

    first, second = epochs(0)
    assert (first != second).double().mean() > 0.4  # half of them, but for chance
    assert all(map(torch.equal, epochs(0), (first, second)))


def test_nothing_is_drawn_before_the_first_batch_is_asked_for() -> None:
    orders = []
    for looks in (0, 2):
        generator = torch.Generator().manual_seed(0)
        batches_of_x = loader(X, 3, shuffle=True, generator=generator)
        for _ in range(looks):
            iter(batches_of_x)  # to see whether it can be gone through, as Lightning does
        orders.append(torch.cat(list(batches_of_x)))
    assert orders[0].equal(orders[1])


def test_the_fast_path_reads_no_single_element(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    gather = ArrayDataset.gather

    def noted(self: ArrayDataset, indices: Any, generator: Any) -> Any:
        assert isinstance(indices, Tensor)
        asked.append(len(indices))
        return gather(self, indices, generator)

    monkeypatch.setattr(ArrayDataset, "gather", noted)
    monkeypatch.delattr(ArrayDataset, "__getitem__")
    for _ in loader(digits()[0], 512, shuffle=True):
        pass
    assert asked == [512, 512, 476]


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (X, 10),
        (X.numpy(), 10),
        (from_tensors(X).subset([1, 2]), 2),
        (TensorDataset(X), 10),
        (DataLoader(TensorDataset(X), 4), 10),
        (DataLoader(list(X), 4), 10),
        (DataLoader(_Stream(), 4), None),
        (_Stream(), None),
        ([X, X], None),
        ([], 0),
        (iter([X]), None),
        (X[:0], 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_size(data: Any, count: int | None) -> None:
    assert size(data) == count


@pytest.mark.parametrize(
    ("error", "data", "words"),
    [
        (TypeError, (X, Y), ("train: expected", "tuple", "from_tensors")),
        (TypeError, {"x": X}, ("train: expected", "dict", "from_tensors")),
        (TypeError, pandas.DataFrame({"a": [1.0, 2.0]}), ("train: expected", "to_numpy()")),
        (TypeError, coo_array(X.numpy()), ("train: expected", "coo_array", "data.toarray()")),
        (TypeError, X.to_sparse(), ("train: expected a dense tensor",)),
        (TypeError, None, ("train: expected", "NoneType")),
        (TypeError, 3, ("train: expected", "int")),
        (ValueError, [], ("train: expected at least one element", "none")),
        (ValueError, TensorDataset(X[:0]), ("train: expected at least one element",)),
        (ValueError, X[:0], ("train: expected at least one element", "(0, 2)")),
        (ValueError, X * torch.nan, ("train: expected no NaN", "20 NaN")),
        (ValueError, iter(()), ("train: expected at least one batch", "none")),
        (TypeError, ["x"], ("batch: expected", "str")),
    ],
)
def test_what_is_no_data_is_named(
    error: type[Exception], data: Any, words: tuple[str, ...], refuses: Refuses
) -> None:
    refuses(error, lambda: list(batches(data, argument="train")), *words)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "8", None, True])
def test_a_batch_size_is_a_whole_number(batch_size: Any, refuses: Refuses) -> None:
    words = ("batch_size: expected", "whole number above 0", repr(batch_size))
    refuses(ValueError, lambda: loader(from_tensors(X), batch_size), *words)


@pytest.mark.parametrize("binarize", ["none", "threshold", "dynamic"])
def test_parts_put_together_are_the_batch(binarize: Any) -> None:
    x = torch.rand(10, 1, 3, 3)
    data = from_tensors(x, torch.arange(10), x + 1, binarize=binarize)

    def made() -> Any:
        return loader(data, 4, shuffle=True, generator=torch.Generator().manual_seed(3))

    pieces = slice(0, 1), slice(1, 3), slice(3, 4)
    parted = [[gather(part=piece) for _, gather in made().ungathered()] for piece in pieces]
    assert [count for count, _ in made().ungathered()] == [4, 4, 2]
    for batch, *parts in zip(made(), *parted, strict=True):
        for name, values in batch.items():
            assert torch.equal(torch.cat([part[name] for part in parts]), values)


def test_what_else_a_batch_holds_is_not_dropped(refuses) -> None:
    x, mask, y = torch.zeros(4, 2), torch.ones(4, 2), torch.arange(4)
    words = "batch: expected x or (x, y)", "3 parts"
    refuses(ValueError, lambda: unpack((x, y, mask)), *words)
    words = "batch: expected (input, target) or (input, target, y)", "4 parts"
    refuses(ValueError, lambda: unpack((x, x, y, mask), pairs=True), *words)
    assert unpack((x, x + 1, y), pairs=True).y is y
