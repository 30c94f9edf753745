"""Measure what ``import vaekit`` adds to ``import torch``, each time in a fresh process."""

import argparse
import statistics
import subprocess
import sys

CODE = """
import time
import torch
started = time.perf_counter()
import vaekit
print(time.perf_counter() - started)
"""


def main() -> None:
    """Time the imports and print the median."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    seconds = [
        float(subprocess.check_output([sys.executable, "-c", CODE], text=True))
        for _ in range(args.rounds)
    ]
    median = statistics.median(seconds)
    met = "met" if median <= 0.1 else "MISSED"
    print(f"import vaekit after import torch: {median:.3f} s (at most 0.1: {met})")


if __name__ == "__main__":
    main()
