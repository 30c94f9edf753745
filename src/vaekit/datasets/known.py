"""The data sets that everybody knows."""

import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit import _checks
from vaekit.datasets.arrays import ArrayDataset, Binarize, check_binarisation

__all__ = ["celeba", "cifar10", "digits", "fashion_mnist", "kmnist", "mnist"]


def digits(
    *,
    binarize: Binarize = "none",
    threshold: float = 0.5,
    validation: int = 0,
    test: int = 297,
    seed: int = 0,
) -> tuple[ArrayDataset, ...]:
    """Load the 1,797 handwritten digits that vaekit ships: no download, no waiting.

    Args:
        binarize: As for `ArrayDataset`.
        threshold: As for `ArrayDataset`.
        validation: How many images to set apart for validation.
        test: How many images to set apart for the test.
        seed: Of the split, and of the static binarisation.

    Returns:
        ``(train, test)``, or ``(train, validation, test)`` where a number was asked for; images of
        (1, 8, 8) in [0, 1], with their labels.

    Raises:
        ValueError: If ``binarize`` is unknown, ``threshold`` outside (0, 1], or nothing is left to
            train on.

    Example:
        >>> train, test = digits(binarize="dynamic")
        >>> train
        ArrayDataset(1500 x (1, 8, 8) uint8, labels, binarize='dynamic')

    References:
        E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits*, 1998,
        doi:10.24432/C50P49, CC BY 4.0.
    """
    with files("vaekit.datasets").joinpath("digits.npz").open("rb") as file, np.load(file) as held:
        images, labels = torch.from_numpy(held["images"]), torch.from_numpy(held["labels"])
    whole = ArrayDataset(
        images[:, None],
        labels.long(),
        scale=16,
        binarize=binarize,
        threshold=threshold,
        seed=seed,
        classes=[str(digit) for digit in range(10)],
    )
    train, held_out = whole.split(_rest("test", test, whole), test, seed=seed)
    return (*_set_apart(train, validation, seed), held_out)


def mnist(
    root: str | Path | None = None,
    *,
    binarize: Binarize = "none",
    threshold: float = 0.5,
    validation: int = 0,
    seed: int = 0,
    download: bool = True,
) -> tuple[ArrayDataset, ...]:
    """Load MNIST: 60,000 and 10,000 handwritten digits.

    Args:
        root: The folder that holds (or gets) the folder ``MNIST``. If None, what the environment
            variable ``VAEKIT_DATA`` names, else ``~/.cache/vaekit``.
        binarize: As for `ArrayDataset`.
        threshold: As for `ArrayDataset`.
        validation: How many training images to set apart for validation.
        seed: Of that split, and of the static binarisation.
        download: Whether to download what is not there.

    Returns:
        ``(train, test)``, or ``(train, validation, test)`` where a number was asked for; images of
        (1, 28, 28) in [0, 1], with their labels.

    Raises:
        FileNotFoundError: If the files are not there and cannot be downloaded.
        ImportError: If torchvision, which reads the files, is missing or does not fit torch.
        ValueError: If ``binarize`` is unknown, ``threshold`` outside (0, 1], or ``validation`` no
            number of images that leaves some to train on.

    Example:
        .. code-block:: python

            train, test = vk.datasets.mnist(binarize="dynamic")
            model, objective = vk.recipes.vae(vk.likelihoods.Bernoulli(train.shape), 20)
            vk.fit(model, objective, train, epochs=10, validation=test)

    References:
        Y. LeCun, C. Cortes and C. J. C. Burges, *The MNIST Database of Handwritten Digits*, 1998.
    """
    return _from_torchvision("MNIST", root, binarize, threshold, validation, seed, download)


def fashion_mnist(
    root: str | Path | None = None,
    *,
    binarize: Binarize = "none",
    threshold: float = 0.5,
    validation: int = 0,
    seed: int = 0,
    download: bool = True,
) -> tuple[ArrayDataset, ...]:
    """Load Fashion-MNIST: 60,000 and 10,000 images of clothing, (1, 28, 28).

    Arguments, returns and errors are those of `mnist`.

    Example:
        .. code-block:: python

            train, validation, test = vk.datasets.fashion_mnist(validation=5000)
            print(train.classes)

    References:
        H. Xiao, K. Rasul and R. Vollgraf, *Fashion-MNIST*, 2017.
    """
    return _from_torchvision("FashionMNIST", root, binarize, threshold, validation, seed, download)


def kmnist(
    root: str | Path | None = None,
    *,
    binarize: Binarize = "none",
    threshold: float = 0.5,
    validation: int = 0,
    seed: int = 0,
    download: bool = True,
) -> tuple[ArrayDataset, ...]:
    """Load Kuzushiji-MNIST: 60,000 and 10,000 cursive Japanese characters, (1, 28, 28).

    Arguments, returns and errors are those of `mnist`.

    Example:
        .. code-block:: python

            train, test = vk.datasets.kmnist(root="data", download=False)

    References:
        T. Clanuwat et al., *Deep Learning for Classical Japanese Literature*, 2018.
    """
    return _from_torchvision("KMNIST", root, binarize, threshold, validation, seed, download)


def cifar10(
    root: str | Path | None = None,
    *,
    binarize: Binarize = "none",
    threshold: float = 0.5,
    validation: int = 0,
    seed: int = 0,
    download: bool = True,
) -> tuple[ArrayDataset, ...]:
    """Load CIFAR-10: 50,000 and 10,000 small photographs, (3, 32, 32).

    Arguments, returns and errors are those of `mnist`.

    Example:
        .. code-block:: python

            train, test = vk.datasets.cifar10()
            likelihood = vk.likelihoods.DiscretizedLogistic(train.shape)

    References:
        A. Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009.
    """
    return _from_torchvision("CIFAR10", root, binarize, threshold, validation, seed, download)


def celeba(
    root: str | Path | None = None,
    size: int = 64,
    *,
    download: bool = True,
) -> tuple[ArrayDataset, ...]:
    """Load CelebA: 162,770, 19,867 and 19,962 faces, cut to a square and scaled.

    The labels are the 40 attributes, ``(N, 40)`` zeros and ones, named by ``classes``. All images
    are held in memory as bytes: 2.5 GB at a size of 64.

    Args:
        root: As for `mnist`.
        size: The side of the square in pixels, to which the middle 148x148 pixels are scaled.
        download: As for `mnist`.

    Returns:
        ``(train, validation, test)``, as published; images of (3, size, size) in [0, 1].

    Raises:
        FileNotFoundError: As for `mnist`.
        ImportError: As for `mnist`.
        ValueError: If an image is missing or cannot be read, which is named.

    Example:
        .. code-block:: python

            train, validation, test = vk.datasets.celeba(size=64)
            smiling = train.classes.index("Smiling")

    References:
        Z. Liu et al., *Deep Learning Face Attributes in the Wild*, 2015.
    """
    from PIL import Image

    _checks.positive_int("size", size)
    parts = []
    for split in ("train", "valid", "test"):
        held = _open("CelebA", root, download, split=split, target_type="attr")
        x = np.empty((len(held), 3, size, size), np.uint8)
        labels = np.empty((len(held), len(held.attr_names[:40])), np.int64)
        for index in range(len(held)):
            try:
                image, attributes = held[index]
                left, top = (image.width - 148) // 2, (image.height - 148) // 2
                with image:
                    square = image.crop((left, top, left + 148, top + 148))
                scaled = square.resize((size, size), Image.Resampling.BILINEAR)
            except (OSError, SyntaxError, Image.DecompressionBombError) as error:
                got = f"{held.filename[index]} ({error})"
                raise ValueError(
                    _checks.expected("root", "images that can be read", got)
                ) from error
            x[index] = np.asarray(scaled).transpose(2, 0, 1)
            labels[index] = attributes.numpy()
        parts.append(ArrayDataset(torch.from_numpy(x), labels, classes=held.attr_names[:40]))
    return tuple(parts)


def _from_torchvision(
    name: str,
    root: str | Path | None,
    binarize: Binarize,
    threshold: float,
    validation: int,
    seed: int,
    download: bool,
) -> tuple[ArrayDataset, ...]:
    check_binarisation(binarize, threshold)  # before anything is downloaded
    if validation != 0:
        _checks.positive_int("validation", validation)

    def part(train: bool) -> ArrayDataset:
        held = _open(name, root, download, train=train)
        return ArrayDataset(
            _channels_first(torch.as_tensor(held.data)),
            torch.as_tensor(held.targets),
            binarize=binarize,
            threshold=threshold,
            seed=seed,
            classes=held.classes,
        )

    return (*_set_apart(part(train=True), validation, seed), part(train=False))


def _channels_first(images: Tensor) -> Tensor:
    return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def _set_apart(train: ArrayDataset, validation: int, seed: int) -> tuple[ArrayDataset, ...]:
    if validation == 0:
        return (train,)
    return train.split(_rest("validation", validation, train), validation, seed=seed)


def _rest(argument: str, count: int, whole: ArrayDataset) -> int:
    rest = len(whole) - _checks.positive_int(argument, count)
    if rest < 1:
        what = f"fewer than the {len(whole)} images there are"
        raise ValueError(_checks.expected(argument, what, count))
    return rest


def _open(name: str, root: str | Path | None, download: bool, **options: Any) -> Any:
    """Open a data set of torchvision's, saying what is wrong where that fails."""
    if root is None:
        root = os.environ.get("VAEKIT_DATA") or Path.home() / ".cache" / "vaekit"
    make: Callable[..., Any] = getattr(_torchvision(), name)
    try:
        try:
            return make(root, download=False, **options)
        except RuntimeError:
            if not download:
                raise
            return make(root, download=True, **options)
    except (
        *(RuntimeError, OSError, ImportError, ValueError),
        *(AssertionError, KeyError),  # of a file that is of another kind than its name
    ) as error:
        hint = "Put the files there, or name another folder in VAEKIT_DATA."
        raise FileNotFoundError(
            _checks.expected("root", f"a folder that holds {name}", f"{root} ({error})", hint)
        ) from error


def _torchvision() -> Any:
    try:
        import torchvision.datasets
    except (ImportError, RuntimeError, OSError) as error:
        try:
            found = f"torchvision {version('torchvision')} beside torch {torch.__version__}"
        except PackageNotFoundError:
            found = "no torchvision"
        raise ImportError(
            f"This data set is read by torchvision, which cannot be imported: {error}. Found: "
            f"{found}. The two come in pairs, built alike (both for CPU, or both for the same "
            "CUDA). Install a pair in one command: pip install --force-reinstall torch torchvision."
        ) from error
    return torchvision.datasets
