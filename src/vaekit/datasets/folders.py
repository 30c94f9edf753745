"""Folders of images."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from vaekit import _checks
from vaekit.datasets.arrays import ArrayDataset, Binarize, check_binarisation

__all__ = ["image_folder"]

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_MODES = {1: "L", 3: "RGB"}


def image_folder(
    path: str | Path,
    size: int | tuple[int, int],
    *,
    channels: int = 3,
    binarize: Binarize = "none",
    threshold: float = 0.5,
    seed: int = 0,
) -> ArrayDataset:
    """Read every image below a folder, behind links too, but nothing whose name begins with a dot.

    Each is turned as its EXIF data say, laid on white where it is transparent, scaled until it
    covers ``size`` and cut to it at the centre; all are held in memory as bytes. Where the folder
    holds sub-folders, the name of the first one on the way to an image is its class, and the labels
    count the classes in alphabetical order.

    Args:
        path: The folder.
        size: The side of the square, or ``(height, width)``, in pixels.
        channels: 1 for grey pictures, 3 for colours; whatever the files hold is converted.
        binarize: As for `ArrayDataset`.
        threshold: As for `ArrayDataset`.
        seed: As for `ArrayDataset`.

    Returns:
        Images of ``(channels, height, width)`` in [0, 1].

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no image, or one that cannot be read, which is named.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog"):
        ...     (folder / name).mkdir()
        ...     Image.new("RGB", (40, 30)).save(folder / name / "1.png")
        >>> data = image_folder(folder, size=16)
        >>> len(data), data.shape, data.classes
        (2, torch.Size([3, 16, 16]), ('cat', 'dog'))
    """
    from PIL import Image, ImageOps

    check_binarisation(binarize, threshold)  # before anything is read
    path = Path(path)
    height, width = _height_and_width(size)
    if channels not in _MODES:
        raise ValueError(_checks.expected("channels", "1 or 3", channels))
    if not path.is_dir():
        raise FileNotFoundError(_checks.expected("path", "a folder", f"{path}, which is none"))
    files = sorted(_images(path))
    if not files:
        what = "a folder with images (" + " ".join(sorted(_SUFFIXES)) + ")"
        raise ValueError(_checks.expected("path", what, f"{path}, without one"))

    x = np.empty((len(files), channels, height, width), np.uint8)
    for index, file in enumerate(files):
        try:
            with Image.open(file) as opened:
                image: Image.Image = ImageOps.exif_transpose(opened)
                if image.mode in ("I", "F"):
                    raise ValueError(f"mode {image.mode!r}, whose range is unknown")
                if image.mode.startswith("I;16"):  # which PIL would cut off at 255
                    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
                if "A" in image.getbands() or "transparency" in image.info:
                    image = image.convert("RGBA")
                    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
                fitted = ImageOps.fit(image.convert(_MODES[channels]), (width, height))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(
                _checks.expected("path", "images that can be read", f"{file} ({error})")
            ) from error
        x[index] = np.asarray(fitted).reshape(height, width, channels).transpose(2, 0, 1)

    folders = [file.relative_to(path).parts[0] if file.parent != path else "" for file in files]
    classes = sorted(set(folders))
    labels = [classes.index(folder) for folder in folders] if classes != [""] else None
    return ArrayDataset(
        torch.from_numpy(x),
        labels,
        binarize=binarize,
        threshold=threshold,
        seed=seed,
        classes=classes if labels else (),
    )


def _images(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Find the images below a folder; what is linked to from within itself is gone into once."""
    above |= {folder.resolve()}
    for each in folder.iterdir():
        if each.name.startswith("."):  # what programs keep for themselves, copies of images too
            continue
        if each.is_dir():
            if each.resolve() not in above:
                yield from _images(each, above)
        elif each.suffix.lower() in _SUFFIXES:
            yield each


def _height_and_width(size: int | tuple[int, int]) -> torch.Size:
    sizes = (size, size) if hasattr(size, "__index__") else size
    if not isinstance(sizes, tuple | list) or len(sizes) != 2:
        what = "a whole number, or (height, width)"
        raise ValueError(_checks.expected("size", what, repr(size)))
    return _checks.event_shape("size", sizes)
