"""Time a global step of training in two processes against one.

Two VAEs: perceptrons of 784-400-20-400-784, with a global step of 256 pictures, and the
convolutions of `convolutions.py` on 3 x 64 x 64, with one of 64; the data are random bytes (the
arithmetic is the same for any). One process takes the whole step, with every core; two take half of
it each, with half the cores each. Each run is started by torch's launcher, and the ways take turns
at each run; the time is that of `fit` alone, in the first process, after a short run to warm up.

What two processes exchange in a step, the gradients of all weights, takes as long whatever the
batch: it weighs on the perceptrons, whose step takes a few milliseconds, and hardly on the others.

    python benchmarks/processes.py [--rounds 5] [--json FILE]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import convolutions
import results
import torch
import turns

import vaekit as vk

ONE, TWO = "one process", "two processes"
PERCEPTRONS, CONVOLUTIONS = "perceptrons", "convolutions"
STEPS = {PERCEPTRONS: 200, CONVOLUTIONS: 20}


def model_and_batch(name: str) -> tuple[vk.VAE, int]:
    """Make a model, and tell how many pictures a global step goes through."""
    if name == PERCEPTRONS:
        image, nets = (1, 28, 28), vk.recipes.perceptrons([400])
        likelihood = vk.likelihoods.Bernoulli(image, grey_levels=True)
        return vk.recipes.vae(likelihood, 20, nets=nets).model, 256
    encoder, decoder = convolutions.networks()
    latent = vk.GaussianLatent(convolutions.LATENT)
    likelihood = vk.likelihoods.Bernoulli(convolutions.SHAPE, grey_levels=True)
    model = vk.VAE(vk.Encoder(encoder, latent), vk.Decoder(decoder, likelihood))
    return model, convolutions.BATCH


def work(name: str, path: Path) -> None:
    """Train, in a process that the launcher started, and write down the seconds of a step."""
    processes, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    model, batch = model_and_batch(name)
    torch.manual_seed(0)  # for the same pictures in every process
    shape = model.decoder.likelihood.shape
    images = torch.randint(0, 256, (batch * 20, *shape), dtype=torch.uint8)
    data, objective = vk.datasets.from_tensors(images), vk.Reconstruction() + vk.KL()
    options = {"batch_size": batch, "seed": 0, "progress": False}
    vk.fit(model, objective, data, steps=STEPS[name] // 10, **options)
    if processes > 1:
        _check_same(next(model.parameters()).detach(), processes)
    started = time.perf_counter()
    vk.fit(model, objective, data, steps=STEPS[name], **options)
    if rank == 0:
        path.write_text(json.dumps((time.perf_counter() - started) / STEPS[name]))
    if processes > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _check_same(weights: torch.Tensor, processes: int) -> None:
    """Make sure that the processes have trained one model."""
    held = [torch.empty_like(weights) for _ in range(processes)]
    torch.distributed.all_gather(held, weights)
    if not all(torch.equal(weights, each) for each in held):
        raise RuntimeError("each process trained a model of its own")


def launch(name: str, processes: int) -> float:
    """Start a run, and return the seconds of a step."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seconds.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={processes}", __file__, "--work", name, str(path)]
        threads = max((os.cpu_count() or 1) // processes, 1)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, env=environment, check=True)
        return float(json.loads(path.read_text()))


def main() -> None:
    """Time them and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work[0], Path(args.work[1]))
        return

    ways = [(name, n) for name in STEPS for n in (1, 2)]
    named = {way: f"{way[0]}, {ONE if way[1] == 1 else TWO}" for way in ways}
    seconds: dict[str, list[float]] = {each: [] for each in named.values()}
    for turn in range(args.rounds):
        for way in ways if turn % 2 == 0 else ways[::-1]:
            seconds[named[way]].append(launch(*way))
    times = turns.Times(seconds)
    rows = {
        each: {
            "milliseconds": 1000 * times.median(each),
            "over_one": times.ratio(each, named[way[0], 1]),
        }
        for way, each in named.items()
    }
    pairs = [(named[name, 2], named[name, 1]) for name in STEPS]
    bars = turns.judged(times, [(two, one, "at most", 1.0) for two, one in pairs])
    machine = results.machine(
        turns.processor("cpu"),
        cores=os.cpu_count(),
        rounds=args.rounds,
        seed=0,
        **{f"batch of {name}": model_and_batch(name)[1] for name in STEPS},
    )
    for name, row in rows.items():
        print(f"{name:30}{row['milliseconds']:9.2f} ms{row['over_one']:8.3f}")
    print(*(f"{name}: {verdict}" for name, verdict in bars.items()), sep="\n")
    results.write(args.json, {"machine": machine, "bars": bars, "rows": rows})


if __name__ == "__main__":
    main()
