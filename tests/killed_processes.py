"""Trains in several processes, one of which may be killed, and writes what each ends with."""

import os
import sys
from pathlib import Path

import torch
from killed_runs import Kill, digest

import vaekit as vk

DATA = torch.rand(90, 64, generator=torch.Generator().manual_seed(0))


class Noting(Kill):
    """Notes the first step that there was."""

    began: int | None = None

    def set_step(self, step: int) -> None:
        super().set_step(step)
        self.began = step if self.began is None else self.began


def main() -> None:
    folder, kill = Path(sys.argv[1]), sys.argv[2:]
    torch.manual_seed(0)
    latent = vk.GaussianLatent(3)
    encoder = vk.Encoder(vk.networks.mlp(64, [16], latent.num_params), latent)
    likelihood = vk.likelihoods.Gaussian(64)
    model = vk.VAE(encoder, vk.Decoder(vk.networks.mlp(3, [16], 64), likelihood))

    adversary = vk.objectives.AdversarialTotalCorrelation(vk.networks.mlp(3, [8], 1))
    killed = Noting(int(kill[1]) if kill and os.environ["RANK"] == kill[0] else None)
    objective = vk.Reconstruction() + vk.KL() + vk.TotalCorrelation() + adversary + killed
    history = vk.fit(
        model,
        objective,
        DATA,
        steps=20,
        batch_size=32,
        validation=DATA[:20],
        validate_every=4,
        seed=5,
        progress=False,
        checkpoint=vk.training.Checkpoints(folder / "checkpoints", every=3),
        resume=True,
    )
    (folder / f"{os.environ['RANK']}.began").write_text(str(killed.began))
    (folder / f"{os.environ['RANK']}.txt").write_text(f"{history.step[-1]} {digest(model)}")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
