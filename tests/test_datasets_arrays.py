"""Arrays that make whole batches."""

import copy
import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from torch import Tensor
from torch.utils.data import DataLoader, Subset, random_split

from vaekit.datasets import ArrayDataset, from_tensors

Refuses = Callable[..., Exception]


def _memmap(array: np.ndarray, folder: Path, mode: str) -> np.ndarray:
    np.save(folder / "x.npy", array)
    return np.load(folder / "x.npy", mmap_mode=mode)


def _read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


STORES: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "tensor": lambda array, _: torch.from_numpy(array.copy()),
    "numpy": lambda array, _: array.copy(),
    "read-only numpy": lambda array, _: _read_only(array),
    "backwards numpy": lambda array, _: array[::-1].copy()[::-1],
    "foreign byte order": lambda array, _: array.astype(array.dtype.newbyteorder(">")),
    "memmap": lambda array, folder: _memmap(array, folder, "r+"),
    "read-only memmap": lambda array, folder: _memmap(array, folder, "r"),
    "memmap of foreign byte order": lambda array, folder: _memmap(
        array.astype(array.dtype.newbyteorder(">")), folder, "r"
    ),
}
stores = pytest.mark.parametrize("store", STORES.values(), ids=STORES)


def _numbered(n: int = 10, **options: Any) -> ArrayDataset:
    """A data set whose element i holds i and -i, with the label i."""
    x = torch.arange(n, dtype=torch.float32)
    return from_tensors(torch.stack([x, -x], 1), range(n), **options)


def _check_numbered(batch: Any, expected: Any) -> None:
    x, y = batch
    assert y.tolist() == np.asarray(expected).tolist()
    assert torch.equal(x, torch.stack([y, -y], -1).float())


# What is held, and what comes out


@stores
def test_bytes_become_floats_in_the_unit_interval(store: Any, tmp_path: Path) -> None:
    x = np.arange(256, dtype=np.uint8).reshape(64, 1, 2, 2)
    data = from_tensors(store(x, tmp_path))
    assert "uint8" in repr(data)
    assert data.shape == (1, 2, 2)
    assert torch.equal(data[:], torch.from_numpy(x).float() / 255)
    assert data[0].flatten()[0] == 0
    assert data[63].flatten()[-1] == 1
    rows = torch.tensor([5, 3, 5])
    assert torch.equal(data[rows], torch.from_numpy(x)[rows].float() / 255)


@pytest.mark.parametrize("name", ["tensor", "numpy", "memmap"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_nothing_is_copied(name: str, dtype: type, tmp_path: Path) -> None:
    x = STORES[name](np.zeros((4, 3), dtype), tmp_path)
    data = from_tensors(x)
    x[2] = 1
    assert data[2].sum() > 0


@stores
@pytest.mark.parametrize(
    ("kind", "comes_as"),
    [
        ("float16", torch.float32),
        ("float32", torch.float32),
        ("float64", torch.float32),
        ("bool", torch.float32),
        ("int8", torch.int8),
        ("int32", torch.int32),
        ("int64", torch.int64),
        ("uint16", torch.int64),
        ("uint32", torch.int64),
        ("uint64", torch.int64),
    ],
)
def test_dtypes(store: Any, kind: str, comes_as: torch.dtype, tmp_path: Path) -> None:
    x = np.arange(12).reshape(6, 2).astype(kind)
    batch = from_tensors(store(x, tmp_path))[:]
    assert batch.dtype == comes_as
    assert torch.equal(batch, torch.from_numpy(x.astype(float)).to(comes_as))


def test_long_doubles_are_shortened() -> None:
    batch = from_tensors(np.arange(6, dtype=np.longdouble).reshape(3, 2))[:]
    assert batch.dtype == torch.float32
    assert batch.flatten().tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.uint64])
def test_unsigned_numbers_are_calculated_with(kind: type, tmp_path: Path, refuses: Refuses) -> None:
    x, labels = np.arange(12).reshape(6, 2).astype(kind), np.arange(6).astype(kind)
    assert from_tensors(x, labels, classes="abcdef").labels.tolist() == list(range(6))
    for held in (x, _memmap(x, tmp_path, "r")):
        words = ("x: expected values in [0, 1]", "0 to 11")
        refuses(ValueError, lambda held=held: from_tensors(held, binarize="static"), *words)
        assert from_tensors(held, binarize="threshold", scale=11)[-1].tolist() == [1, 1]
    assert kind.__name__ in repr(from_tensors(x))  # which takes as little memory as it did


def test_floats_follow_the_default_dtype_and_the_argument() -> None:
    x = torch.rand(4, 2, dtype=torch.float64)
    assert from_tensors(x, dtype=torch.float64)[:].equal(x)
    assert from_tensors(x, x, x, dtype=torch.float16)[:]["target"].dtype == torch.float16
    torch.set_default_dtype(torch.float64)
    try:
        assert from_tensors(x)[:].equal(x)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float64])
def test_scale_is_what_becomes_one(dtype: torch.dtype) -> None:
    batch = from_tensors(torch.tensor([[0, 4, 8, 16]], dtype=dtype), scale=16)[:]
    assert torch.equal(batch, torch.tensor([[0, 0.25, 0.5, 1]]))


def test_reading_leaves_the_data_alone() -> None:
    x = torch.full((3, 2), 8.0)
    data = from_tensors(x, scale=16)
    data[:], data[0]
    assert torch.equal(x, torch.full((3, 2), 8.0))


def test_a_memory_mapped_array_is_looked_at_as_it_is_read(tmp_path: Path, refuses: Refuses) -> None:
    large = np.array([[1, 2], [2**63, 3]], dtype=np.uint64)
    data = from_tensors(_memmap(large, tmp_path, "r"))
    assert data[:1].tolist() == [[1, 2]]
    refuses(ValueError, lambda: data[:], "x: expected numbers below 2**63", str(2**63))


class _Watched(np.memmap):
    """A memory-mapped array that writes down which rows were read."""

    def __getitem__(self, index: Any) -> Any:
        type(self).read.append(index)  # type: ignore[attr-defined]
        return super().__getitem__(index)


def test_only_the_rows_asked_for_are_read_from_a_memory_map(tmp_path: Path) -> None:
    _Watched.read = []  # type: ignore[attr-defined]
    x = _Watched(tmp_path / "x", np.uint8, "w+", shape=(1000, 4))
    data = from_tensors(x, range(1000)).subset(range(100, 200))
    assert _Watched.read == []  # type: ignore[attr-defined]
    data[[3, 5]]
    data.__getitems__([7])
    assert [list(rows) for rows in _Watched.read] == [[103, 105], [107]]  # type: ignore[attr-defined]


def test_a_target_makes_mappings() -> None:
    x, target = torch.rand(6, 2), torch.full((6, 1, 3), 255, dtype=torch.uint8)
    data = from_tensors(x, range(6), target, binarize="threshold")
    batch = data.subset([4, 1])[:]
    assert set(batch) == {"x", "target", "y"}
    assert torch.equal(batch["x"], (x[[4, 1]] >= 0.5).float())
    assert torch.equal(batch["target"], torch.ones(2, 1, 3))
    assert batch["y"].tolist() == [4, 1]
    element = data[4]
    assert (element["x"].shape, element["target"].shape, element["y"].item()) == ((2,), (1, 3), 4)
    assert set(from_tensors(x, target=target)[:]) == {"x", "target"}


def test_what_it_says_of_itself() -> None:
    data = from_tensors(
        torch.zeros(3, 1, 2, dtype=torch.uint8), [0, 1, 1], torch.zeros(3, 1), classes=["a", "b"]
    )
    assert repr(data) == "ArrayDataset(3 x (1, 2) uint8, labels, target, binarize='none')"
    assert data.classes == ("a", "b") == data.subset([0]).classes


def test_from_tensors_takes_what_the_class_takes() -> None:
    ours = inspect.signature(from_tensors).parameters
    assert list(ours.items()) == list(inspect.signature(ArrayDataset).parameters.items())
    options: dict[str, Any] = {
        "binarize": "static",
        "threshold": 0.25,
        "scale": 2.0,
        "seed": 3,
        "dtype": torch.float64,
        "classes": tuple("abcdefghi"),
    }
    x = torch.rand(9, 2)
    one, other = (make(x, range(9), x, **options) for make in (from_tensors, ArrayDataset))
    assert one.threshold == other.threshold == 0.25
    assert one.classes == other.classes
    assert all(torch.equal(one[:][key], other[:][key]) for key in ("x", "target", "y"))


# Binarisation


def test_threshold_cuts_at_and_above() -> None:
    x = torch.tensor([[0, 0.29, 0.3, 0.31, 1]])
    assert from_tensors(x, binarize="threshold", threshold=0.3)[0].tolist() == [0, 0, 1, 1, 1]
    assert from_tensors(x, binarize="threshold", threshold=1)[0].tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("name", ["tensor", "memmap"])
@pytest.mark.parametrize("binarize", ["dynamic", "static"])
def test_ones_come_with_the_value_as_their_probability(
    binarize: Any, name: str, tmp_path: Path
) -> None:
    n, p = 20_000, np.array([0, 26, 128, 204, 255], np.uint8)
    data = from_tensors(STORES[name](np.tile(p, (n, 1)), tmp_path), binarize=binarize)
    x = data[:]
    assert set(x.unique().tolist()) == {0, 1}
    probability = p / 255
    assert x[:, 0].sum() == 0
    assert x[:, -1].sum() == n
    inner = slice(1, -1)
    sigma = np.sqrt(probability * (1 - probability) / n)[inner]
    z = (x.mean(0).double().numpy() - probability)[inner] / sigma
    assert np.abs(z).max() < 5


def test_dynamic_draws_are_fresh_independent_and_repeatable() -> None:
    n = 40_000
    data = from_tensors(torch.full((1, n), 0.5), binarize="dynamic")
    first, second = data[0], data[0]
    agree = (first == second).double().mean().item()
    assert abs(agree - 0.5) / (0.5 / n**0.5) < 5
    torch.manual_seed(0)
    assert torch.equal(data[0], first)


def test_static_draws_are_made_once_of_their_seed() -> None:
    x = torch.rand(50, 20)

    def data(seed: int) -> ArrayDataset:
        return from_tensors(x, binarize="static", seed=seed)

    whole = data(1)
    assert torch.equal(whole[:], whole[:])
    assert torch.equal(whole[7], whole[:][7])
    assert torch.equal(whole.subset([7, 3])[:], whole[:][[7, 3]])
    before = torch.get_rng_state()
    assert torch.equal(whole[:], data(1)[:])
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(whole[:], data(2)[:])


# Elements, batches, parts

INDICES: dict[str, Any] = {
    "slice": slice(2, 7, 2),
    "slice from the end": slice(-3, None),
    "slice backwards": slice(None, None, -1),
    "empty slice": slice(3, 3),
    "list": [4, 0, 4],
    "list from the end": [-1, 0, -10],
    "empty list": [],
    "range": range(3, 6),
    "array": np.array([1, 9]),
    "backwards array": np.arange(10)[::-1],
    "array of bytes": np.array([1, 9], np.uint8),
    "tensor": torch.tensor([3, -3]),
    "mask": torch.arange(10) % 3 == 0,
    "array mask": np.arange(10) > 7,
    "list mask": [True] + 9 * [False],
}
wholes = pytest.mark.parametrize(
    ("data", "numbers"),
    [(_numbered(), np.arange(10)), (_numbered(30).subset(range(29, 9, -2)), np.arange(29, 9, -2))],
    ids=["whole", "part"],
)


@wholes
@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_indices_make_batches(data: ArrayDataset, numbers: np.ndarray, index: Any) -> None:
    at = index if isinstance(index, slice) else np.asarray(index)
    at = at.astype(int) if np.size(at) == 0 and isinstance(at, np.ndarray) else at
    _check_numbered(data[index], numbers[at])


@wholes
@pytest.mark.parametrize("index", [0, 9, -1, -10, np.int64(4), torch.tensor(-2)])
def test_an_index_makes_an_element(data: ArrayDataset, numbers: np.ndarray, index: Any) -> None:
    _check_numbered(data[index], numbers[int(index)])


@wholes
def test_iteration_ends(data: ArrayDataset, numbers: np.ndarray) -> None:
    assert [int(y) for _, y in data] == numbers.tolist()
    assert len(data) == 10


@pytest.mark.parametrize("index", [10, -11, [0, 10], [-11], torch.tensor([10])])
@wholes
def test_past_the_end_is_an_index_error(data: ArrayDataset, numbers: Any, index: Any) -> None:
    with pytest.raises(IndexError):
        data[index]


@given(data=st.data(), n=st.integers(1, 30))
def test_a_part_of_a_part_is_a_part(data: st.DataObject, n: int) -> None:
    outer = data.draw(st.lists(st.integers(-n, n - 1), min_size=1, max_size=20))
    m = len(outer)
    inner = data.draw(st.lists(st.integers(-m, m - 1), min_size=1, max_size=20))
    part = _numbered(n).subset(outer).subset(inner)
    _check_numbered(part[:], np.arange(n)[outer][inner])
    _check_numbered(part[::-1], np.arange(n)[outer][inner][::-1])


@given(lengths=st.lists(st.integers(1, 9), min_size=2, max_size=5), seed=st.integers(0, 2**32))
def test_a_split_is_disjoint_and_complete(lengths: list[int], seed: int) -> None:
    n = sum(lengths)
    parts = _numbered(n).split(*lengths, seed=seed)
    assert [len(part) for part in parts] == lengths
    labels = torch.cat([part.labels for part in parts])
    assert sorted(labels.tolist()) == list(range(n))
    for part in parts:
        _check_numbered(part[:], part.labels)


@pytest.mark.parametrize(
    ("fractions", "lengths"),
    [((0.8, 0.2), [8, 2]), ((0.34, 0.33, 0.33), [3, 3, 4]), ((1,), [10]), ((0.1,) * 10, [1] * 10)],
)
def test_a_split_by_fractions(fractions: tuple[float, ...], lengths: list[int]) -> None:
    assert [len(part) for part in _numbered().split(*fractions)] == lengths


def test_a_split_follows_its_seed_alone() -> None:
    data = _numbered(100)
    first = data.split(0.5, 0.5, seed=1)[0].labels
    torch.manual_seed(123)
    assert torch.equal(data.split(0.5, 0.5, seed=1)[0].labels, first)
    assert not torch.equal(data.split(0.5, 0.5, seed=2)[0].labels, first)


def test_labels_of_many_columns_follow() -> None:
    labels = torch.arange(20).reshape(10, 2)
    part = from_tensors(torch.zeros(10, 1), labels).subset([7, 2])
    assert torch.equal(part[:][1], labels[[7, 2]])
    assert torch.equal(part.labels, labels[[7, 2]])


# Devices and copies


def test_everything_moves() -> None:
    data = from_tensors(torch.eye(6), range(6), torch.eye(6)).subset([4, 2, 0]).to("meta")
    assert data.device.type == "meta"  # a device that every machine has, which holds no values
    batch = data.gather(torch.arange(2, device="meta"))
    assert {value.device.type for value in batch.values()} == {"meta"}


@pytest.mark.parametrize("binarize", ["none", "threshold", "dynamic", "static"])
def test_it_moves_to_a_device(binarize: Any, device: torch.device) -> None:
    x = torch.eye(6)  # which every way of making it binary leaves as it is
    data = from_tensors(x, range(6), x, binarize=binarize).subset([4, 2, 0]).to(device)
    assert data.device.type == device.type
    for batch in (data[:], data[[0, 1, 2]], next(iter(DataLoader(data, 3)))):
        assert {value.device.type for value in batch.values()} == {device.type}
        assert torch.equal(batch["x"].cpu(), x[[4, 2, 0]])
        assert torch.equal(batch["target"].cpu(), x[[4, 2, 0]])
        assert batch["y"].tolist() == [4, 2, 0]
    assert data[1]["y"].item() == 2
    assert data.split(2, 1)[0].device.type == device.type
    there = from_tensors(x.to(device), binarize=binarize)
    assert torch.equal(there[:].cpu(), x)


def test_a_memory_map_does_not_move(refuses: Refuses, tmp_path: Path) -> None:
    data = from_tensors(_memmap(np.zeros((3, 2)), tmp_path, "r"))
    refuses(TypeError, lambda: data.to("cpu"), "x: expected", "in memory", "memory-mapped")


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))]
)
@pytest.mark.parametrize("name", ["tensor", "memmap"])
def test_copies_hold_the_same(copied: Any, name: str, tmp_path: Path) -> None:
    x = STORES[name](np.random.default_rng(0).random((8, 3)), tmp_path)
    data = from_tensors(x, range(8), binarize="dynamic", classes="abcdefgh").subset([5, 1, 6])
    other = copied(data)
    assert repr(other) == repr(data)
    assert other.classes == data.classes
    torch.manual_seed(1)
    before = data[:]
    torch.manual_seed(1)
    after = other[:]
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


def _store(folder: Path, order: str, mode: str) -> np.memmap:
    x = np.random.default_rng(0).integers(0, 256, (3000, 5, 4), np.uint8)
    np.save(folder / "large.npy", np.asarray(x, order=order))
    return np.load(folder / "large.npy", mmap_mode=mode)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_copy_of_a_memory_map_is_a_map_of_the_same_file(
    order: str, mode: str, copied: Any, tmp_path: Path
) -> None:
    x = _store(tmp_path, order, mode)
    data = from_tensors(x, target=x[:, :2]).subset(range(1, 3000, 2))
    other = copied(data)
    for one, two in zip(data[:].values(), other[:].values(), strict=True):
        assert one.equal(two)
    if mode == "r+":
        x[1] = 255 - x[1]
        assert other[0]["x"].equal(data[0]["x"])
    if mode != "c":
        assert other._x.filename == x.filename
        assert len(pickle.dumps(from_tensors(x))) < 2000 < x.nbytes


def test_what_only_memory_holds_of_a_map_is_pickled(tmp_path: Path) -> None:
    x = _store(tmp_path, "C", "c")
    x[0] = 7  # which the file is not told
    assert (pickle.loads(pickle.dumps(from_tensors(x)))[0] * 255 == 7).all()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_that_are_started_anew_map_the_file(tmp_path: Path) -> None:
    data = from_tensors(_store(tmp_path, "C", "r"))
    loader = DataLoader(data, 500, num_workers=1, multiprocessing_context="spawn")
    assert torch.cat(list(loader)).equal(data[:])


def test_bytes_are_not_read_to_see_whether_they_can_be_made_binary(tmp_path: Path) -> None:
    _Watched.read = []  # type: ignore[attr-defined]
    x = _Watched(tmp_path / "x", np.uint8, "w+", shape=(1000, 4))
    from_tensors(x, binarize="dynamic")
    assert _Watched.read == []  # type: ignore[attr-defined]
    from_tensors(x, binarize="dynamic", scale=16)
    assert len(_Watched.read) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("binarize", ["dynamic", "static"])
def test_large_elements_are_looked_at_a_few_at_a_time(binarize: Any, tmp_path: Path) -> None:
    _Watched.read = []  # type: ignore[attr-defined]
    x = _Watched(tmp_path / "x", np.float16, "w+", shape=(10, 3, 1000, 1000))
    from_tensors(x, binarize=binarize)
    assert {len(rows) for rows in _Watched.read} == {1}  # type: ignore[attr-defined]


# torch's own DataLoader


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda data: data,
        lambda data: data.subset(range(20)),
        lambda data: Subset(data, list(range(20))),
        lambda data: random_split(data, [20, 10])[0],
        lambda data: Subset(random_split(data.subset(range(29, -1, -1)), [25, 5])[0], range(20)),
    ],
    ids=["itself", "its part", "Subset", "random_split", "Subset of random_split of its part"],
)
def test_the_ordinary_loader_gathers_whole_batches(
    wrap: Any, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: ArrayDataset, index: Any) -> None:
        raise AssertionError("element by element")

    data = wrap(_numbered(30))
    monkeypatch.setattr(ArrayDataset, "__getitem__", never)
    batches = list(DataLoader(data, batch_size=8, shuffle=True, num_workers=workers))
    assert [len(x) for x, _ in batches] == [8, 8, 8, 6] if len(data) == 30 else [8, 8, 4]
    for x, y in batches:
        _check_numbered((x, y), y)
    labels = torch.cat([y for _, y in batches]).tolist()
    assert len(set(labels)) == len(data)
    assert labels != sorted(labels)


@pytest.mark.parametrize("options", [{}, {"labels": range(10)}, {"target": torch.rand(10, 3)}])
def test_its_batches_are_those_of_indexing(options: dict[str, Any]) -> None:
    data = from_tensors(torch.rand(10, 2), **options)
    parts = zip(DataLoader(data, 4), (data[:4], data[4:8], data[8:]), strict=True)
    for batch, expected in parts:
        assert type(batch) is type(expected)
        if isinstance(expected, Tensor):
            assert torch.equal(batch, expected)
        else:
            keys = expected if isinstance(expected, dict) else range(2)
            assert len(batch) == len(expected)
            assert all(torch.equal(batch[key], expected[key]) for key in keys)


def test_last_batches_are_dropped_where_asked() -> None:
    assert [len(x) for x, _ in DataLoader(_numbered(), 4, drop_last=True)] == [4, 4]


# What is refused

X = torch.rand(4, 2)
MASKED = np.ma.masked_equal([[1.0, 2.0], [3.0, -9999.0], [5.0, 6.0], [-9999.0, 8.0]], -9999)


@pytest.mark.parametrize(
    ("error", "options", "words"),
    [
        (TypeError, {"x": [[1.0]]}, ("x: expected", "tensor or a numpy array", "list")),
        (TypeError, {"x": None}, ("x: expected", "NoneType")),
        (TypeError, {"x": np.array([["a"]])}, ("x: expected", "numbers", "<U1")),
        (TypeError, {"x": np.array([[None]])}, ("x: expected", "numbers", "object")),
        (TypeError, {"x": np.ones((2, 2), complex)}, ("x: expected", "real", "complex128")),
        (TypeError, {"x": X.to(torch.complex64)}, ("x: expected", "real", "torch.complex64")),
        (ValueError, {"x": X[:0]}, ("x: expected", "at least one element", "(0, 2)")),
        (ValueError, {"x": np.ones(3)}, ("x: expected", "(elements, ...)", "(3,)")),
        (ValueError, {"x": torch.tensor(1.0)}, ("x: expected", "shape ()")),
        (ValueError, {"x": X / 0 * 0}, ("x: expected no NaN", "8 NaN among 8", "(4, 2)")),
        (ValueError, {"target": X * torch.nan}, ("target: expected no NaN", "8 NaN")),
        (ValueError, {"x": MASKED}, ("x: expected no masked values", "2 masked among 8", "(4, 2)")),
        (ValueError, {"target": MASKED}, ("target: expected no masked values", "2 masked")),
        (ValueError, {"labels": MASKED[:, 0]}, ("labels: expected no masked values", "1 masked")),
        (
            ValueError,
            {"labels": np.ma.masked_equal(["a", "b", "?", "a"], "?")},
            ("labels: expected no masked values", "1 masked among 4"),
        ),
        (
            ValueError,
            {"x": np.full((2, 2), 2**63, np.uint64)},
            ("x: expected numbers below 2**63", "9223372036854775808"),
        ),
        (TypeError, {"x": X.to_sparse()}, ("x: expected a dense tensor", "x.to_dense()")),
        (TypeError, {"x": coo_array(X.numpy())}, ("x: expected", "coo_array", "x.toarray()")),
        (
            ValueError,
            {"labels": [-1, 1, 1, -1], "classes": ("odd", "even")},
            ("labels: expected numbers from 0 on", "-1"),
        ),
        (ValueError, {"target": X[:3]}, ("target: expected", "4 elements of x", "got 3")),
        (TypeError, {"target": "x"}, ("target: expected", "str")),
        (ValueError, {"labels": range(5)}, ("labels: expected", "4 elements of x", "got 5")),
        (ValueError, {"labels": 3}, ("labels: expected", "one for each element", "got 3")),
        (
            TypeError,
            {"labels": [[1], [1, 2], [], [3]]},
            ("labels: expected numbers or names", "list"),
        ),
        (
            ValueError,
            {"binarize": "dynamc"},
            ("binarize: expected one of", "'dynamic'", "'dynamc'"),
        ),
        (ValueError, {"binarize": None}, ("binarize: expected one of", "None")),
        (ValueError, {"threshold": 0}, ("threshold: expected", "above 0", "got 0")),
        (ValueError, {"threshold": 128}, ("threshold: expected", "(0, 1]", "got 128")),
        (ValueError, {"threshold": "half"}, ("threshold: expected", "'half'")),
        (ValueError, {"scale": 0}, ("scale: expected", "above 0", "got 0")),
        (ValueError, {"scale": float("inf")}, ("scale: expected", "finite", "inf")),
        (TypeError, {"dtype": torch.uint8}, ("dtype: expected", "floating-point", "torch.uint8")),
        (TypeError, {"dtype": "float32"}, ("dtype: expected", "floating-point", "float32")),
    ],
)
def test_what_does_not_fit_is_named(
    error: type[Exception], options: dict[str, Any], words: tuple[str, ...], refuses: Refuses
) -> None:
    refuses(error, lambda: from_tensors(**{"x": X} | options), *words)


def test_an_array_of_which_nothing_is_masked_is_an_array() -> None:
    assert torch.equal(from_tensors(np.ma.masked_array(X.numpy()))[:], X)


@pytest.mark.parametrize("binarize", ["threshold", "dynamic", "static"])
@pytest.mark.parametrize(
    ("x", "words"),
    [
        (X + 1, ("torch.float32",)),
        (-X, ("torch.float32",)),
        (torch.arange(6).reshape(3, 2), ("0 to 5", "torch.int64")),
    ],
)
def test_only_the_unit_interval_is_made_binary(
    binarize: Any, x: Tensor, words: tuple[str, ...], refuses: Refuses
) -> None:
    words = ("x: expected", "[0, 1]", repr(binarize), "scale=", *words)
    refuses(ValueError, lambda: from_tensors(x, binarize=binarize), *words)
    assert len(from_tensors(x, binarize="none"))


def test_nan_in_a_memory_map_is_not_made_binary(refuses: Refuses, tmp_path: Path) -> None:
    x = _memmap(np.full((3, 2), np.nan), tmp_path, "r")
    refuses(ValueError, lambda: from_tensors(x, binarize="dynamic"), "x: expected", "nan")


@pytest.mark.parametrize(
    ("error", "indices", "words"),
    [
        (ValueError, [], ("indices: expected at least one",)),
        (ValueError, torch.zeros(10, dtype=torch.bool), ("indices: expected at least one",)),
        (IndexError, [0, 10], ("indices: expected", "-10 to 9", "0 to 10")),
        (IndexError, [-11], ("indices: expected", "-10 to 9", "-11")),
        (TypeError, [0.5], ("indices: expected", "whole numbers", "float64")),
        (TypeError, [[1, 2]], ("indices: expected", "(1, 2)")),
        (TypeError, [True, False], ("indices: expected", "mask", "(2,)")),
        (TypeError, "all", ("indices: expected", "str")),
    ],
)
def test_no_such_part(
    error: type[Exception], indices: Any, words: tuple[str, ...], refuses: Refuses
) -> None:
    refuses(error, lambda: _numbered().subset(indices), *words)


@pytest.mark.parametrize("index", [1.5, "a", None, [0.5], [[1]], [True, False]])
def test_no_such_index(index: Any, refuses: Refuses) -> None:
    refuses(TypeError, lambda: _numbered()[index], "index: expected", "whole numbers")


@pytest.mark.parametrize(
    "parts",
    [(), (3,), (5, 6), (0.5, 0.4), (10, 0), (11, -1), (0.99, 0.01), (1.5, 8.5), (float("nan"),)],
)
def test_no_such_split(parts: tuple[float, ...], refuses: Refuses) -> None:
    words = ("parts: expected", "add up to 1", "add up to 10", str(parts))
    refuses(ValueError, lambda: _numbered().split(*parts), *words)


def test_a_split_that_leaves_a_part_empty(refuses: Refuses) -> None:
    words = ("parts: expected", "none empty", "got (0.9, 0.1). Those are parts of 3, 0.")
    refuses(ValueError, lambda: _numbered(3).split(0.9, 0.1), *words)


@pytest.mark.parametrize(
    "make",
    [
        list,
        np.array,
        tuple,
        lambda names: np.array(names, object),
        pandas.Series,
        lambda names: pandas.Series(names, dtype="category"),
    ],
)
def test_labels_that_are_names_are_counted(make) -> None:
    data = from_tensors(torch.zeros(4, 2), labels=make(["sit", "run", "sit", "walk"]))
    assert data.classes == ("run", "sit", "walk")
    assert data.labels.tolist() == [1, 0, 1, 2]


def test_a_target_of_the_same_dtype_has_the_same_scale() -> None:
    sixteen = torch.full((4, 2), 16, dtype=torch.uint8)
    batch = from_tensors(sixteen, target=sixteen, scale=16)[:4]
    assert torch.equal(batch["x"], torch.ones(4, 2))
    assert torch.equal(batch["target"], torch.ones(4, 2))
