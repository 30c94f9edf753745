"""The data sets that everybody knows, read from files in their published formats."""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from vaekit import datasets
from vaekit.datasets import ArrayDataset, celeba, cifar10, digits, fashion_mnist, kmnist, mnist

Refuses = Callable[..., Exception]
Load = Callable[..., tuple[ArrayDataset, ...]]

RNG = np.random.default_rng(0)
TRAIN, TEST = 20, 10


@pytest.fixture
def torchvision() -> ModuleType:
    try:
        import torchvision.datasets
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision cannot be imported: {error}")
    module: ModuleType = torchvision.datasets
    return module


# The digits that come with vaekit


@pytest.mark.parametrize("options", [{}, {"validation": 300}, {"test": 1}, {"seed": 5}], ids=str)
def test_digits_are_those_of_scikit_learn(options: dict[str, int]) -> None:
    theirs = pytest.importorskip("sklearn.datasets").load_digits()
    parts = digits(**options)
    validation, test = options.get("validation", 0), options.get("test", 297)
    wanted = [1797 - validation - test, validation, test]
    assert [len(part) for part in parts] == [length for length in wanted if length]
    x, y = (torch.cat(tensors) for tensors in zip(*(part[:] for part in parts), strict=True))
    assert x.shape == (1797, 1, 8, 8)
    assert torch.equal(y.bincount(), torch.from_numpy(theirs.target).bincount())
    ours = torch.cat([16 * x.flatten(1), y[:, None]], 1).int().tolist()
    assert sorted(ours) == sorted(np.c_[theirs.data, theirs.target].astype(int).tolist())
    assert parts[0].classes == tuple("0123456789")


def test_digits_follow_their_seed() -> None:
    first, same, other = (digits(seed=seed, binarize="static")[0] for seed in (0, 0, 1))
    assert torch.equal(first[:][0], same[:][0])
    assert not torch.equal(first.labels, other.labels)


@pytest.mark.parametrize(
    ("binarize", "values"), [("none", 17), ("threshold", 2), ("dynamic", 2), ("static", 2)]
)
def test_digits_are_made_binary(binarize: Any, values: int) -> None:
    assert len(digits(binarize=binarize)[0][:][0].unique()) == values


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"test": 0}, ("test: expected", "above 0", "got 0")),
        ({"test": 1797}, ("test: expected fewer than the 1797", "got 1797")),
        ({"validation": -1}, ("validation: expected", "above 0", "got -1")),
        ({"validation": 0.1}, ("validation: expected", "whole number", "got 0.1")),
        ({"validation": 1500}, ("validation: expected fewer than the 1500", "got 1500")),
        ({"binarize": "dynamc"}, ("binarize: expected one of", "'dynamc'")),
        ({"threshold": 8}, ("threshold: expected", "(0, 1]", "got 8")),
    ],
    ids=str,
)
def test_digits_name_what_does_not_fit(
    options: dict[str, Any], words: tuple[str, ...], refuses: Refuses
) -> None:
    refuses(ValueError, lambda: digits(**options), *words)


# The files of others


def _write_idx(path: Path, array: np.ndarray) -> None:
    """The IDX format: two zeros, 8 for bytes, the number of dimensions, the sizes, the bytes."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def _idx(root: Path, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    written = []
    for part, n in (("train", TRAIN), ("t10k", TEST)):
        images, labels = RNG.integers(0, 256, (n, 28, 28), np.uint8), np.arange(n) % 10
        _write_idx(folder / f"{part}-images-idx3-ubyte", images)
        _write_idx(folder / f"{part}-labels-idx1-ubyte", labels)
        written.append((images[:, None], labels))
    return written


def _pickles(root: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = ["airplane", *map(str, range(8)), "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, 2))
    x = RNG.integers(0, 256, (TRAIN + TEST, 3, 32, 32), np.uint8)
    y = np.arange(len(x)) % 10
    batches = [(f"data_batch_{i + 1}", range(4 * i, 4 * i + 4)) for i in range(5)]
    for name, rows in [*batches, ("test_batch", range(TRAIN, TRAIN + TEST))]:
        held = {"data": x[rows].reshape(len(rows), 3072), "labels": y[rows].tolist()}
        (folder / name).write_bytes(pickle.dumps(held, 2))
    return [(x[:TRAIN], y[:TRAIN]), (x[TRAIN:], y[TRAIN:])]


FORMATS: dict[str, tuple[Load, Callable[[Path], list[tuple[np.ndarray, np.ndarray]]], str, str]] = {
    "MNIST": (mnist, lambda root: _idx(root, "MNIST"), "0 - zero", "9 - nine"),
    "FashionMNIST": (
        fashion_mnist,
        lambda root: _idx(root, "FashionMNIST"),
        "T-shirt/top",
        "Ankle boot",
    ),
    "KMNIST": (kmnist, lambda root: _idx(root, "KMNIST"), "o", "wo"),
    "CIFAR10": (cifar10, _pickles, "airplane", "truck"),
}
formats = pytest.mark.parametrize("name", FORMATS)


@pytest.fixture
def unsigned(torchvision: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small files pass for the published ones, whose checksums torchvision knows."""
    cifar = torchvision.CIFAR10
    for attribute in ("train_list", "test_list"):
        files = [[file, None] for file, _ in getattr(cifar, attribute)]
        monkeypatch.setattr(cifar, attribute, files)
    monkeypatch.setattr(cifar, "meta", cifar.meta | {"md5": None})
    unsigned = [(source, None, file) for source, _, file in torchvision.CelebA.file_list]
    monkeypatch.setattr(torchvision.CelebA, "file_list", unsigned)


@formats
@pytest.mark.parametrize("by_environment", [False, True])
@pytest.mark.usefixtures("unsigned")
def test_pixels_and_labels_are_those_of_the_files(
    name: str, by_environment: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, write, first, last = FORMATS[name]
    written = write(tmp_path)
    monkeypatch.setenv("VAEKIT_DATA", str(tmp_path) if by_environment else "nowhere")
    parts = load() if by_environment else load(tmp_path, download=False)
    for part, (images, labels) in zip(parts, written, strict=True):
        x, y = part[:]
        assert torch.equal(x, torch.from_numpy(images).float() / 255)
        assert y.tolist() == labels.tolist()
        assert "uint8" in repr(part)
        assert (part.classes[0], part.classes[-1], len(part.classes)) == (first, last, 10)


@formats
@pytest.mark.usefixtures("unsigned")
def test_options_reach_the_data(name: str, tmp_path: Path) -> None:
    load, write, *_ = FORMATS[name]
    ((images, _), _) = write(tmp_path)

    def parts(**options: Any) -> tuple[ArrayDataset, ...]:
        return load(tmp_path, download=False, **options)

    train, validation, test = parts(validation=5, seed=1, binarize="threshold", threshold=0.3)
    assert [len(part) for part in (train, validation, test)] == [TRAIN - 5, 5, TEST]
    x = torch.cat([train[:][0], validation[:][0]]).flatten(1)
    expected = (torch.from_numpy(images).flatten(1).float() / 255 >= 0.3).float()
    assert sorted(x.tolist()) == sorted(expected.tolist())
    assert torch.equal(parts(validation=5, seed=1)[1].labels, validation.labels)
    assert not torch.equal(parts(validation=5, seed=2)[0].labels, train.labels)
    static = [parts(seed=seed, binarize="static")[0][:][0] for seed in (1, 1, 2)]
    assert torch.equal(static[0], static[1])
    assert not torch.equal(static[0], static[2])


@formats
@pytest.mark.usefixtures("unsigned")
def test_options_that_do_not_fit_are_named(name: str, tmp_path: Path, refuses: Refuses) -> None:
    load, write, *_ = FORMATS[name]
    write(tmp_path)
    for options, *words in (
        ({"validation": TRAIN}, "validation: expected fewer than the 20 images", "got 20"),
        ({"validation": 0.5}, "validation: expected", "whole number", "got 0.5"),
        ({"threshold": 2}, "threshold: expected", "(0, 1]"),
    ):
        refuses(ValueError, lambda options=options: load(tmp_path, **options), *words)


@pytest.mark.parametrize("load", [mnist, fashion_mnist, kmnist, cifar10])
def test_a_misspelt_option_is_named_before_anything_is_looked_for(
    load: Load, refuses: Refuses
) -> None:
    refuses(ValueError, lambda: load("nowhere", binarize="dynamc"), "binarize: expected", "dynamc")


@pytest.mark.parametrize(
    ("load", "name"),
    [
        (mnist, "MNIST"),
        (fashion_mnist, "FashionMNIST"),
        (kmnist, "KMNIST"),
        (cifar10, "CIFAR10"),
        (celeba, "CelebA"),
    ],
)
def test_missing_files_name_the_folder(
    load: Load,
    name: str,
    torchvision: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    refuses: Refuses,
    tmp_path: Path,
) -> None:
    words = ("root: expected", f"holds {name}", str(tmp_path), "VAEKIT_DATA")
    refuses(FileNotFoundError, lambda: load(tmp_path, download=False), *words)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("VAEKIT_DATA", str(tmp_path))
    refuses(FileNotFoundError, lambda: load(download=False), *words)

    for error in (RuntimeError("no mirror"), URLError("no network"), ImportError("no gdown")):

        def fail(self: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(getattr(torchvision, name), "download", fail)
        refuses(FileNotFoundError, lambda: load(tmp_path), *words, str(error))


def test_without_a_folder_it_is_the_cache(
    torchvision: ModuleType, monkeypatch: pytest.MonkeyPatch, refuses: Refuses, tmp_path: Path
) -> None:
    monkeypatch.delenv("VAEKIT_DATA", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    root = str(tmp_path / ".cache" / "vaekit")
    refuses(FileNotFoundError, lambda: mnist(download=False), root)


@pytest.mark.parametrize("content", [b"", b"\0\0\x08", b"<html>404</html>", None])
def test_broken_files_name_the_folder(
    content: bytes | None, torchvision: ModuleType, refuses: Refuses, tmp_path: Path
) -> None:
    _idx(tmp_path, "MNIST")
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1000] if content is None else content)
    refuses(
        FileNotFoundError, lambda: mnist(tmp_path, download=False), "root: expected", str(tmp_path)
    )


# CelebA

ATTRIBUTES = [f"Attribute_{i}" for i in range(40)]
SPLITS = [0, 2, 0, 1, 0, 1, 2]


def _celeba(root: Path) -> tuple[list[np.ndarray], np.ndarray]:
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i + 1:06}.jpg" for i in range(len(SPLITS))]
    attributes = RNG.choice([-1, 1], (len(SPLITS), 40))
    pictures = []
    for name in names:
        picture = RNG.integers(0, 256, (218, 178, 3), np.uint8)
        # Lossless under the name of a JPEG, so that pixels can be compared.
        Image.fromarray(picture).save(folder / "img_align_celeba" / name, "PNG")
        pictures.append(picture)

    def table(file: str, rows: Any, header: str | None = None) -> None:
        lines = [f"{name} {' '.join(f'{int(v):2d}' for v in np.ravel(row))}" for name, row in rows]
        head = [] if header is None else [str(len(lines)), header]
        (folder / file).write_text("\n".join([*head, *lines]) + "\n")

    # The published header ends in a space.
    attribute_header = " ".join(ATTRIBUTES) + " "
    table("list_attr_celeba.txt", zip(names, attributes, strict=True), attribute_header)
    table("list_eval_partition.txt", zip(names, SPLITS, strict=True))
    table("identity_CelebA.txt", [(name, 1) for name in names])
    table(
        "list_bbox_celeba.txt", [(name, [95, 71, 226, 313]) for name in names], "image_id x y w h"
    )
    table("list_landmarks_align_celeba.txt", [(name, range(10)) for name in names], "lefteye_x ...")
    return pictures, (attributes + 1) // 2


@pytest.mark.usefixtures("unsigned")
def test_celeba_cuts_the_middle_and_keeps_the_attributes(tmp_path: Path) -> None:
    pictures, attributes = _celeba(tmp_path)
    for split, part in enumerate(celeba(tmp_path, size=148, download=False)):
        rows = [row for row, at in enumerate(SPLITS) if at == split]
        x, y = part[:]
        middle = np.stack([pictures[row][35:183, 15:163] for row in rows]).transpose(0, 3, 1, 2)
        assert torch.equal(x, torch.from_numpy(middle.copy()).float() / 255)
        assert y.tolist() == attributes[rows].tolist()
        assert part.classes == tuple(ATTRIBUTES)


@pytest.mark.usefixtures("unsigned")
def test_celeba_is_scaled(tmp_path: Path) -> None:
    _celeba(tmp_path)
    for file in (tmp_path / "celeba" / "img_align_celeba").iterdir():
        Image.new("RGB", (178, 218), (51, 102, 255)).save(file, "JPEG", quality=100, subsampling=0)
    train, *_ = celeba(tmp_path, size=7, download=False)
    with Image.open(file) as image:
        colour = torch.tensor(image.getpixel((0, 0))).float() / 255
    assert torch.equal(train[:][0], colour[None, :, None, None].expand(3, 3, 7, 7))


@pytest.mark.usefixtures("unsigned")
@pytest.mark.parametrize("missing", [False, True])
def test_celeba_names_an_image_that_cannot_be_read(
    missing: bool, refuses: Refuses, tmp_path: Path
) -> None:
    _celeba(tmp_path)
    file = sorted((tmp_path / "celeba" / "img_align_celeba").iterdir())[0]
    content = file.read_bytes()
    file.unlink()
    if not missing:
        file.write_bytes(content[: len(content) // 2])
    words = ("root: expected images that can be read", file.name)
    refuses(ValueError, lambda: celeba(tmp_path, size=8, download=False), *words)


@pytest.mark.parametrize("size", [0, -1, 2.5, (64, 64), "64"])
def test_celeba_refuses_a_size(size: Any, refuses: Refuses) -> None:
    refuses(ValueError, lambda: celeba("nowhere", size), "size: expected", repr(size))


# The real one


@pytest.mark.mnist
def test_the_real_mnist(torchvision: ModuleType, mnist_root: str) -> None:
    train, test = mnist(mnist_root, download=False)
    assert (len(train), len(test), train.shape) == (60_000, 10_000, (1, 28, 28))
    # As published: http://yann.lecun.com/exdb/mnist and the counts of every paper since.
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert train.labels.bincount().tolist() == counts
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert test.labels.bincount().tolist() == counts
    assert train[:10][1].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    x, _ = train[:1000]
    assert x.min() == 0
    assert x.max() == 1


def test_every_loader_is_tested_here() -> None:
    loaders = {"digits", "mnist", "fashion_mnist", "kmnist", "cifar10", "celeba"}
    assert set(datasets.known.__all__) == loaders <= set(datasets.__all__)
