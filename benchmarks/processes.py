"""Time a global step of training in two processes against one.

The model is a VAE of 784-400-20-400-784, the data random bytes (the arithmetic is the same for
any). A global step goes through 256 pictures: one process takes them all, with every core; two take
128 each, with half the cores each. Each run is started by torch's launcher, and the ways take turns
at each run; the time is that of `fit` alone, in the first process, after a short run to warm up.

    python benchmarks/processes.py [--rounds 5] [--json FILE]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import results
import torch
import turns

import vaekit as vk

GLOBAL_BATCH, STEPS = 256, 200
ONE, TWO = "one process", "two processes"


def work(path: Path) -> None:
    """Train, in a process that the launcher started, and write down the seconds of a step."""
    processes, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    model, objective = vk.recipes.vae(
        vk.likelihoods.Bernoulli((1, 28, 28), grey_levels=True),
        20,
        nets=vk.recipes.perceptrons([400]),
    )
    torch.manual_seed(0)  # for the same pictures in every process
    images = torch.randint(0, 256, (GLOBAL_BATCH * 50, 1, 28, 28), dtype=torch.uint8)
    data = vk.datasets.from_tensors(images)
    vk.fit(model, objective, data, steps=20, batch_size=GLOBAL_BATCH, seed=0, progress=False)
    if processes > 1:
        _check_same(next(model.parameters()).detach(), processes)
    started = time.perf_counter()
    vk.fit(model, objective, data, steps=STEPS, batch_size=GLOBAL_BATCH, seed=0, progress=False)
    if rank == 0:
        path.write_text(json.dumps((time.perf_counter() - started) / STEPS))


def _check_same(weights: torch.Tensor, processes: int) -> None:
    """Make sure that the processes have trained one model."""
    held = [torch.empty_like(weights) for _ in range(processes)]
    torch.distributed.all_gather(held, weights)
    if not all(torch.equal(weights, each) for each in held):
        raise RuntimeError("each process trained a model of its own")


def launch(processes: int) -> float:
    """Start a run, and return the seconds of a step."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seconds.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={processes}", __file__, "--work", str(path)]
        threads = max((os.cpu_count() or 1) // processes, 1)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, env=environment, check=True)
        return float(json.loads(path.read_text()))


def main() -> None:
    """Time them and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work)
        return

    seconds: dict[str, list[float]] = {ONE: [], TWO: []}
    for turn in range(args.rounds):
        ways = [(ONE, 1), (TWO, 2)]
        for name, processes in ways if turn % 2 == 0 else ways[::-1]:
            seconds[name].append(launch(processes))
    times = turns.Times(seconds)
    rows = {
        name: {"milliseconds": 1000 * statistics.median(each), "over_one": times.ratio(name, ONE)}
        for name, each in seconds.items()
    }
    bars = turns.judged(times, [(TWO, ONE, "at most", 1.0)])
    machine = results.machine(
        turns.processor("cpu"), cores=os.cpu_count(), rounds=args.rounds, batch=GLOBAL_BATCH
    )
    for name, row in rows.items():
        print(f"{name:16}{row['milliseconds']:9.2f} ms{row['over_one']:8.3f}")
    print(*(f"{name}: {verdict}" for name, verdict in bars.items()), sep="\n")
    results.write(args.json, {"machine": machine, "bars": bars, "rows": rows})


if __name__ == "__main__":
    main()
