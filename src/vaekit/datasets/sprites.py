"""Images made from factors that are known: sprites drawn by code, and the published dSprites."""

import copy
import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int, Integer, Shaped
from torch import Tensor
from torch.distributions import constraints

from vaekit import _checks
from vaekit.datasets.arrays import ArrayDataset, as_tensor, floats, take

__all__ = ["FactorDataset", "dsprites", "sprites"]

_SIDE = 64  # of an image, in pixels
_PLACES = 32  # along each axis, a pixel apart
_REACH = 16  # pixels from the centre that a sprite may cover: 31 + 16 + 1 + 16 = 64
_AREA = 23.0**2  # of every shape at scale 1, in pixels
_NAMES = ("shape", "scale", "orientation", "x", "y")
_HOME = "https://github.com/google-deepmind/dsprites-dataset"

Array = npt.NDArray[Any]
Inside = Callable[[Tensor, Tensor], Tensor]  # which points lie in a shape


class FactorDataset(ArrayDataset):
    """A data set of every combination of some factors, once each, the last factor fastest.

    An element is the pair of an image and its factor indices. The data set is also a
    `vaekit.metrics.GroundTruth`: the scores of disentanglement draw from it what they need. What
    ``subset`` and ``split`` return are parts of a product and no product themselves; their
    ``factor_sizes`` and `images` are still those of the whole. A part that is a product is made by
    `select`.

    Args:
        x: The images, first dimension over elements.
        factor_values: For each factor, slowest first, its name and its values.
        rows: Which element of ``x`` shows each combination; by default, they come in order.
        scale: As for `ArrayDataset`.
        dtype: As for `ArrayDataset`.

    Shape:
        ``rows: factor_sizes``, ``(3, 6, 40, 32, 32)`` for example.

    Raises:
        TypeError: If ``x`` is no array of numbers.
        ValueError: If ``x`` is empty or holds NaN, a factor has no value, or ``rows`` does not fit.

    Example:
        >>> x = torch.rand(6, 1, 8, 8)
        >>> data = FactorDataset(x, {"colour": [0.0, 1.0], "size": [3, 4, 5]})
        >>> data
        FactorDataset(6 x (1, 8, 8), colour=2, size=3)
        >>> image, factors = data[4]
        >>> factors
        tensor([1, 1])
        >>> data.images(factors[None]).equal(image[None])
        True
    """

    _x: Tensor
    labels: Tensor

    def __init__(
        self,
        x: Shaped[Tensor, "elements *event"],
        factor_values: Mapping[str, Any],
        rows: Integer[Tensor, "..."] | None = None,
        *,
        scale: float | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(_checks.expected("x", "a tensor", type(x).__name__))
        memory = _memory(x)  # whose values are looked at in place of those of x
        super().__init__(memory, scale=scale, dtype=dtype)
        self._x = x
        #: The values of each factor, by name.
        self.factor_values = {
            name: torch.as_tensor(values, dtype=self.dtype, device=x.device)
            for name, values in factor_values.items()
        }
        for name, values in self.factor_values.items():
            if values.ndim != 1 or not len(values):
                got = f"shape {tuple(values.shape)}"
                raise ValueError(_checks.expected(name, "a row of at least one value", got))
        sizes = tuple(map(len, self.factor_values.values()))
        count = math.prod(sizes)
        if not sizes or (rows is None and len(x) != count):
            what = f"as many combinations of factors as the {len(x)} elements of x"
            raise ValueError(_checks.expected("factor_values", what, f"sizes {sizes}"))
        grid = torch.arange(count).view(sizes) if rows is None else rows
        if tuple(grid.shape) != sizes:
            raise ValueError(_checks.expected("rows", f"shape {sizes}", tuple(grid.shape)))
        low, high = (int(bound) for bound in grid.aminmax())
        if low < 0 or high >= len(x):
            what = f"whole numbers from 0 to {len(x) - 1}"
            raise ValueError(_checks.expected("rows", what, f"{low} to {high}"))
        zeros_and_ones = x.dtype == torch.uint8 and int(memory.max()) <= 1
        self._binary = zeros_and_ones and self._scale == 1
        self._set_grid(grid.long().to(x.device))

    def __repr__(self) -> str:
        count = self._grid.numel()
        length = f"{count}" if self._is_whole() else f"{len(self)} of {count}"
        pairs = zip(self.factor_names, self.factor_sizes, strict=True)
        factors = ", ".join(f"{name}={size}" for name, size in pairs)
        return f"FactorDataset({length} x {tuple(self.shape)}, {factors})"

    @property
    def factor_names(self) -> tuple[str, ...]:
        """The names of the factors, slowest first."""
        return tuple(self.factor_values)

    @property
    def factor_sizes(self) -> tuple[int, ...]:
        """How many values each factor has."""
        return tuple(self._grid.shape)

    @property
    def support(self) -> constraints.Constraint:
        """Where values to be reconstructed lie for certain, so that nobody need look at them."""
        return constraints.boolean if self._binary else super().support

    def images(self, indices: Integer[Tensor, "n factors"], /) -> Float[Tensor, "n ..."]:
        """Return the images of factor indices, on the device of the data set.

        Raises:
            TypeError: If the indices are no whole numbers.
            ValueError: If there is not one for each factor.
            IndexError: If a factor has no such value.

        Example:
            >>> sprites().images(torch.tensor([[0, 5, 0, 16, 16]])).sum()  # a square of 23 x 23
            tensor(529.)
        """
        rows = self._grid[self._checked(indices).unbind(1)]
        return floats(take(self._x, rows), self._scale, self.dtype)

    def values(self, indices: Integer[Tensor, "n factors"]) -> Float[Tensor, "n factors"]:
        """Return the values of factor indices, in the units of each factor.

        Raises:
            TypeError: As for `images`.
            ValueError: As for `images`.
            IndexError: As for `images`.

        Example:
            >>> sprites().values(torch.tensor([[0, 5, 0, 0, 31]]))  # shape, scale, angle, x, y
            tensor([[1., 1., 0., 0., 1.]])
        """
        columns = self._checked(indices).unbind(1)
        pairs = zip(self.factor_values.values(), columns, strict=True)
        return torch.stack([values[column] for values, column in pairs], 1)

    def indices(self, flat: Any) -> Int[Tensor, "n factors"]:
        """Return the factor indices of the elements at some positions.

        Raises:
            TypeError: If the positions are no whole numbers.
            IndexError: If one of them is not there.

        Example:
            >>> sprites().indices([0, 1, 32, 1024])
            tensor([[0, 0, 0, 0, 0],
                    [0, 0, 0, 0, 1],
                    [0, 0, 0, 1, 0],
                    [0, 0, 1, 0, 0]])
        """
        return self.labels[self._positions("flat", flat).to(self.device)]

    def flat(self, indices: Integer[Tensor, "n factors"]) -> Int[Tensor, " n"]:
        """Return the positions of factor indices in the whole product.

        Raises:
            TypeError: As for `images`.
            ValueError: As for `images`.
            IndexError: As for `images`.

        Example:
            >>> sprites().flat(torch.tensor([[0, 0, 1, 0, 2]]))
            tensor([1026])
        """
        strides = torch.tensor(
            [math.prod(self._grid.shape[i + 1 :]) for i in range(self._grid.ndim)]
        )
        return (self._checked(indices) * strides.to(self.device)).sum(1)

    def select(self, **factors: Any) -> "FactorDataset":
        """Return the product of some values of some factors, over the same memory.

        Args:
            factors: By the factor's name, the index of the value to keep, or a row of them, whose
                order becomes that of the values. A factor that is not named keeps all.

        Raises:
            TypeError: If the indices are no whole numbers.
            ValueError: If a factor is not there, an index comes twice, none is given, or this is a
                part of a product.
            IndexError: If a factor has no such value.

        Example:
            >>> sprites().select(shape=0, orientation=range(0, 40, 4))
            FactorDataset(61440 x (1, 64, 64), shape=1, scale=6, orientation=10, x=32, y=32)
        """
        if not self._is_whole():
            hint = "Select first, then split."
            raise ValueError(_checks.expected("data set", "a whole product", repr(self), hint))
        chosen = copy.copy(self)
        chosen.factor_values = dict(self.factor_values)
        grid = self._grid
        for name, kept in factors.items():
            _checks.one_of("factors", name, self.factor_names)
            dim = self.factor_names.index(name)
            which = _as_row(name, kept).to(self.device)
            if not len(which) or len(which.unique()) < len(which):
                what = "at least one index, and none of them twice"
                raise ValueError(_checks.expected(name, what, which.tolist()))
            _check_range(name, which, self.factor_sizes[dim])
            grid = grid.index_select(dim, which)
            chosen.factor_values[name] = self.factor_values[name][which]
        chosen._set_grid(grid)
        return chosen

    def to(self, device: torch.device | str) -> "FactorDataset":
        """Return the same data set with its memory on a device."""
        memory = _memory(self._x)
        moved = copy.copy(self)
        moved._x = memory.to(device)
        if memory is not self._x:
            x = self._x
            moved._x = moved._x.as_strided(x.shape, x.stride(), x.storage_offset())
        moved.labels, moved._grid = self.labels.to(device), self._grid.to(device)
        moved._rows = None if self._rows is None else self._rows.to(device)
        moved.factor_values = {
            name: values.to(device) for name, values in self.factor_values.items()
        }
        return moved

    def _set_grid(self, grid: Tensor) -> None:
        self._grid, self._rows = grid, grid.flatten()
        self.labels = torch.cartesian_prod(
            *(torch.arange(n, device=grid.device) for n in grid.shape)
        )
        self.labels = self.labels.view(-1, grid.ndim)

    def _is_whole(self) -> bool:
        return self._rows is not None and torch.equal(self._rows, self._grid.flatten())

    def _checked(self, indices: Tensor) -> Tensor:
        if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
            raise TypeError(_checks.expected("indices", "whole numbers", indices.dtype))
        if indices.ndim != 2 or indices.shape[1] != self._grid.ndim:
            what = f"shape (n, {self._grid.ndim}): {', '.join(self.factor_names)}"
            raise ValueError(_checks.expected("indices", what, tuple(indices.shape)))
        indices = indices.to(self.device).long()
        for name, size, column in zip(
            self.factor_names, self.factor_sizes, indices.unbind(1), strict=True
        ):
            _check_range(name, column, size)
        return indices


def sprites(*, dtype: torch.dtype | None = None) -> FactorDataset:
    r"""Draw the data set dSprites by code: 737,280 images of a white shape on black.

    The factors and their order are as published: the shape (square, ellipse, heart), 6 scales from
    1/2 to 1, 40 orientations from 0 to 2 pi, and 32 places along each of x and y, from 0 to 1. The
    pixels are not: they were published as another program drew them. For those, see `dsprites`.

    A pixel is 1 where its centre lies in the shape. At scale 1 every shape covers 529 pixels, so
    that none is told by its size: a square, an ellipse of axes 8 to 5, and a heart made of a square
    on its corner and two half-discs. A shape turns anticlockwise about its centre of mass, which a
    step of x moves a pixel to the right and a step of y a pixel down; it never leaves the image.
    The last orientation is the first, as 2 pi is 0; and some turns of a square are too small to
    change a pixel.

    What is held are 3 megabytes of pixels, of which every image is a stretch, and 36 of indices.

    Args:
        dtype: Of the floats in {0, 1} that images are made of; torch's default dtype if None.

    Returns:
        Images of (1, 64, 64), with their factor indices.

    Example:
        >>> data = sprites()
        >>> data
        FactorDataset(737280 x (1, 64, 64), shape=3, scale=6, orientation=40, x=32, y=32)
        >>> data.factor_values["scale"]
        tensor([0.5000, 0.6000, 0.7000, 0.8000, 0.9000, 1.0000])
        >>> images, factors = data[:16]
        >>> images.shape, factors.shape
        (torch.Size([16, 1, 64, 64]), torch.Size([16, 5]))
        >>> hearts = data.select(shape=2, orientation=range(0, 40, 4))
        >>> train, test = hearts.split(0.9, 0.1)

    References:
        L. Matthey, I. Higgins, D. Hassabis and A. Lerchner, *dSprites: Disentanglement Testing
        Sprites Dataset*, 2017, https://github.com/google-deepmind/dsprites-dataset.
    """
    scales = torch.linspace(0.5, 1, 6, dtype=torch.double)
    angles = torch.linspace(0, 2 * math.pi, 40, dtype=torch.double)
    drawn = torch.stack([_draw(inside, scales[:, None], angles) for inside in _SHAPES])
    # The sprites lie at the bottom right of images that follow one another. Read from s pixels
    # further on, an image has its sprite s pixels to the left, and what comes in is black.
    last = _PLACES - 1
    pages = torch.zeros(*drawn.shape[:3], _SIDE, _SIDE, dtype=torch.uint8)
    pages[..., last:, last:] = drawn
    memory = torch.cat([pages.flatten(), torch.zeros(last * (_SIDE + 1), dtype=torch.uint8)])
    size = _SIDE**2
    x = memory.as_strided((len(memory) - size + 1, 1, _SIDE, _SIDE), (1, size, _SIDE, 1))
    page = size * torch.arange(drawn[..., 0, 0].numel()).view(*drawn.shape[:3], 1, 1)
    steps = torch.arange(last, -1, -1)
    places = torch.linspace(0, 1, _PLACES)
    values = ([1, 2, 3], scales, angles, places, places)
    rows = page + steps[:, None] + _SIDE * steps
    return FactorDataset(x, dict(zip(_NAMES, values, strict=True)), rows, scale=1, dtype=dtype)


def dsprites(path: str | Path, *, dtype: torch.dtype | None = None) -> FactorDataset:
    """Read dSprites as published, or a file of the same form that holds a product of fewer values.

    The colour, which has one value, is left out; so is the file's pickled metadata, unread. All
    images are held in memory as bytes: 3 GB.

    Args:
        path: The file ``dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz``.
        dtype: As for `sprites`.

    Returns:
        Images of (1, 64, 64), with their factor indices, as `sprites` has them.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is no such file: arrays are missing or of other shapes, pixels are other
            than 0 and 1, or the images are not every combination of some values, once each.

    Example:
        .. code-block:: python

            data = vk.datasets.dsprites("dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz")
            model, objective = vk.recipes.beta_tcvae(vk.likelihoods.Bernoulli(data.shape), 10)

    References:
        L. Matthey, I. Higgins, D. Hassabis and A. Lerchner, *dSprites: Disentanglement Testing
        Sprites Dataset*, 2017, https://github.com/google-deepmind/dsprites-dataset.
    """
    images, classes, values = _read(Path(path))
    if images.max() > 1:
        raise ValueError(_checks.expected("imgs", "pixels of 0 and 1", f"up to {images.max()}"))
    if len(np.unique(classes[:, 0])) > 1:
        got = f"{len(np.unique(classes[:, 0]))}"
        raise ValueError(_checks.expected("latents_classes", "one colour", got))
    factor_values, columns = {}, []
    for name, column, value in zip(_NAMES, classes.T[1:], values.T[1:], strict=True):
        _, first, index = np.unique(column, return_index=True, return_inverse=True)
        if (value[first][index] != value).any():
            what = f"one value for each class of the factor {name}"
            raise ValueError(_checks.expected("latents_values", what, "several"))
        factor_values[name] = value[first]
        columns.append(index)
    sizes = tuple(map(len, factor_values.values()))
    flat = np.ravel_multi_index(tuple(columns), sizes)
    order = flat.argsort(kind="stable")
    if not np.array_equal(flat[order], np.arange(math.prod(sizes))):
        what = f"every combination of {' x '.join(map(str, sizes))} values once"
        got = f"{len(flat)} rows, {len(np.unique(flat))} of them different"
        raise ValueError(_checks.expected("latents_classes", what, got))
    x = torch.from_numpy(images)[:, None]
    rows = torch.from_numpy(order).view(sizes)
    return FactorDataset(x, factor_values, rows, scale=1, dtype=dtype)


def _read(path: Path) -> tuple[Array, Array, Array]:
    """Read the three arrays and check their shapes."""
    if not path.is_file():
        what = "the file of dSprites"
        raise FileNotFoundError(
            _checks.expected("path", what, f"no file {path}", f"It is published at {_HOME}.")
        )
    keys = ("imgs", "latents_classes", "latents_values")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            missing = [key for key in keys if key not in held]
            arrays = [] if missing else [held[key] for key in keys]
    except (BadZipFile, zlib.error, EOFError, TypeError, ValueError) as error:
        raise ValueError(_checks.expected("path", "an npz file", f"{path} ({error})")) from error
    if missing:
        got = f"none of the name {', '.join(missing)} in {path}"
        raise ValueError(_checks.expected("path", f"arrays {', '.join(keys)}", got))
    images, classes, values = arrays
    if images.dtype != np.uint8 or images.shape[1:] != (_SIDE, _SIDE) or not len(images):
        got = f"{images.dtype} of shape {images.shape}"
        raise ValueError(_checks.expected("imgs", f"bytes of shape (n, {_SIDE}, {_SIDE})", got))
    for name, array in zip(keys[1:], (classes, values), strict=True):
        if array.shape != (len(images), 1 + len(_NAMES)):
            what = f"shape ({len(images)}, {1 + len(_NAMES)})"
            raise ValueError(_checks.expected(name, what, array.shape))
    return images, classes, values


def _draw(inside: Inside, scale: Tensor, angle: Tensor) -> Tensor:
    """Tell which of the pixels up to 16 from the centre lie in a shape, turned anticlockwise."""
    pixels = torch.arange(-_REACH, _REACH + 1, dtype=torch.double)
    right, up = pixels, -pixels[:, None]
    scale, angle = scale[..., None, None], angle[..., None, None]
    cos, sin = angle.cos() / scale, angle.sin() / scale
    return inside(cos * right + sin * up, cos * up - sin * right)


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) <= math.sqrt(_AREA) / 2


def _ellipse(x: Tensor, y: Tensor) -> Tensor:
    ratio = 8 / 5
    return x.square() / ratio + y.square() * ratio <= _AREA / math.pi


def _heart(x: Tensor, y: Tensor) -> Tensor:
    """A square on its corner, and on its upper edges half-discs (whose other halves lie in it)."""
    edge = math.sqrt(_AREA / (1 + math.pi / 4))
    mass = (math.pi / 16 + 1 / 12) * math.sqrt(2) / (1 + math.pi / 4)  # its centre's height
    x, y, corner = x.abs(), y + mass * edge, edge / math.sqrt(2)
    square = x + y.abs() <= corner
    return square | ((x - corner / 2).square() + (y - corner / 2).square() <= (edge / 2) ** 2)


_SHAPES: tuple[Inside, ...] = (_square, _ellipse, _heart)


def _memory(x: Tensor) -> Tensor:
    """Return a tensor, or the memory (1, n) under one that overlaps itself and looks far larger."""
    held = x.untyped_storage().nbytes() // x.element_size()
    return x if x.numel() <= held else x.as_strided((1, held), (held, 1), 0)


def _as_row(name: str, indices: Any) -> Tensor:
    what = "a row of whole numbers"
    given = indices if isinstance(indices, int | Tensor) else list(indices)
    row: Tensor = torch.atleast_1d(as_tensor(name, given, what))
    if row.ndim != 1 or (len(row) and (row.is_floating_point() or row.dtype == torch.bool)):
        got = f"{row.dtype} of shape {tuple(row.shape)}"
        raise TypeError(_checks.expected(name, what, got))
    return row.long()


def _check_range(name: str, indices: Tensor, size: int) -> None:
    if len(indices):
        low, high = (int(bound) for bound in indices.aminmax())
        if low < 0 or high >= size:
            got = str(low) if low == high else f"{low} to {high}"
            raise IndexError(_checks.expected(name, f"indices from 0 to {size - 1}", got))
