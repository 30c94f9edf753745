"""How much more memory a computation takes at its peak than there was before it."""

import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch


def fresh(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of a module in a process of its own, whose memory nothing was done in."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def peak(function: Callable[[], object], device: str = "cpu") -> float:
    """Return by how many megabytes memory rose at most while a function ran.

    On a processor it is the resident memory of the process, whose peak Linux keeps and begins anew
    on request; on a GPU, what torch has allocated. The pages of files, those of libraries, are left
    out as they are at the end: Linux may take them back before, and read them again meanwhile.
    """
    gc.collect()
    if "cuda" in device:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("RssAnon")
    function()
    return (_resident("VmHWM") - _resident("RssFile") - before) / 1e6


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])
