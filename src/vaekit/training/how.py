"""How a batch goes through a model: corrupted, in low precision, with less kept."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vaekit import _checks
from vaekit.vae import VAE, VAEOutput

__all__ = ["How", "Precision"]

Precision = Literal["bf16", "fp16"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class How:
    """How a batch goes through the model.

    Attributes:
        samples: How many draws each element has.
        corruption: What is done to the encoder's input.
        precision: In which networks compute; that of their weights if None. Latents and likelihoods
            widen what they are given, so that distributions and losses are of single precision.
        channels_last: Whether maps are laid out with the channels last.
        recompute: Whether long stacks of layers forget what they computed until it is needed.
    """

    samples: int | None = None
    corruption: Callable[[Tensor], Tensor] | None = None
    precision: Precision | None = None
    channels_last: bool = False
    recompute: bool = False

    def __call__(self, model: VAE, x: Tensor, context: Tensor | None) -> VAEOutput:
        """Take a batch through the model."""
        if self.corruption is not None:
            x = self.corruption(x.clone())
        if self.channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        if self.precision is None and not self.recompute:
            plain: VAEOutput = model(x, self.samples, context)
            return plain
        low = torch.autocast(x.device.type, _DTYPES.get(self.precision or ""), bool(self.precision))
        with low, _recomputing(model) if self.recompute else nullcontext():
            out: VAEOutput = model(x, self.samples, context)
        return out


def check_precision(precision: Any, dtype: torch.dtype) -> None:
    """Say so where a precision is unknown, or the weights are not of single precision."""
    if precision is not None:
        _checks.one_of("precision", precision, get_args(Precision))
        what = f"None, or weights of {torch.float32}, for precision={precision!r}"
        _checks.require(dtype == torch.float32, "precision", what, f"weights of {dtype}")


def _forward_again(stack: nn.Sequential, x: Any) -> Any:
    """Call a stack of layers that keeps some of the values between them, and computes the rest."""
    # What is kept must not be changed by a layer that works where its input lies.
    starts = [i for i, layer in enumerate(stack) if i == 0 or not getattr(layer, "inplace", 0)]
    kept = starts[:: max(round(math.sqrt(len(starts))), 1)]
    for first, last in pairwise([*kept, len(stack)]):
        layers = nn.Sequential(*list(stack)[first:last])
        buffers = [*layers.buffers()]  # statistics, which must move once
        traced = bool(buffers) and torch.compiler.is_compiling()
        if last < len(stack) and not traced and torch.is_grad_enabled():
            held: dict[str, Any] = {"context_fn": partial(_contexts, buffers)} if buffers else {}
            x = checkpoint(layers, x, use_reentrant=False, **held)
        else:
            x = layers(x)
    return x


def _contexts(
    buffers: list[Tensor],
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what layers with buffers are called in: the first time, and when called again."""
    return nullcontext(), _as_before(buffers, [each.clone() for each in buffers])


@contextmanager
def _as_before(buffers: list[Tensor], before: list[Tensor]) -> Iterator[None]:
    """Let buffers be as they were, and then as they have become."""
    after = [each.clone() for each in buffers]
    try:
        for each, value in zip(buffers, before, strict=True):
            each.data.copy_(value)  # which no graph takes for a change
        yield
    finally:
        for each, value in zip(buffers, after, strict=True):
            each.data.copy_(value)


@contextmanager
def _recomputing(model: nn.Module) -> Iterator[None]:
    """Have every stack of four layers or more compute its values again in the backward pass."""
    stacks: list[nn.Sequential] = []
    inside: set[nn.Module] = set()
    for each in model.modules():
        if not isinstance(each, nn.Sequential) or type(each).forward is not nn.Sequential.forward:
            continue
        if len(each) > 3 and each not in inside:
            stacks.append(each)
            inside.update(each.modules())
    try:
        for stack in stacks:
            stack.forward = partial(_forward_again, stack)  # type: ignore[method-assign]
        yield
    finally:
        for stack in stacks:
            del stack.forward
