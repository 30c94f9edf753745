"""Networks whose weights are spread over the processes, for models that outgrow a device."""

from collections.abc import Iterable, Sequence
from itertools import filterfalse
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from vaekit import _checks
from vaekit.storage import is_spread
from vaekit.training.world import World
from vaekit.vae import VAE, Decoder, Encoder

__all__ = ["apart", "clip", "loadable", "piece_of", "shard", "whole"]

_BLOCKS = nn.Sequential, nn.ModuleList  # whose parts follow one another


def piece_of(tensor: Any) -> Tensor:
    """Return what this process has of a tensor."""
    held: Tensor = tensor.to_local() if is_spread(tensor) else tensor
    return held


def shard(model: VAE, world: World, device: torch.device) -> None:
    """Leave each process a piece of every weight of the encoder's and the decoder's networks.

    They are torch's ``fully_shard``: a layer is put together when it is called, forward and back,
    and its gradient averaged over the processes as it is taken apart again. It takes networks from
    tensors to tensors, and no scalars; so the rest of the model stays as it is.

    Raises:
        ValueError: If the model has no such network.
    """
    if world.size == 1 or any(map(is_spread, model.parameters())):
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    nets = [part.net for part in model.modules() if isinstance(part, Encoder | Decoder)]
    what = "False for a model without an Encoder or a Decoder that holds a network"
    _checks.require(any(True for net in nets for _ in net.parameters()), "shard", what, True)
    mesh = init_device_mesh(device.type, (world.size,))
    scalars = {parameter for parameter in model.parameters() if parameter.ndim == 0}
    done: set[nn.Module] = set()
    for net in nets:
        stacks = [part for part in net.modules() if isinstance(part, _BLOCKS)]
        for each in [*reversed([block for stack in stacks for block in stack]), net]:
            if each not in done and any(p.ndim > 0 for p in each.parameters()):
                fully_shard(each, mesh=mesh, reshard_after_forward=True, ignored_params=scalars)
            done.add(each)


def apart(optimizer: Optimizer) -> None:
    """Put pieces and whole parameters into groups of their own: torch computes with either."""
    groups = []
    for group in optimizer.param_groups:
        for kind in (False, True):
            params = [each for each in group["params"] if is_spread(each) is kind]
            if params:
                groups.append(group | {"params": params})
    optimizer.param_groups[:] = groups


def clip(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Cut the norm of the gradients, those of all pieces together, to a limit."""
    held = [each for each in parameters if each.grad is not None]
    grads: list[Any] = [each.grad for each in held]
    pieces, rest = (
        [piece_of(each) for each in grads if is_spread(each)],
        [*filterfalse(is_spread, grads)],
    )
    if not pieces:
        nn.utils.clip_grad_norm_(held, limit)
        return
    square = nn.utils.get_total_norm(pieces) ** 2
    distributed.all_reduce(square)
    norm = torch.sqrt(square + nn.utils.get_total_norm(rest) ** 2 if rest else square)
    for gradient in (*pieces, *rest):
        gradient.mul_((limit / (norm + 1e-6)).clamp(max=1))


def whole(value: Any, kept: bool) -> Any:
    """Put tensors together that are spread, nested in any way; every process has to ask for it.

    Args:
        value: What holds them.
        kept: Whether this process wants them, in memory of the processor, or helps alone.
    """
    if is_spread(value):
        full = value.full_tensor()
        return full.cpu() if kept else None
    if isinstance(value, dict):
        return {key: whole(each, kept) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([whole(each, kept) for each in value])
    return value


def loadable(part: Any, state: Any) -> Any:
    """Return a whole state as a module or an optimiser takes it that has pieces."""
    if isinstance(part, nn.Module):
        mine = part.state_dict()
        return {key: _like(each, mine.get(key)) for key, each in state.items()}
    if isinstance(part, Optimizer):
        params: Sequence[Tensor] = [p for group in part.param_groups for p in group["params"]]
        held = {
            index: {name: _like(each, params[index]) for name, each in values.items()}
            for index, values in state["state"].items()
        }
        return state | {"state": held}
    return state


def _like(value: Any, mine: Any) -> Any:
    """Return the piece of a whole tensor that goes with a piece of another."""
    fits = is_spread(mine) and isinstance(value, Tensor) and value.shape == mine.shape
    if not fits or is_spread(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    there = value.to(mine.device)
    return distribute_tensor(there, mine.device_mesh, mine.placements, src_data_rank=None)
