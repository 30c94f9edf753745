"""Time how many sprites a minute are drawn, by indices of their factors.

All 737,280 of `vaekit.datasets.sprites` are drawn once in each round, in a shuffled order and 4,096
at a time; the bar is of a million a minute.

    python benchmarks/sprites.py [--device cuda] [--rounds 5] [--json FILE]
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import results
import torch
import turns

import vaekit as vk

AT_ONCE = 4096
DRAWN = "sprites drawn, by indices of their factors"


def main() -> None:
    """Time them and print the rate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    args = parser.parse_args()

    data = vk.datasets.sprites().to(args.device)

    def drawing() -> turns.Work:
        order = torch.randperm(len(data))
        batches = data.labels[order].to(args.device).split(AT_ONCE)
        return lambda part: [data.images(batch) for batch in batches]

    ways: dict[str, Callable[[], turns.Work]] = {DRAWN: drawing}
    times = turns.take_turns(ways, args.rounds, device=args.device)
    million = len(data) / times.median(DRAWN) * 60 / 1e6
    rows = {DRAWN: {"millions_a_minute": million}}
    bars = {"millions a minute": turns.judge(million, "at least", 1.0)}
    machine = results.machine(
        turns.processor(args.device), threads=torch.get_num_threads(), rounds=args.rounds
    )
    print(f"{DRAWN}: {million:.1f} million a minute")
    results.write(args.json, {"machine": machine, "bars": bars, "rows": rows})


if __name__ == "__main__":
    main()
