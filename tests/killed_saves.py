"""Kills processes that write a model over another, at each renaming, and prints what is left.

Run as a script, it forks a process for each before torch has started threads of its own.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from killed_runs import in_a_process

import vaekit as vk
from vaekit import storage

POINT = torch.full((1, 2), 0.3)


def make(name: str) -> vk.VAE:
    """Make a model whose prior keeps tensors of its own, another by each name."""
    seed = ["old", "new", "newest"].index(name)
    torch.manual_seed(seed)
    model, _ = vk.recipes.vae(
        vk.likelihoods.Bernoulli((1, 8, 8)), 2, nets=vk.recipes.perceptrons([8 + seed])
    )
    wide = torch.distributions.Normal(torch.full((2,), float(seed)), torch.ones(2))
    model.prior = vk.priors.Fixed(torch.distributions.Independent(wide, 1))
    return model.eval()


def said(model: vk.VAE) -> str:
    """Return what tells a model from the others."""
    told = model.decode(POINT), model.prior().log_prob(POINT)
    return json.dumps([each.tolist() for each in told])


def killed_after(folder: Path, count: int) -> str:
    """End the process as it is about to rename one more file."""
    commit, left = storage.commit, count

    def killing(temporary: Path, path: Path) -> None:
        nonlocal left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        commit(temporary, path)

    storage.commit = killing
    make("new").save_pretrained(folder)
    return "0"


def read(folder: Path, known: dict[str, str]) -> str:
    """Name the model that a folder holds."""
    return known.get(said(vk.VAE.from_pretrained(folder)), "another")


def saved_again(folder: Path, known: dict[str, str]) -> str:
    """Write a third model over what was left, and name what is then there."""
    make("newest").save_pretrained(folder)
    found = read(folder, known)
    return found if len(list(folder.iterdir())) == 4 else f"{found}, among what was left"


def main() -> None:
    torch.set_num_threads(1)
    known = {said(make(name)): name for name in ("old", "new", "newest")}
    ends = []
    for count in range(6):
        folder = Path(sys.argv[1], str(count))
        make("old").save_pretrained(folder)
        end = in_a_process(lambda f=folder, n=count: killed_after(f, n))
        ends.append({"renamed": count, "signal": int(end)})
        ends[-1]["model"] = in_a_process(lambda f=folder: read(f, known))
        ends[-1]["saved_again"] = in_a_process(lambda f=folder: saved_again(f, known))
    print(json.dumps(ends))


if __name__ == "__main__":
    main()
