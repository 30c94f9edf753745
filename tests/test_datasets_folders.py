"""Folders of images."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vaekit.datasets import image_folder

Refuses = Callable[..., Exception]


def _save(path: Path, picture: Any, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))
    (image if mode is None else image.convert(mode)).save(path)


def _grey(value: int, size: tuple[int, int] = (8, 8)) -> np.ndarray:
    return np.full(size, value, np.uint8)


@pytest.mark.parametrize("as_text", [False, True])
def test_folders_are_classes(as_text: bool, tmp_path: Path) -> None:
    for value, name in enumerate(["zebra/a.png", "ant/b.PNG", "ant/deep/er/c.jpeg", "zebra/d.bmp"]):
        _save(tmp_path / name, _grey(60 * value))
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    data = image_folder(str(tmp_path) if as_text else tmp_path, 8, channels=1)
    assert data.classes == ("ant", "zebra")
    x, y = data[:]
    assert y.tolist() == [0, 0, 1, 1]
    assert (255 * x[:, 0, 0, 0]).tolist() == [60, 120, 0, 180]


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    for value, name in enumerate("cab"):
        _save(tmp_path / f"{name}.png", _grey(value))
    data = image_folder(tmp_path, 8, channels=1)
    assert (data.labels, data.classes) == (None, ())
    assert (255 * data[:][:, 0, 0, 0]).round().tolist() == [1, 2, 0]
    assert "uint8" in repr(data)


def test_links_are_followed_though_not_in_circles(tmp_path: Path) -> None:
    _save(tmp_path / "elsewhere" / "a.png", _grey(10))
    _save(tmp_path / "data" / "zebra" / "b.png", _grey(20))
    (tmp_path / "data" / "ant").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "zebra" / "all").symlink_to(tmp_path / "data")
    data = image_folder(tmp_path / "data", 8, channels=1)
    assert data.classes == ("ant", "zebra")
    assert data.labels.tolist() == [0, 1]
    assert (255 * data[:][0][:, 0, 0, 0]).round().tolist() == [10, 20]


def test_what_programs_keep_for_themselves_is_no_image(tmp_path: Path) -> None:
    _save(tmp_path / "ant" / "a.png", _grey(10))
    _save(tmp_path / "ant" / "deep.png" / "b.png", _grey(20))  # in a folder with such a name
    _save(tmp_path / ".ipynb_checkpoints" / "a-checkpoint.png", _grey(30))
    (tmp_path / "ant" / "._a.png").write_bytes(b"of another system")
    data = image_folder(tmp_path, 8, channels=1)
    assert data.classes == ("ant",)
    assert (255 * data[:][0][:, 0, 0, 0]).round().tolist() == [10, 20]


def test_what_is_transparent_lies_on_white(tmp_path: Path) -> None:
    icon = Image.new("RGBA", (8, 8))  # nothing, as black as what is drawn on it
    icon.paste((0, 0, 0, 255), (0, 0, 4, 8))
    _save(tmp_path / "a.png", icon)
    _save(tmp_path / "b.png", icon.convert("LA"))
    _save(tmp_path / "c.gif", icon)
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    _save(tmp_path / "d.png", half)
    grey = Image.fromarray(np.repeat([[0, 7]], 8, 0).repeat(4, 1).astype(np.uint8))
    grey.save(tmp_path / "e.png", transparency=7)
    *found, between = 255 * image_folder(tmp_path, 8)[:][torch.tensor([0, 1, 2, 4, 3])]
    for each in found:
        assert torch.equal(each[..., :4], torch.zeros(3, 8, 4))
        assert torch.equal(each[..., 4:].round(), torch.full((3, 8, 4), 255.0))
    assert torch.equal(between.round(), torch.full((3, 8, 8), 127.0))


def test_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    _save(tmp_path / "a.png", picture)
    expected = torch.from_numpy(picture.transpose(2, 0, 1).copy()).float() / 255
    assert torch.equal(image_folder(tmp_path, (5, 7))[0], expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("size", "shape"),
    [(6, (6, 6)), ((6, 4), (6, 4)), ((3, 12), (3, 12))],
)
def test_sizes(size: Any, shape: tuple[int, int], channels: int, tmp_path: Path) -> None:
    _save(tmp_path / "tall.png", _grey(255, (20, 10)))
    _save(tmp_path / "wide.png", _grey(255, (10, 31)))
    data = image_folder(tmp_path, size, channels=channels)
    assert torch.equal(data[:], torch.ones(2, channels, *shape))


@pytest.mark.parametrize("transposed", [False, True])
def test_the_middle_is_cut_out(transposed: bool, tmp_path: Path) -> None:
    picture = np.zeros((4, 12), np.uint8)
    picture[:, 4:8] = 255
    _save(tmp_path / "a.png", picture.T if transposed else picture)
    assert torch.equal(image_folder(tmp_path, 4, channels=1)[0], torch.ones(1, 4, 4))


RED = np.full((8, 8, 3), (204, 0, 0), np.uint8)  # which the web's palette holds


@pytest.mark.parametrize(
    ("picture", "mode", "colour"),
    [
        (RED, None, (204, 0, 0)),
        (RED, "RGBA", (204, 0, 0)),
        (RED, "P", (204, 0, 0)),
        (_grey(100), None, (100, 100, 100)),
        (_grey(100), "LA", (100, 100, 100)),
        (_grey(255), "1", (255, 255, 255)),
        (_grey(0).astype(np.uint16) + 100 * 257, None, (100, 100, 100)),
        (_grey(0).astype(np.uint16) + 65_535, None, (255, 255, 255)),
    ],
    ids=["RGB", "RGBA", "palette", "grey", "grey with alpha", "1 bit", "16 bits", "16 bits, white"],
)
def test_every_mode_is_converted(
    picture: np.ndarray, mode: str | None, colour: tuple[int, int, int], tmp_path: Path
) -> None:
    _save(tmp_path / "a.png", picture, mode)
    found = 255 * image_folder(tmp_path, 4)[0]
    assert torch.equal(found.round(), torch.tensor(colour).float()[:, None, None].expand(3, 4, 4))
    # ITU-R 601-2: the luma that PIL's grey is.
    luma = round(np.dot(colour, [0.299, 0.587, 0.114]))
    grey = 255 * image_folder(tmp_path, 4, channels=1)[0]
    assert torch.equal(grey.round(), torch.full((1, 4, 4), float(luma)))


def test_options_reach_the_data(tmp_path: Path) -> None:
    _save(tmp_path / "a.png", _grey(100, (40, 40)))
    x = image_folder(tmp_path, 40, channels=1, binarize="threshold", threshold=0.3)[0]
    assert torch.equal(x, torch.ones(1, 40, 40))
    draws = [image_folder(tmp_path, 40, binarize="static", seed=seed)[0] for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def _bytes_of(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


@pytest.mark.parametrize(
    "content", [b"", b"no image at all", _bytes_of(NOISE)[:500], _bytes_of(NOISE)[:40]]
)
def test_a_corrupt_image_is_named(content: bytes, refuses: Refuses, tmp_path: Path) -> None:
    _save(tmp_path / "a.png", _grey(0))
    file = tmp_path / "b.png"
    file.write_bytes(content)
    refuses(ValueError, lambda: image_folder(tmp_path, 8), "path: expected", "read", str(file))


def test_an_image_said_to_be_huge_is_named(
    refuses: Refuses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)  # as 60,000 x 60,000 are too many
    _save(tmp_path / "a.png", NOISE)
    words = ("path: expected images that can be read", str(tmp_path / "a.png"))
    refuses(ValueError, lambda: image_folder(tmp_path, 8), *words)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_an_image_of_unknown_range_is_named(dtype: type, refuses: Refuses, tmp_path: Path) -> None:
    _save(tmp_path / "a.tif", _grey(1).astype(dtype))
    words = ("path: expected", str(tmp_path / "a.tif"), "range")
    refuses(ValueError, lambda: image_folder(tmp_path, 8), *words)


def test_a_folder_without_images(refuses: Refuses, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    refuses(ValueError, lambda: image_folder(tmp_path, 8), "path: expected", ".png", str(tmp_path))


def test_no_folder(refuses: Refuses, tmp_path: Path) -> None:
    _save(tmp_path / "a.png", _grey(0))
    for path in (tmp_path / "none", tmp_path / "a.png"):
        words = ("path: expected a folder", str(path))
        refuses(FileNotFoundError, lambda path=path: image_folder(path, 8), *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channels": 2}, ("channels: expected 1 or 3", "got 2")),
        ({"size": 0}, ("size: expected", "above 0", "got 0")),
        ({"size": (8, -1)}, ("size: expected", "above 0", "got -1")),
        ({"size": (8,)}, ("size: expected", "(height, width)", "(8,)")),
        ({"size": (3, 8, 8)}, ("size: expected", "(height, width)", "(3, 8, 8)")),
        ({"size": 2.5}, ("size: expected", "(height, width)", "2.5")),
        ({"size": None}, ("size: expected", "(height, width)", "None")),
        ({"size": "8"}, ("size: expected", "'8'")),
        ({"binarize": "dynamc"}, ("binarize: expected one of", "'dynamc'")),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(
    options: dict[str, Any], words: tuple[str, ...], refuses: Refuses, tmp_path: Path
) -> None:
    _save(tmp_path / "a.png", _grey(0))
    refuses(ValueError, lambda: image_folder(tmp_path, **{"size": 8} | options), *words)
