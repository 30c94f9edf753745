"""What the benchmarks share: where numbers come from, their file, a learning rate."""

import json
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

import vaekit as vk


def machine(device: str, **more: Any) -> dict[str, Any]:
    """Return what the numbers were measured with."""
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return {"device": device, **more, **versions, "vaekit": vk.__version__, "commit": commit()}


def commit(clone: Path = Path(__file__).parent) -> str:
    """Return the commit that a clone has checked out, and whether files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def read(path: Path | None) -> dict[str, Any]:
    """Return the results that a file holds, to be added to; none where there is no file."""
    held: dict[str, Any] = {"rows": {}}
    if path is not None and path.exists():
        held = json.loads(path.read_text())
    return held


def write(path: Path | None, result: dict[str, Any]) -> None:
    """Write results to a file, where one is asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n")


def cosine(steps: int, end: float) -> Callable[[torch.optim.Optimizer], CosineAnnealingLR]:
    """Make the scheduler of a learning rate that falls to ``end`` along a cosine."""
    return lambda optimizer: CosineAnnealingLR(optimizer, steps, eta_min=end)
