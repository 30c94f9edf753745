"""Time the epochs of `vaekit.fit` with and without numbers that are too small for a processor.

Adam keeps an average of each weight's gradients. Where those have become zero, as of pixels that
few pictures have, it fades until it is a denormal number (below 1.2e-38), which a processor
computes with slowly, and stays one. ``torch.set_flush_denormal(True)`` takes such numbers for zero;
it counts for the threads that are made after it, so that each way has a process of its own. The
model is that of `training.py`. The processes take turns at each quarter of the data, as the ways do
there.

    python benchmarks/denormals.py [--epochs 6] [--json FILE]
"""

import argparse
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import results
import torch
import training
import turns

import vaekit as vk

PLAIN, FLUSHED = "as torch has it", "set_flush_denormal(True)"


def work(flush: bool, pipe: Connection) -> None:
    """Train on the quarter that is asked for, and tell the seconds."""
    if flush and not torch.set_flush_denormal(True):
        raise SystemExit("this processor cannot flush denormal numbers")
    data, _ = training.images(train=True)
    quarters = [vk.datasets.from_tensors(part) for part in data.chunk(training.QUARTERS)]
    torch.manual_seed(0)
    epoch = training.with_fit(quarters, "cpu", epochs=1)
    while (quarter := pipe.recv()) is not None:
        started = time.perf_counter()
        epoch(quarter)
        pipe.send(time.perf_counter() - started)
    pipe.send(epoch.test(training.images(train=False)[0]))


def main() -> None:
    """Time them and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    args = parser.parse_args()
    pipes = {}
    for name, flush in ((PLAIN, False), (FLUSHED, True)):
        pipes[name], other = get_context("spawn").Pipe()
        get_context("spawn").Process(target=work, args=(flush, other), daemon=True).start()

    def asked(name: str, quarter: int) -> float:
        pipes[name].send(quarter)
        seconds: float = pipes[name].recv()
        return seconds

    rows = {}
    print(f"{'epoch':>5}{PLAIN:>28}{FLUSHED:>28}{'ratio':>8}")
    for number in range(1, args.epochs + 1):
        taken = dict.fromkeys(pipes, 0.0)
        for quarter in range(training.QUARTERS):
            first = (number + quarter) % 2
            for name in [*pipes, *pipes][first : first + 2]:
                taken[name] += asked(name, quarter)
        plain, flushed = taken[PLAIN], taken[FLUSHED]
        rows[f"epoch {number}"] = {"plain": plain, "flushed": flushed, "ratio": plain / flushed}
        print(f"{number:5}{plain:28.2f}{flushed:28.2f}{plain / flushed:8.2f}", flush=True)
    losses = {}
    for name, pipe in pipes.items():
        pipe.send(None)
        losses[name] = pipe.recv()
        print(f"test loss, {name}: {losses[name]:.2f}")
    what = training.images(train=True)[1]
    machine = results.machine(turns.processor("cpu"), threads=torch.get_num_threads(), data=what)
    results.write(args.json, {"machine": machine, "test loss": losses, "rows": rows})


if __name__ == "__main__":
    main()
