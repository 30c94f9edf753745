"""What the benchmarks share: where numbers come from, their file and picture, a learning rate."""

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

import vaekit as vk


def machine(device: str, **more: Any) -> dict[str, Any]:
    """Return what the numbers were measured with."""
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return {"device": device, **more, **versions, "vaekit": vk.__version__}


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


def draw(path: Path | None, lengths: dict[str, float], unit: str) -> None:
    """Draw a bar for each name, where a file to draw them in is named."""
    if path is None:
        return
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": path.name}
    figure, axis = plt.subplots(figsize=(7, 0.5 + 0.4 * len(lengths)), layout="tight")
    axis.bar_label(axis.barh(list(lengths), list(lengths.values())), fmt="%.2f", padding=3)
    axis.invert_yaxis()
    axis.margins(x=0.1)
    axis.set_xlabel(unit)
    axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def cosine(steps: int, end: float) -> Callable[[torch.optim.Optimizer], CosineAnnealingLR]:
    """Make the scheduler of a learning rate that falls to ``end`` along a cosine."""
    return lambda optimizer: CosineAnnealingLR(optimizer, steps, eta_min=end)
