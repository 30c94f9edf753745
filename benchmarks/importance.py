"""Time many draws for each element: a step of the IWAE, and the negative log-likelihood.

The model is a VAE of 784-400-20-400-784 of binarised pictures (random ones: the arithmetic is the
same), in batches of 128, with Adam. A step of `fit` with 50 draws takes turns with its floor: the
matrix products of that step forward and backward, and one pass over memory for each value that an
activation, the cross-entropy and their slopes need, by operations of torch, on tensors made before
and without a graph. Then the time of a step is measured for 10 to 500 draws, whose exponent is 1
where it is linear.

The negative log-likelihood, with 5,000 draws for each image, takes turns with the decoder's matrix
products for as many rows, in pieces of the same size. A slice of the images is measured, for the
time is that of a batch times the number of batches; ``--images 10000`` measures all of them.

    python benchmarks/importance.py [--device cuda] [--rounds 10] [--images 100] [--json FILE]
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import byhand
import results
import torch
import torch.nn.functional as F
import turns
from torch import Tensor

import vaekit as vk

BATCH, HIDDEN, LATENT, PIXELS = 128, 400, 20, 784
DRAWS, SAMPLES = (10, 20, 50, 100, 200, 500), 5000
IMAGES_AT_ONCE, DRAWS_AT_ONCE = 100, 20  # of `negative_log_likelihood`, by default
STEP, FLOOR = "IWAE step, k=50", "its matrix products and elementwise floor"
NLL, PRODUCTS = "negative log-likelihood", "the decoder's matrix products"


def pictures(count: int, device: str) -> Tensor:
    """Return random binary pictures."""
    return torch.randint(0, 2, (count, 1, 28, 28), device=device).float()


def step(k: int, device: str) -> turns.Work:
    """Return a step of `vaekit.fit` on each of two batches."""
    image = vk.likelihoods.Bernoulli((1, 28, 28))
    nets = vk.recipes.perceptrons([HIDDEN])
    model, objective = vk.recipes.iwae(image, LATENT, nets=nets)
    data = vk.datasets.from_tensors(pictures(2 * BATCH, "cpu")).to(device)
    optimizer = torch.optim.Adam(model.to(device).parameters(), 1e-3, fused=True)

    def work(part: int) -> None:
        vk.fit(
            model,
            objective,
            data,
            steps=2,
            batch_size=BATCH,
            samples=k,
            optimizer=optimizer,
            progress=False,
        )

    return work


def floor(k: int, device: str) -> turns.Work:
    """Return what two steps cannot do without."""
    model = byhand.perceptrons(PIXELS, HIDDEN, LATENT).to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    (first, _, second), (third, _, fourth) = model.encoder, model.decoder
    x = pictures(BATCH, device).flatten(1)
    weights = torch.rand(k, BATCH, 1, device=device)

    def layer(linear: torch.nn.Linear, rows: int) -> tuple[torch.nn.Linear, Tensor, Tensor]:
        made = (torch.randn(rows, n, device=device) for n in linear.weight.T.shape)
        return (linear, *made)

    layers = [layer(first, BATCH), layer(second, BATCH)]
    layers += [layer(third, k * BATCH), layer(fourth, k * BATCH)]
    logits = layers[-1][2].view(k, BATCH, PIXELS)
    hidden = [layers[0][2], layers[2][2]]

    @torch.no_grad()
    def work(part: int) -> None:
        for _ in range(2):
            for linear, taken, slope in layers:
                F.linear(taken, linear.weight, linear.bias)
                slope.T @ taken
                slope.sum(0)
                if linear is not first:  # the data need no gradient
                    slope @ linear.weight
            for values in hidden:
                values.relu()
                torch.where(values > 0, values, 0)
            torch.randn(k, BATCH, LATENT, device=device)
            F.softplus(logits).addcmul_(x, logits, value=-1).sum(-1).softmax(0)
            logits.sigmoid().sub_(x).mul_(weights)
            optimizer.step()

    return work


def likelihood(images: int, device: str) -> turns.Work:
    """Return `negative_log_likelihood` of a slice of the images."""
    image = vk.likelihoods.Bernoulli((1, 28, 28))
    nets = vk.recipes.perceptrons([HIDDEN])
    model = vk.recipes.vae(image, LATENT, nets=nets).model.to(device)
    data = vk.datasets.from_tensors(pictures(images, "cpu")).to(device)
    return lambda part: vk.metrics.negative_log_likelihood(model, data, SAMPLES)


def products(images: int, device: str) -> turns.Work:
    """Return the decoder's matrix products for as many rows."""
    rows = IMAGES_AT_ONCE * DRAWS_AT_ONCE
    sizes = [(LATENT, HIDDEN), (HIDDEN, PIXELS)]
    pairs = [
        (torch.randn(rows, n_in, device=device), torch.randn(n_in, n_out, device=device))
        for n_in, n_out in sizes
    ]

    def work(part: int) -> None:
        for _ in range(images * SAMPLES // rows):
            for x, weight in pairs:
                x @ weight

    return work


def main() -> None:
    """Time them and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--images", type=int, default=100, help="a multiple of 100")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    args = parser.parse_args()

    of_draws = {k: f"IWAE step, k={k}" for k in DRAWS}
    ways: dict[str, Callable[[], turns.Work]] = {FLOOR: lambda: floor(50, args.device)}
    ways |= {name: lambda k=k: step(k, args.device) for k, name in of_draws.items()}
    times = turns.take_turns(ways, args.rounds, device=args.device)
    rows = {name: {"seconds": times.median(name) / 2} for name in [FLOOR, *of_draws.values()]}
    rows[STEP]["over_floor"] = times.ratio(STEP, FLOOR)

    slices: dict[str, Callable[[], turns.Work]] = {
        NLL: lambda: likelihood(args.images, args.device),
        PRODUCTS: lambda: products(args.images, args.device),
    }
    estimates = turns.take_turns(slices, args.rounds, device=args.device)
    rows |= {
        f"{name}, {args.images} images": {"seconds": estimates.median(name)} for name in slices
    }
    rows[f"{NLL}, {args.images} images"]["over_floor"] = estimates.ratio(NLL, PRODUCTS)

    seconds = [times.median(name) for name in of_draws.values()]
    bars = turns.judged(times, [(STEP, FLOOR, "at most", 1.1)])
    bars |= turns.judged(estimates, [(NLL, PRODUCTS, "at most", 1.2)])
    bars["exponent of k"] = turns.judge(turns.exponent(DRAWS, seconds), "at most", 1.05)
    machine = results.machine(
        turns.processor(args.device),
        threads=torch.get_num_threads(),
        rounds=args.rounds,
        seeds=turns.SEEDS,
        batch=BATCH,
        samples=SAMPLES,
        **{key: value for key, value in os.environ.items() if key.startswith("MALLOC_")},
    )
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    for name, row in rows.items():
        print(f"{name:44}" + "".join(f"{value:9.3f}" for value in row.values()))
    print(*(f"{name}: {verdict}" for name, verdict in bars.items()), sep="\n")
    results.write(args.json, {"machine": machine, "bars": bars, "rows": rows})


if __name__ == "__main__":
    main()
