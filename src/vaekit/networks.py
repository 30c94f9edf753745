"""Networks for encoders and decoders: plain modules that know nothing of VAEs.

Any ``nn.Module`` does in their place. These know how many numbers they take and return
(``in_shape``, ``out_shape``), so a wrong size is found when the model is put together.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy.typing as npt
import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from vaekit import _checks

__all__ = [
    "Conditioned",
    "FirstOf",
    "Network",
    "Rungs",
    "conv",
    "conv_maps",
    "conv_transpose",
    "conv_transpose_maps",
    "mlp",
]

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}

Activation = Callable[[], nn.Module]
Context: TypeAlias = Shaped[Tensor, "..."] | npt.NDArray[Any] | Sequence[Any]


class Network(nn.Module):
    """A stack of layers that knows the shape it takes and the shape it returns.

    Args:
        layers: The layers, in order.
        in_shape: The shape of one element that goes in.
        out_shape: The shape of one element that comes out.

    Shape:
        ``x: (*batch, *in_shape)``; or, when ``in_shape`` has one dimension, ``(B, *event)`` of as
        many values (a picture into an `mlp` is flattened); or ``(B, values)``, which are given the
        shape. Whole numbers (counts, classes) become floats of the weights' dtype. Returns
        ``(*batch, *out_shape)``.

    Raises:
        TypeError: If ``x`` has another floating-point dtype than the weights, or is of bytes, which
            may be counts or grey levels.
        ValueError: If the shape does not fit.

    Example:
        >>> net = Network([nn.Flatten(), nn.Linear(64, 10)], (1, 8, 8), (10,))
        >>> net(torch.zeros(5, 1, 8, 8)).shape, net(torch.zeros(5, 64)).shape
        (torch.Size([5, 10]), torch.Size([5, 10]))
    """

    def __init__(
        self, layers: Iterable[nn.Module], in_shape: Sequence[int], out_shape: Sequence[int]
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.in_shape = _checks.event_shape("in_shape", in_shape)
        self.out_shape = _checks.event_shape("out_shape", out_shape)

    def forward(self, x: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Put ``x`` through the layers."""
        x = _floats(x, self)
        out, batch = x, x.shape[:1]
        if x.shape[1:] != self.in_shape:
            batch = x.shape[: x.ndim - self._event_ndims(x)]
            out = x.reshape(-1, *self.in_shape)
        try:
            out = self.layers(out)
        except RuntimeError as error:
            dtype = next(self.parameters()).dtype
            if x.dtype == dtype or torch.is_autocast_enabled(x.device.type):
                raise
            what = f"{dtype}, as the weights are"
            raise TypeError(_checks.expected("x", what, x.dtype)) from error
        shape = batch + self.out_shape
        shaped: Tensor = out if out.shape == shape else out.reshape(shape)
        return shaped

    def _event_ndims(self, x: Tensor) -> int:
        ndims = len(self.in_shape)
        if ndims == 1 and math.prod(x.shape[1:]) == self.in_shape[0]:
            return x.ndim - 1
        if x.ndim == 2 and x.shape[1] == self.in_shape.numel():  # a latent of maps comes flat
            return 1
        if x.shape[-ndims:] == self.in_shape:
            return ndims
        maps = f"shape {('...', *self.in_shape)}".replace("'", "")
        what = f"{self.in_shape[0]} values for each element" if ndims == 1 else maps
        single = x.numel() == self.in_shape.numel()
        hint = "A single element makes a batch of one by x[None]." if single else ""
        if ndims > 1 and x.shape[-ndims:] == (*self.in_shape[1:], self.in_shape[0]):
            hint = "Channels come first: x.movedim(-1, 1) brings them there."
        raise ValueError(_checks.expected("x", what, f"shape {tuple(x.shape)}", hint))


def _floats(x: Tensor, module: nn.Module) -> Tensor:
    """Turn whole numbers into floats of a module's dtype; of bytes nobody knows what they are."""
    if x.is_floating_point():
        return x
    if x.is_complex() or x.dtype == torch.uint8:
        hint = "Grey levels are x.float() / 255, as data sets make them; counts are x.float()."
        what = "floating-point values or whole numbers"
        hint = hint if x.dtype == torch.uint8 else ""
        raise TypeError(_checks.expected("x", what, x.dtype, hint))
    weights = (p.dtype for p in module.parameters() if p.is_floating_point())
    return x.to(next(weights, torch.get_default_dtype()))


def _made(activation: Activation) -> nn.Module:
    # A layer's output is nobody else's and no layer needs it for its gradient, so ReLU may be
    # applied where it lies.
    if isinstance(activation, nn.Module) or not callable(activation):
        what = "a class of layer or a function that makes one, such as torch.nn.ReLU"
        raise TypeError(_checks.expected("activation", what, repr(activation)))
    return nn.ReLU(inplace=True) if activation is nn.ReLU else activation()


def mlp(
    in_features: int | Sequence[int],
    hidden: Sequence[int],
    out_features: int | Sequence[int],
    *,
    activation: Activation = nn.ReLU,
    dropout: float = 0.0,
) -> Network:
    """Build a multilayer perceptron.

    Args:
        in_features: How many values go in, or the shape of one element.
        hidden: The widths of the hidden layers, from the input on; empty for a linear map.
        out_features: How many values come out, or the shape of one element.
        activation: Makes the non-linearity behind each hidden layer.
        dropout: The probability with which a hidden value is dropped in training.

    Returns:
        A module ``(*batch, *in) -> (*batch, *out)``; any event of ``in_features`` values is
        flattened.

    Raises:
        ValueError: If a size is not a whole number above 0, or ``dropout`` is not in [0, 1).

    Example:
        >>> net = mlp(784, [400], 40)
        >>> net(torch.zeros(8, 1, 28, 28)).shape
        torch.Size([8, 40])
    """
    _checks.number("dropout", dropout, low=0)
    _checks.require(dropout < 1, "dropout", "a number in [0, 1)", dropout)
    in_shape = _checks.event_shape("in_features", in_features)
    out_shape = _checks.event_shape("out_features", out_features)
    widths = [in_shape.numel(), *_widths("hidden", hidden)]
    layers: list[nn.Module] = [nn.Flatten()] if len(in_shape) > 1 else []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), _made(activation)]
        layers += [nn.Dropout(dropout)] if dropout else []
    layers.append(nn.Linear(widths[-1], out_shape.numel()))
    return Network(layers, in_shape, out_shape)


def conv(
    in_shape: Sequence[int],
    channels: Sequence[int],
    out_features: int | Sequence[int],
    *,
    hidden: Sequence[int] = (),
    kernel_size: int = 4,
    activation: Activation = nn.ReLU,
) -> Network:
    """Build a stack of strided convolutions, each halving every side, then a perceptron.

    Args:
        in_shape: Channels first: ``(C, L)`` for sequences, ``(C, H, W)`` for images,
            ``(C, D, H, W)`` for volumes. Any number of channels, any sides, odd ones too.
        channels: The channels behind each convolution, from the input on.
        out_features: How many values come out, or the shape of one element.
        hidden: The widths of hidden layers between the convolutions and the output.
        kernel_size: The side of each kernel, at least 2.
        activation: Makes the non-linearity behind each layer but the last.

    Returns:
        A module ``(*batch, *in_shape) -> (*batch, *out)``.

    Raises:
        ValueError: If a size is not a whole number above 0, or a side is too short to be halved as
            often as there are ``channels``.

    Example:
        >>> net = conv((3, 33, 20), [16, 32], 40)
        >>> net(torch.zeros(8, 3, 33, 20)).shape
        torch.Size([8, 40])
    """
    shapes = _halvings("in_shape", in_shape, channels, kernel_size)
    convolution = _CONVOLUTIONS[len(shapes[0]) - 1]
    padding = (kernel_size - 1) // 2
    layers: list[nn.Module] = []
    for before, after in pairwise(shapes):
        layers += [convolution(before[0], after[0], kernel_size, 2, padding), _made(activation)]
    head = mlp(shapes[-1], hidden, out_features, activation=activation)
    return Network([*layers, *head.layers], shapes[0], head.out_shape)


def conv_transpose(
    in_features: int | Sequence[int],
    channels: Sequence[int],
    out_shape: Sequence[int],
    *,
    hidden: Sequence[int] = (),
    kernel_size: int = 4,
    activation: Activation = nn.ReLU,
) -> Network:
    """Build the mirror image of `conv`: a perceptron, then convolutions that double every side.

    Args:
        in_features: How many values go in, or the shape of one element.
        channels: The channels before each convolution, from the input on: the reverse of what the
            mirrored `conv` was given.
        out_shape: Channels first, as for `conv`.
        hidden: The widths of hidden layers between the input and the convolutions.
        kernel_size: The side of each kernel, at least 2.
        activation: Makes the non-linearity behind each layer but the last.

    Returns:
        A module ``(*batch, *in) -> (*batch, *out_shape)``.

    Raises:
        ValueError: As for `conv`.

    Example:
        >>> net = conv_transpose(20, [32, 16], (3, 33, 20))
        >>> net(torch.zeros(8, 20)).shape
        torch.Size([8, 3, 33, 20])
    """
    mirrored = _widths("channels", channels)[::-1]
    shapes = _halvings("out_shape", out_shape, mirrored, kernel_size)[::-1]
    convolution = _TRANSPOSED[len(shapes[0]) - 1]
    padding = (kernel_size - 1) // 2
    stem = mlp(in_features, hidden, shapes[0], activation=activation)
    layers: list[nn.Module] = [*stem.layers, nn.Unflatten(1, tuple(shapes[0]))]
    for before, after in pairwise(shapes):
        # What a halving rounded off is given back, so that odd sides come out as they went in.
        extra = tuple(
            large - (2 * (small - 1) - 2 * padding + kernel_size)
            for small, large in zip(before[1:], after[1:], strict=True)
        )
        layers += [
            _made(activation),
            convolution(before[0], after[0], kernel_size, 2, padding, extra),  # type: ignore[arg-type]
        ]
    return Network(layers, stem.in_shape, shapes[-1])


def conv_maps(
    in_shape: Sequence[int],
    channels: Sequence[int],
    out_channels: int,
    *,
    kernel_size: int = 4,
    activation: Activation = nn.ReLU,
) -> Network:
    """Build a stack of strided convolutions that ends in maps: for spatial latents.

    Args:
        in_shape: As for `conv`.
        channels: As for `conv`.
        out_channels: The channels that come out; for a Gaussian latent twice its channels, of which
            the first half holds the means.
        kernel_size: As for `conv`.
        activation: As for `conv`.

    Returns:
        A module ``(*batch, *in_shape) -> (*batch, out_channels, *sides)``.

    Raises:
        ValueError: As for `conv`.

    Example:
        >>> net = conv_maps((3, 32, 32), [16, 32], 8)
        >>> net.out_shape
        torch.Size([8, 8, 8])
    """
    trunk = conv(in_shape, channels, 1, kernel_size=kernel_size, activation=activation)
    shapes = _halvings("in_shape", in_shape, channels, kernel_size)
    width, *sides = shapes[-1]
    head = _CONVOLUTIONS[len(sides)](
        width, _checks.positive_int("out_channels", out_channels), 3, 1, 1
    )
    return Network([*list(trunk.layers)[:-2], head], shapes[0], (out_channels, *sides))


def conv_transpose_maps(
    in_channels: int,
    channels: Sequence[int],
    out_shape: Sequence[int],
    *,
    kernel_size: int = 4,
    activation: Activation = nn.ReLU,
) -> Network:
    """Build the mirror image of `conv_maps`, for decoders of spatial latents.

    Args:
        in_channels: The channels of the latent.
        channels: As for `conv_transpose`.
        out_shape: As for `conv_transpose`.
        kernel_size: As for `conv_transpose`.
        activation: As for `conv_transpose`.

    Returns:
        A module ``(B, in_channels, *sides)``, or as many values flat, ``-> (B, *out_shape)``.

    Raises:
        ValueError: As for `conv_transpose`.

    Example:
        >>> net = conv_transpose_maps(4, [32, 16], (3, 32, 32))
        >>> net.in_shape
        torch.Size([4, 8, 8])
    """
    trunk = conv_transpose(1, channels, out_shape, kernel_size=kernel_size, activation=activation)
    mirrored = _widths("channels", channels)[::-1]
    width, *sides = _halvings("out_shape", out_shape, mirrored, kernel_size)[-1]
    stem = _CONVOLUTIONS[len(sides)](
        _checks.positive_int("in_channels", in_channels), width, 3, 1, 1
    )
    return Network([stem, *list(trunk.layers)[2:]], (in_channels, *sides), trunk.out_shape)


class Conditioned(nn.Module):
    """A network that also reads a context: labels, or attributes.

    The context is set beside the input: as further values, or as further channels, constant over
    the sides.

    Args:
        net: A network whose input has ``size`` values (or channels) more than the data have.
        size: The number of classes, for labels; or the number of attributes.

    Shape:
        ``x: (B, *in_shape)``, ``context: (B,)`` whole numbers from 0 to ``size - 1``, or
        ``(B, size)`` numbers, as a tensor, an array or a sequence; returns ``(B, *out_shape)``.

    Raises:
        TypeError: If there is no context, or it is none of these.
        ValueError: If the network takes no more than the context, or the context does not fit.

    Example:
        >>> net = Conditioned(mlp(784 + 10, [400], 40), 10)
        >>> net(torch.zeros(8, 1, 28, 28), torch.arange(8)).shape
        torch.Size([8, 40])
    """

    takes_context = True

    def __init__(self, net: Network, size: int) -> None:
        super().__init__()
        self.net, self.size = net, _checks.positive_int("size", size)
        first, *sides = net.in_shape
        what = f"a network that takes more than the {size} values of the context"
        _checks.require(first > size, "net", what, first)
        self.in_shape = torch.Size((first - size, *sides))
        self.out_shape = net.out_shape

    def forward(
        self, x: Shaped[Tensor, "batch ..."], context: Context | None = None
    ) -> Shaped[Tensor, "batch ..."]:
        """Put ``x`` and the context through the network."""
        if context is None:
            what = f"labels or {self.size} attributes for each element"
            raise TypeError(_checks.expected("context", what, None))
        x = _floats(x, self)
        beside = self._values(as_context(context), x.shape[0]).to(x)
        x = x.reshape(x.shape[0], *self.in_shape)
        ones = (1,) * (x.ndim - 2)
        beside = beside.reshape(*beside.shape, *ones).expand(-1, -1, *x.shape[2:])
        out: Tensor = self.net(torch.cat([x, beside], dim=1))
        return out

    def _values(self, context: Tensor, batch: int) -> Tensor:
        if context.shape == (batch,) and not context.is_floating_point():
            return one_hot(context, self.size)
        if context.shape != (batch, self.size):
            what = f"({batch},) labels, or ({batch}, {self.size}) attributes"
            raise ValueError(
                _checks.expected("context", what, f"{context.dtype} {tuple(context.shape)}")
            )
        return context


def as_context(context: Any, device: torch.device | None = None) -> Tensor:
    """Make a tensor of labels or attributes; numpy's floats become torch's default ones.

    Args:
        context: One for each element: a tensor, an array or a sequence of numbers.
        device: Where it goes if it is no tensor.

    Raises:
        TypeError: If it is none of these.

    Example:
        >>> as_context([7, 0, 4])
        tensor([7, 0, 4])
    """
    try:
        tensor = context if isinstance(context, Tensor) else torch.as_tensor(context, device=device)
    except (TypeError, ValueError, RuntimeError):  # names, mappings, rows of different lengths
        tensor = torch.empty(())
    if not tensor.ndim:
        what = "a tensor, an array or a sequence: a label, or attributes, for each element"
        raise TypeError(_checks.expected("context", what, repr(context)))
    if tensor.is_floating_point() and not isinstance(context, Tensor):
        return tensor.to(torch.get_default_dtype())
    return _checks.counted("context", tensor)


def takes_context(part: Any) -> bool:
    """Tell whether a network, or another part of a model, is called with a context."""
    return bool(getattr(part, "takes_context", False))


def with_context(part: Callable[..., Any], context: Any, *args: Tensor) -> Any:
    """Call a part of a model, with the context where it takes one."""
    return part(*args, context) if takes_context(part) else part(*args)


def one_hot(labels: Shaped[Tensor, " batch"], size: int) -> Shaped[Tensor, "batch size"]:
    """Set labels as rows of zeros with a single one.

    Raises:
        ValueError: If a label does not lie from 0 to ``size - 1``.

    Example:
        >>> one_hot(torch.tensor([2, 0]), 3)
        tensor([[0, 0, 1],
                [1, 0, 0]])
    """
    if _checks.eager() and len(labels):
        low, high = int(labels.min()), int(labels.max())
        if not 0 <= low <= high < size:
            what = f"labels from 0 to {size - 1}"
            raise ValueError(_checks.expected("context", what, f"{low} to {high}"))
    return nn.functional.one_hot(labels.long(), size)


class Rungs(nn.Module):
    """A perceptron with an output behind each hidden layer: the way up of a ladder.

    Args:
        in_features: How many values go in.
        hidden: The widths of the hidden layers.
        out_features: How many values come out behind each.
        activation: Makes the non-linearity behind each hidden layer.

    Shape:
        ``x: (B, *event)`` of ``in_features`` values; returns a tuple of ``(B, out)``, one for each
        hidden layer.

    Raises:
        ValueError: If there is not one output for each hidden layer.

    Example:
        >>> low, high = Rungs(784, [512, 256], [128, 64])(torch.zeros(8, 1, 28, 28))
        >>> low.shape, high.shape
        (torch.Size([8, 128]), torch.Size([8, 64]))
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: Sequence[int],
        *,
        activation: Activation = nn.ReLU,
    ) -> None:
        super().__init__()
        widths = [_checks.positive_int("in_features", in_features), *_widths("hidden", hidden)]
        outs = _widths("out_features", out_features)
        what = f"one for each of the {len(widths) - 1} hidden layers"
        _checks.require(len(outs) == len(widths) - 1, "out_features", what, outs)
        self.in_features, self.hidden, self.out_features = in_features, widths[1:], outs
        self.activation = activation
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Linear(size_in, size_out), _made(activation))
            for size_in, size_out in pairwise(widths)
        )
        self.heads = nn.ModuleList(
            nn.Linear(width, out) for width, out in zip(widths[1:], outs, strict=True)
        )
        self.in_shape, self.out_shape = torch.Size(widths[:1]), torch.Size((sum(outs),))

    def forward(self, x: Shaped[Tensor, "batch ..."]) -> tuple[Tensor, ...]:
        """Return the outputs, the lowest first."""
        x, outs = _floats(x, self).flatten(1), []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            outs.append(head(x))
        return tuple(outs)


class FirstOf(nn.Module):
    """A network that reads the first values of its input alone.

    For the decoder of a hierarchy, where x depends on the lowest layer of latents.

    Args:
        net: What reads them; it tells by its ``in_shape`` how many.
        size: How many values come in.

    Shape:
        ``x: (B, size)``; returns what ``net`` returns.

    Example:
        >>> FirstOf(mlp(50, [100], 784), 80)(torch.zeros(8, 80)).shape
        torch.Size([8, 784])
    """

    def __init__(self, net: "Network | Conditioned", size: int) -> None:
        super().__init__()
        values = net.in_shape.numel()
        what = f"at least the {values} values that net takes"
        _checks.require(_checks.positive_int("size", size) >= values, "size", what, size)
        self.net, self.size = net, size
        self.in_shape, self.out_shape = torch.Size((size,)), net.out_shape
        self.takes_context = takes_context(net)

    def forward(
        self, x: Shaped[Tensor, "batch size"], context: Shaped[Tensor, "batch ..."] | None = None
    ) -> Shaped[Tensor, "batch ..."]:
        """Put the first values through the network, with the context where it takes one."""
        out: Tensor = with_context(self.net, context, x[:, : self.net.in_shape.numel()])
        return out


def _halvings(
    argument: str, shape: Sequence[int], channels: Sequence[int], kernel_size: int
) -> list[tuple[int, ...]]:
    """List the shapes that strided convolutions go through, checking that each is possible."""
    sizes = tuple(_checks.event_shape(argument, shape))
    what = "(C, L), (C, H, W) or (C, D, H, W)"
    _checks.require(len(sizes) - 1 in _CONVOLUTIONS, argument, what, sizes)
    _checks.positive_int("kernel_size", kernel_size)
    _checks.require(kernel_size > 1, "kernel_size", "at least 2", kernel_size)
    channels = _widths("channels", channels)
    _checks.require(len(channels) > 0, "channels", "at least one number", channels)
    shapes = [sizes]
    for width in channels:
        padding = (kernel_size - 1) // 2
        sides = tuple((side + 2 * padding - kernel_size) // 2 + 1 for side in shapes[-1][1:])
        if min(sides) < 1 or min(shapes[-1][1:]) < 2:
            hint = f"Give it fewer channels, or {argument} longer sides."
            got = f"{len(channels)} for sides {sizes[1:]}"
            what = "no more layers than the sides can be halved"
            raise ValueError(_checks.expected("channels", what, got, hint))
        shapes.append((width, *sides))
    return shapes


def _widths(argument: str, widths: Sequence[int]) -> list[int]:
    if not isinstance(widths, Sequence):
        what = "a sequence of whole numbers, one for each layer"
        raise TypeError(_checks.expected(argument, what, repr(widths)))
    return _checks.positive_ints(argument, widths)
