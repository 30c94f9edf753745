"""Trains on one GPU, in as many processes as a launcher starts: by nccl alone, by gloo together."""

import os
import sys
from pathlib import Path

import processes
import torch

import vaekit as vk

NAMES = "elbo", "iwae", "stratified", "mmd", "factor"


def trained(name: str, accumulate: int = 1):
    losses, weights = processes.trained(name, accumulate, device="cuda")
    return losses, {key: value.cpu() for key, value in weights.items()}


def main(folder: Path) -> None:
    if int(os.environ["WORLD_SIZE"]) > 1:  # of nccl each would want a GPU of its own
        torch.distributed.init_process_group("gloo")
    found: dict[str, object] = {name: trained(name) for name in NAMES}
    found["parts"] = trained("stratified", 3)
    found["backend"] = torch.distributed.get_backend()
    rank = torch.distributed.get_rank()
    try:
        made, objective = processes.model().cuda(), processes.OBJECTIVES["elbo"]()
        vk.fit(made, objective, processes.data(), steps=2, pairs=True, cuda_graph=True)
    except ValueError as error:
        found["refused"] = str(error)
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
