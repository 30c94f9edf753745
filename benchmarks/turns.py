"""Ways to do the same work, which take turns, so that a slow second of the machine falls on all."""

import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

Work = Callable[[int], object]  # does one part of the work
SEEDS = "the number of the turn"  # of `take_turns`


class Times:
    """How long each way took in each round, in seconds."""

    def __init__(self, seconds: Mapping[str, list[float]]) -> None:
        self.seconds = seconds

    def median(self, name: str) -> float:
        """Return the median over the rounds."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, base: str) -> float:
        """Return the median, over the rounds, of the ratio of two ways in the same round."""
        pairs = zip(self.seconds[name], self.seconds[base], strict=True)
        return statistics.median(one / other for one, other in pairs)


def take_turns(
    ways: Mapping[str, Callable[[], Work]],
    rounds: int,
    parts: int = 1,
    device: str = "cpu",
    after: Callable[[str, Any], object] | None = None,
) -> Times:
    """Time every way in every round, each part from another way on.

    Args:
        ways: What makes the work anew for each round, so that no way keeps a lucky place in memory.
        rounds: How often all the work is done, after one part of it to warm up.
        parts: How many parts it is divided into; the ways take turns at each.
        device: What the work is done on.
        after: What is to be done, outside the time, with each way's work at the end of a round.
    """
    names = list(ways)
    for make in ways.values():
        make()(0)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        works = {}
        for name, make in ways.items():
            torch.manual_seed(turn)  # the same layers begin with the same weights
            works[name] = make()
        taken = dict.fromkeys(names, 0.0)
        for part in range(parts):
            first = (turn + part) % len(names)  # each way comes after each other one
            for name in [*names[first:], *names[:first]]:
                torch.manual_seed(turn * parts + part)  # and draw the same noise
                _synchronise(device)
                started = time.perf_counter()
                works[name](part)
                _synchronise(device)
                taken[name] += time.perf_counter() - started
        for name in names:
            seconds[name].append(taken[name])
            if after is not None:
                after(name, works[name])
    return Times(seconds)


def processor(device: str) -> str:
    """Return the name of what the work is done on."""
    if "cuda" in device:
        return torch.cuda.get_device_name()
    held = Path("/proc/cpuinfo")
    lines = held.read_text().splitlines() if held.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def judge(value: float, sense: str, bar: float) -> str:
    """Word whether a value is at most, or at least, what it should be."""
    met = value <= bar if sense == "at most" else value >= bar
    return f"{value:.3g} ({sense} {bar:g}: {'met' if met else 'MISSED'})"


def judged(times: Times, bars: Iterable[tuple[str, str, str, float]]) -> dict[str, str]:
    """Judge the ratios of those ways that took part."""
    return {
        f"{one} over {other}": judge(times.ratio(one, other), sense, bar)
        for one, other, sense, bar in bars
        if one in times.seconds and other in times.seconds
    }


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of a straight line through the logarithms: how values grow with a size."""
    x, y = torch.tensor(sizes).double().log(), torch.tensor(values).double().log()
    x = x - x.mean()
    return float((x * y).sum() / x.square().sum())


def _synchronise(device: str) -> None:
    if "cuda" in device:
        torch.cuda.synchronize()
