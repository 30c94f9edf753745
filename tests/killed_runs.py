"""Kills runs of `fit` at given points, resumes them, and prints what they end with.

Run as a script, it forks a process for each run before torch has started threads of its own.
"""

import hashlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import vaekit as vk
from vaekit import storage

DATA = torch.rand(90, 1, 8, 8, generator=torch.Generator().manual_seed(0))
STEPS = 40


class Kill(vk.objectives.Term):
    """Ends the process within a step's forward pass, or else fills its disk."""

    def __init__(self, step: int | None = None, room: int | None = None) -> None:
        super().__init__()
        self.step, self.room = step, room

    def set_step(self, step: int) -> None:
        self.now = step

    def forward(self, out, x):
        if self.training and self.now == self.step:
            self.end()
        return x.new_zeros(len(x))

    def end(self) -> None:
        if self.room is None:
            os.kill(os.getpid(), signal.SIGKILL)
        else:  # no file of this process may be longer
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.room, self.room))


def run(folder: str | None, kill: Kill, resume: bool = False) -> vk.training.History:
    """Train everything that has a state: a discriminator, schedules, statistics, patience."""
    torch.manual_seed(0)
    latent = vk.GaussianLatent(3)
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU()
    )
    encoder = vk.Encoder(
        torch.nn.Sequential(net, torch.nn.Dropout(), torch.nn.Linear(16, 6)), latent
    )
    likelihood = vk.likelihoods.Gaussian((1, 8, 8), sigma="optimal")
    model = vk.VAE(encoder, vk.Decoder(vk.networks.mlp(3, [16], 64), likelihood))
    beta = vk.schedules.Linear(0, 2, steps=30)
    adversary = vk.objectives.AdversarialTotalCorrelation(vk.networks.mlp(3, [8], 1))
    objective = vk.Reconstruction() + beta * vk.KL() + adversary + kill
    history = vk.fit(
        model,
        objective,
        vk.datasets.from_tensors(DATA, binarize="dynamic"),
        steps=STEPS,
        batch_size=32,
        validation=DATA[:20],
        validate_every=4,
        patience=3,
        scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS),
        corruption=lambda x: x * (torch.rand_like(x) > 0.1),
        seed=5,
        progress=False,
        checkpoint=folder and vk.training.Checkpoints(folder, every=3),
        resume=resume,
    )
    history.digest = digest(model)
    return history


def digest(model: torch.nn.Module) -> str:
    """Sum the bytes of all weights."""
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(name.encode() + value.numpy().tobytes())
    return found.hexdigest()


def in_a_process(function: Callable[[], str]) -> str | int:
    """Return what a function does in a process of its own, or the signal that ended it."""
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        try:
            os.write(writing, function().encode())
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)  # nothing after this is the child's
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read()
    _, status = os.waitpid(process, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else said


def killed_while_writing(folder: str, count: int, before: bool) -> str:
    """End the process at its count-th checkpoint, before or after the file has its name."""
    commit, left = storage.commit, count

    def killing(temporary: Path, path: Path) -> None:
        nonlocal left
        left -= 1
        if not before:
            commit(temporary, path)
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        if before:
            commit(temporary, path)

    storage.commit = killing
    return run(folder, Kill()).digest


def main() -> None:
    torch.set_num_threads(1)
    folder, *points = sys.argv[1:]
    ends = {"alone": in_a_process(lambda: run(None, Kill()).digest)}
    for point in points:
        where, kind = f"{folder}/{point}", point.rstrip("0123456789")
        number = int(point.removeprefix(kind))
        if kind == "full":
            killed = in_a_process(lambda w=where, n=number: run(w, Kill(n, room=1000)).digest)
        elif kind == "step":
            killed = in_a_process(lambda w=where, n=number: run(w, Kill(n)).digest)
        else:
            before = kind == "before"
            killed = in_a_process(lambda w=where, n=number, b=before: killed_while_writing(w, n, b))
        ended = in_a_process(lambda w=where: run(w, Kill(), resume=True).digest)
        ends[point] = [killed, ended]
    print(json.dumps(ends))


if __name__ == "__main__":
    main()
