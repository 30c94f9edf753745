"""The one way in which vaekit says that an argument does not fit."""

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution


def expected(argument: str, what: str, got: object, hint: str = "") -> str:
    """Word an error: the argument, what was expected, what came, and how to mend it."""
    return f"{argument}: expected {what}, got {got}." + (f" {hint}" if hint else "")


def require(fits: bool, argument: str, what: str, got: object, hint: str = "") -> None:
    """Raise the error that `expected` words, unless the argument fits."""
    if not fits:
        raise ValueError(expected(argument, what, got, hint))


@contextmanager
def calling(name: str, argument: str) -> Iterator[None]:
    """Have errors of a function name the argument that the caller knows."""
    try:
        yield
    except (ValueError, TypeError) as error:
        text = str(error)
        if not text.startswith(f"{name}: "):
            raise
        raise type(error)(argument + text.removeprefix(name)) from error


def positive_int(argument: str, value: Any, *, above: int = 0) -> int:
    """Return ``value`` as an int, or say that it is not a whole number above zero, or another."""
    try:
        whole = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        whole = 0
    require(whole > above, argument, f"a whole number above {above}", repr(value))
    return whole


def positive_ints(argument: str, values: Iterable[Any]) -> list[int]:
    """Return ``values`` as ints, or say that one is not a whole number above zero."""
    return [positive_int(argument, value) for value in values]


def number(argument: str, value: Any, *, low: float = -math.inf, above: float = -math.inf) -> float:
    """Return ``value`` as a finite float that is at least ``low`` and greater than ``above``."""
    bounds = [f"at least {low:g}"] * (low > -math.inf) + [f"above {above:g}"] * (above > -math.inf)
    what = " ".join(["a finite number", *bounds])
    try:
        result = float(value)
    except (TypeError, ValueError):
        raise ValueError(expected(argument, what, repr(value))) from None
    if not math.isfinite(result) or result < low or result <= above:
        raise ValueError(expected(argument, what, repr(value)))
    return result


def seed(argument: str, value: Any) -> int:
    """Return a seed as an int that JSON can hold, or say that it is no whole number."""
    try:
        whole = operator.index(value)
    except TypeError:
        raise TypeError(expected(argument, "a whole number", repr(value))) from None
    what = "a whole number from -2**63 to 2**64 - 1, as torch takes"
    require(-(2**63) <= whole < 2**64, argument, what, whole)
    return whole


def generator(value: Any) -> None:
    """Say so where what is to draw is neither None nor a generator."""
    if value is not None and not isinstance(value, torch.Generator):
        raise TypeError(expected("generator", "a torch.Generator, or None", repr(value)))


def one_of(argument: str, value: object, options: Sequence[str]) -> None:
    """Say which options there are when ``value`` is none of them."""
    if value not in options:
        what = "one of " + ", ".join(map(repr, options))
        raise ValueError(expected(argument, what, repr(value)))


def event_shape(argument: str, value: Any) -> torch.Size:
    """Return a shape given as an int or a sequence of ints, each at least 1."""
    sizes = tuple(value) if isinstance(value, Sequence) else (value,)
    require(len(sizes) > 0, argument, "at least one dimension", repr(value))
    return torch.Size(positive_ints(argument, sizes))


def module(name: str, needing: str, package: str, install: str) -> ModuleType:
    """Import a module, or say what needs its package, and how that is installed."""
    try:
        return import_module(name)
    except ImportError as error:
        message = f"{needing} needs {package}: pip install {install} ({error})."
        raise ImportError(message) from error


def device(argument: str, value: Any) -> torch.device:
    """Return a device that is there, given by its name."""
    try:
        return torch.empty(0, device=value).device
    except (RuntimeError, AssertionError, TypeError) as error:  # as torch says of each kind
        message = expected(argument, "a device that is there", repr(value), str(error))
        raise ValueError(message) from error


def eager() -> bool:
    """Tell whether values may be looked at: not while a graph is being traced or captured."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._functorch.maybe_current_level()
        or (torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing())
    )


@contextmanager
def unvalidated() -> Iterator[None]:
    """Keep torch's distributions from looking at values, which a graph does not have."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def within(bound: float, value: Tensor) -> bool:
    """Tell whether all values lie within +-bound, none of them NaN, by one look at them."""
    if not value.numel():
        return True
    low, high = value.detach().aminmax()  # NaN if there is one
    return low.item() >= -bound and high.item() <= bound


def widened(value: Tensor) -> Tensor:
    """Return what autocast made of half precision in single: a divergence needs the digits."""
    half = value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half and torch.is_autocast_enabled(value.device.type) else value


def counted(argument: str, values: Tensor) -> Tensor:
    """Make int64 of unsigned numbers beyond bytes, with which torch hardly calculates."""
    if values.dtype not in (torch.uint16, torch.uint32, torch.uint64):
        return values
    found = values.long()
    if values.dtype == torch.uint64 and found.numel() and found.min() < 0:
        largest = int(values.numpy(force=True).max())
        raise ValueError(expected(argument, "numbers below 2**63", largest))
    return found


class NotFiniteError(ValueError):
    """What is raised for NaN and infinite values."""


def no_nan(argument: str, value: Tensor, known: bool | None = None) -> None:
    """Name the argument that holds NaN. Looks at the values, so callers ask `eager` first."""
    suspect = math.isnan(value.detach().sum().item()) if known is None else known  # the quick look
    if suspect and value.isnan().any():
        raise _not_finite(argument, "no NaN", value.isnan(), "NaN")


def finite(argument: str, value: Tensor) -> None:
    """Name the argument that holds NaN, or infinite values."""
    if value.is_floating_point() and within(torch.finfo(value.dtype).max, value):
        return  # the quick look
    no_nan(argument, value)
    if not value.isfinite().all():
        raise _not_finite(argument, "finite values", ~value.isfinite(), "infinite")


def _not_finite(argument: str, what: str, bad: Tensor, word: str) -> NotFiniteError:
    got = f"{int(bad.sum())} {word} among {bad.numel()} (shape {tuple(bad.shape)})"
    if bad.ndim:
        got += f", the first at {tuple(bad.nonzero()[0].tolist())}"
    return NotFiniteError(expected(argument, what, got))


def broadcast(one: torch.Size, other: torch.Size) -> torch.Size | None:
    """Return the shape that two broadcast to, or None if they do not."""
    if one[max(len(one) - len(other), 0) :] == other:  # nearly always, and much quicker
        return one
    if other[max(len(other) - len(one), 0) :] == one:
        return other
    try:
        return torch.Size(torch.broadcast_shapes(one, other))
    except RuntimeError:
        return None


def trailing_shape(argument: str, value: Tensor, shape: Sequence[int]) -> None:
    """Check that the last dimensions of ``value`` are ``shape``."""
    if tuple(value.shape[value.ndim - len(shape) :]) != tuple(shape):
        sizes = ", ".join(["...", *map(str, shape)])
        raise ValueError(expected(argument, f"shape ({sizes})", tuple(value.shape)))
