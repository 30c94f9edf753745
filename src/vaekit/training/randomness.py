"""Random states: forked from a seed, written down, put back."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

__all__ = ["fork_seed", "random_states", "set_random_states", "set_seeds"]


def fork_seed(seed: int, purpose: str) -> int:
    """Derive the seed of one purpose from that of a run.

    Streams of random numbers are then independent: the noise of training is not that of the
    initialisation, and another model with another number of draws is shown the same data in the
    same order.

    Args:
        seed: The run's.
        purpose: `fit` uses ``"data"`` and ``"noise"``; others are the caller's, like
            ``"initialisation"``.

    Returns:
        A whole number from 0 to 2**32 - 1.

    Example:
        >>> _ = torch.manual_seed(fork_seed(0, "initialisation"))
    """
    digest = hashlib.sha256(f"{purpose} {seed}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def set_seeds(device: torch.device, seed: int) -> None:
    """Seed torch's generators of the processor and of one device, and no other's."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        with _on(device) as module:
            module.manual_seed(seed)


def random_states(device: torch.device) -> dict[str, Any]:
    """Return the states of all global generators."""
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002
        "torch": torch.get_rng_state(),
    }
    if device.type != "cpu":
        with _on(device) as module:
            states["device"] = module.get_rng_state()
    return states


def set_random_states(device: torch.device, states: dict[str, Any]) -> None:
    """Put all global generators into a state, that of a device if it was one of its kind."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if device.type != "cpu" and "device" in states:
        with _on(device) as module:
            module.set_rng_state(states["device"])


@contextmanager
def _on(device: torch.device) -> Iterator[Any]:
    """Make a device the current one of its kind, and yield torch's module of the kind."""
    module = torch.get_device_module(device)
    with module.device(device) if hasattr(module, "device") else nullcontext():
        yield module
