"""Time one epoch of a convolutional VAE, by `fit` and by a loop written by hand.

Pictures of 3 x 64 x 64, random bytes (the arithmetic is the same for any); batches of 64; four
convolutions that halve every side, a layer of 256, 32 latent dimensions, and their mirror, built by
`vaekit.networks`; Adam. Both train the same layers. With ``--channels-last`` both do so once more
with the channels of every picture and weight next to one another in memory, and `fit` is told so.

    python benchmarks/convolutions.py [--device cuda] [--rounds 5] [--channels-last] [--json FILE]
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import byhand
import results
import torch
import turns
from torch import nn

import vaekit as vk

BATCH, LATENT = 64, 32
SHAPE, CHANNELS = (3, 64, 64), [32, 64, 128, 256]
BY_HAND, FIT = "hand-written loop", "fit"
HAND_LAST, FIT_LAST = "hand-written loop, channels last", "fit(channels_last=True)"
BARS = [
    (FIT, BY_HAND, "at most", 1.05),
    (FIT_LAST, HAND_LAST, "at most", 1.05),
    (FIT_LAST, FIT, "at most", 1.0),
]


def networks() -> tuple[nn.Module, nn.Module]:
    """Make encoder and decoder, the same layers for both ways."""
    encoder = vk.networks.conv(SHAPE, CHANNELS, 2 * LATENT, hidden=[256])
    return encoder, vk.networks.conv_transpose(LATENT, CHANNELS[::-1], SHAPE, hidden=[256])


def with_fit(data: vk.datasets.ArrayDataset, device: str, **options: Any) -> turns.Work:
    """Return an epoch of `vaekit.fit`."""
    encoder, decoder = networks()
    likelihood = vk.likelihoods.Bernoulli(SHAPE, grey_levels=True)
    model = vk.VAE(
        vk.Encoder(encoder, vk.GaussianLatent(LATENT)), vk.Decoder(decoder, likelihood)
    ).to(device)

    def epoch(part: int) -> None:
        objective = vk.Reconstruction() + vk.KL()
        vk.fit(model, objective, data, epochs=1, batch_size=BATCH, progress=False, **options)

    return epoch


def main() -> None:
    """Time them and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=1280)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    args = parser.parse_args()

    torch.manual_seed(0)
    images = torch.randint(0, 256, (args.pictures, *SHAPE), dtype=torch.uint8)
    held, data = images.to(args.device), vk.datasets.from_tensors(images).to(args.device)

    def by_hand(layout: torch.memory_format) -> turns.Work:
        model = byhand.HandWritten(*networks()).to(args.device, memory_format=layout)
        return byhand.loop(model, [held.contiguous(memory_format=layout)], BATCH)

    ways: dict[str, Callable[[], turns.Work]] = {
        BY_HAND: lambda: by_hand(torch.contiguous_format),
        FIT: lambda: with_fit(data, args.device),
    }
    if args.channels_last:
        ways[HAND_LAST] = lambda: by_hand(torch.channels_last)
        ways[FIT_LAST] = lambda: with_fit(data, args.device, channels_last=True)
    times = turns.take_turns(ways, args.rounds, device=args.device)
    rows = {
        name: {"seconds": times.median(name), "over_hand_written": times.ratio(name, BY_HAND)}
        for name in ways
    }
    machine = results.machine(
        turns.processor(args.device),
        threads=torch.get_num_threads(),
        pictures=args.pictures,
        batch=BATCH,
        rounds=args.rounds,
        seeds=turns.SEEDS,
    )
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    for name, row in rows.items():
        print(f"{name:34}{row['seconds']:9.3f}{row['over_hand_written']:8.3f}")
    bars = turns.judged(times, BARS)
    print(*(f"{name}: {verdict}" for name, verdict in bars.items()), sep="\n")
    results.write(args.json, {"machine": machine, "bars": bars, "rows": rows})


if __name__ == "__main__":
    main()
