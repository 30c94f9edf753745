"""Measure what ``import vaekit`` adds to ``import torch``, each time in a fresh process.

The first process compiles the modules, as an installation does, and is not counted.
"""

import argparse
import os
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
    compiling = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", CODE]
    seconds = [
        float(subprocess.check_output(command, text=True, env=compiling))
        for _ in range(args.rounds + 1)
    ]
    median = statistics.median(seconds[1:])
    met = "met" if median <= 0.1 else "MISSED"
    print(f"import vaekit after import torch: {median:.3f} s (at most 0.1: {met})")


if __name__ == "__main__":
    main()
