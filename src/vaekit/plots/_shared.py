"""What the pictures share: axes, grids of images, and the elements that they show."""

import math
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from vaekit import _checks, datasets, metrics
from vaekit.distributions.supports import innermost
from vaekit.vae import VAE, dtype_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Elements",
    "Grid",
    "by_use",
    "check_images",
    "class_names",
    "codes",
    "decode_rows",
    "draw_grid",
    "elements",
    "first",
    "import_",
    "is_real",
    "label_grid",
    "label_width",
    "loadable",
    "new_axes",
    "one_label_each",
    "whole_number_from",
]

_LARGEST = 8.5  # inches: of a larger figure, shrunk to a page, letters cannot be read
_PICTURE = 0.8
_SHADE = 1 / 255  # that nobody sees


class Elements(NamedTuple):
    """Some elements of the data, on the model's device."""

    x: Tensor
    target: Tensor
    labels: npt.NDArray[Any] | None
    context: Tensor | None


class Grid(NamedTuple):
    """Where the pictures of a grid stand: the middles of its rows and columns, in pixels."""

    ax: "Axes"
    rows: list[float]
    columns: list[float]


# --- Axes and grids ------------------------------------------------------------------------------


def import_(name: str, package: str = "") -> ModuleType:
    """Import a module, or name what brings it: the extra, or else ``package``."""
    needs = package or name.split(".")[0], package or '"vaekit[plots]"'
    return _checks.module(name, "This picture", *needs)


def new_axes(ax: "Axes | None", size: tuple[float, float]) -> "Axes":
    """Return the axes given, or those of a new figure of this size in inches."""
    if ax is not None:
        return ax
    new: Axes = import_("matplotlib.pyplot").subplots(figsize=size, layout="constrained")[1]
    return new


def check_images(argument: str, pictures: Tensor) -> None:
    """Name what the pictures come from, where they are none; warn of data that will be cut off."""
    if pictures.ndim not in (3, 4) or (pictures.ndim == 4 and pictures.shape[1] not in (1, 3)):
        what = "images, of shape (1, H, W), (3, H, W) or (H, W)"
        got = f"elements of shape {tuple(pictures.shape[1:])}"
        raise ValueError(_checks.expected(argument, what, got))
    if argument != "model" and pictures.numel():
        low, high = (float(bound) for bound in pictures.aminmax())
        # Beyond what resizing leaves.
        if math.isfinite(high - low) and (low < -_SHADE or high > 1 + _SHADE):
            what = f"values from {low:.3g} to {high:.3g} are drawn as if they ended at 0 and 1"
            warnings.warn(f"{argument}: {what}. Scale images to [0, 1] to see all.", stacklevel=3)


def draw_grid(
    pictures: Tensor,
    columns: int,
    ax: "Axes | None",
    *,
    margins: tuple[float, float] = (0.0, 0.0),
    least_width: float = 0.0,
    captions: Sequence[str] | None = None,
) -> Grid:
    """Draw pictures row by row, without ticks.

    Args:
        pictures: ``(n, 1, H, W)``, ``(n, 3, H, W)`` or ``(n, H, W)``, n at least 1.
        columns: How many stand in a row.
        ax: Where; a new figure if None.
        margins: What labels take beside and below the grid, in inches.
        least_width: Of a new figure, in inches: what its title needs.
        captions: What stands above each picture.
    """
    pictures = pictures[:, None] if pictures.ndim == 3 else pictures
    pictures = pictures.detach().float().cpu()
    _checks.no_nan("pictures", pictures)
    n, channels, height, width = pictures.shape
    rows = math.ceil(n / columns)
    # A gap between neighbours, as wide as a twelfth of a picture, white like the page.
    across = max(1, min(height, width) // 12)
    down = across if captions is None else math.ceil(width / 3)
    tops, lefts = np.arange(rows) * (height + down), np.arange(columns) * (width + across)
    grid = torch.ones(int(tops[-1]) + height, int(lefts[-1]) + width, channels)
    for index, picture in enumerate(pictures.clamp(0, 1)):
        top, left = tops[index // columns], lefts[index % columns]
        grid[top : top + height, left : left + width] = picture.permute(1, 2, 0)
    size = _PICTURE * columns, _PICTURE * rows * (height + down * (captions is not None)) / width
    scale = min(1.0, _LARGEST / max(size))
    wide = max(least_width, scale * size[0] + margins[0])
    ax = new_axes(ax, (wide, scale * size[1] + margins[1]))
    ax.imshow(grid.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.axis("off")
    middles = [list(map(float, tops + (height - 1) / 2)), list(map(float, lefts + (width - 1) / 2))]
    letters = max(map(len, captions or [""]))
    font = 9 * min(1.0, max(0.5, 11 / max(letters, 1)))  # eleven letters are as wide as a picture
    for index, caption in enumerate(captions or ()):
        top, middle = tops[index // columns], middles[1][index % columns]
        ax.text(middle, top - 0.5 - down / 12, caption, ha="center", va="bottom", fontsize=font)
    return Grid(ax, *middles)


def label_width(labels: Sequence[str]) -> float:
    """Estimate how wide labels at the left of a grid are, in inches."""
    return 0.2 + 0.08 * max(len(line) for label in labels for line in label.split("\n"))


def label_grid(grid: Grid, rows: Sequence[str] = (), columns: Sequence[str] = ()) -> None:
    """Name the rows at the left and the columns below, without a frame."""
    grid.ax.axis("on")
    grid.ax.set_frame_on(False)
    grid.ax.tick_params(length=0)
    if rows:
        grid.ax.set_anchor("W")  # the room left over is at the right, where it costs no label
    grid.ax.set_yticks(grid.rows if rows else [], list(rows))
    grid.ax.set_xticks(grid.columns if columns else [], list(columns))


# --- Elements ------------------------------------------------------------------------------------


def elements(
    model: VAE, data: Any, device: torch.device, n: int | None = None, argument: str = "data"
) -> Iterator[Elements]:
    """Go through the first ``n`` elements of a batch or a data set, or all of them."""
    left = math.inf if n is None else _checks.positive_int("n", n)
    for batch in datasets.batches(
        loadable(data), int(min(left, 512)), dtype=dtype_of(model), argument=argument
    ):
        count = int(min(left, len(batch.x)))
        y = None if batch.y is None else batch.y[:count]
        context = torch.as_tensor(y).to(device) if model.takes_context and y is not None else None
        labels = y if y is None else np.asarray(y.cpu() if isinstance(y, Tensor) else y)
        yield Elements(batch.x[:count].to(device), batch.target[:count].to(device), labels, context)
        left -= count
        if not left:
            return


def first(
    model: VAE, data: Any, device: torch.device, n: int | None, argument: str = "data"
) -> Elements:
    """Put the first ``n`` elements together."""
    parts = list(elements(model, data, device, n, argument))
    xs, targets, labels, contexts = zip(*parts, strict=True)
    return Elements(
        torch.cat(xs),
        torch.cat(targets),
        None if any(y is None for y in labels) else np.concatenate(labels),
        None if any(c is None for c in contexts) else torch.cat(contexts),
    )


def loadable(data: Any) -> Any:
    """Make of a batch a list that holds it, which can be gone through like a data set."""
    whole = datasets.is_batch(data) and not isinstance(data, Tensor | np.ndarray)
    return [datasets.unpack(data)] if whole else data


def one_label_each(labels: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    """Return the labels, or say that there is not one for each element."""
    if labels is None or labels.ndim != 1:
        sizes = ", ".join(["n", *map(str, () if labels is None else labels.shape[1:])])
        got = "none" if labels is None else f"labels of shape ({sizes})"
        raise ValueError(_checks.expected("data", "one label for each element", got))
    return labels


def class_names(data: Any, values: npt.NDArray[Any]) -> list[str]:
    """Return the name of each label, as matplotlib writes it: between dollars it reads formulas."""
    classes = getattr(data, "classes", ())
    names = [str(classes[int(value)] if classes else value) for value in values]
    return [name.replace("$", r"\$") for name in names]


# --- Codes ---------------------------------------------------------------------------------------


def codes(model: VAE, of: Elements) -> Tensor:
    """Return the posterior means, as `VAE.reconstruct` decodes them."""
    mean: Tensor = model.encode(of.x, of.context).mean
    return mean


def decode_rows(model: VAE, z: Tensor, context: Tensor | None = None) -> Tensor:
    """Decode ``(rows, columns, dim)``, each row in its own context, to a flat list of images."""
    if context is not None:
        context = context.repeat_interleave(z.shape[1], 0)
    pictures = model.decode(z.flatten(0, 1), context)
    check_images("model", pictures)
    return pictures


def by_use(model: VAE, data: Any, seed: int) -> tuple[list[int], list[str]]:
    """Return the dimensions, the most used first, and what is said of each, in their order."""
    try:
        carried = metrics.kl_by_dimension(model, data, seed=seed)
        return carried.order.tolist(), [f"{float(each):.2f} nats" for each in carried.mean]
    except TypeError:  # no densities by dimension
        variance = metrics.active_units(model, data).variance
        order: list[int] = variance.argsort(descending=True).tolist()
        return order, [f"variance {float(each):.2f}" for each in variance]


def is_real(distribution: Distribution) -> bool:
    """Tell whether draws are any real numbers."""
    try:
        return innermost(distribution.support) is constraints.real
    except NotImplementedError:  # one that does not say
        return True


def whole_number_from(least: int, argument: str, value: Any) -> int:
    """Return ``value`` as an int, or say that it is not a whole number of at least ``least``."""
    whole = _checks.positive_int(argument, value)
    if whole < least:
        raise ValueError(_checks.expected(argument, f"a whole number from {least} on", value))
    return whole
