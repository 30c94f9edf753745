"""Time one epoch of training, side by side in one run.

The model is a VAE of 784-400-20-400-784, the data 60,000 MNIST images held as bytes (or random
bytes of the same shape where ``VAEKIT_DATA`` names no MNIST: the arithmetic is the same), batches
of 128, Adam. Each epoch goes through the data in four quarters, and the ways take turns at each
quarter, each time from another one on, so that a slow second of the machine falls on all alike; and
each round has models made anew, so that no way keeps a lucky place in memory, but for the compiled
one, which is given new weights. What is printed is each way's median, the median over the rounds of
its ratio to another way of the same round, and the test loss after the epoch: the negative ELBO by
each one's own formula, its mean over the rounds and the standard error of that.

pythae takes part where it is installed, and the script of pytorch/examples where a clone of that
repository is named; benchmarks/README.md says how.

On a GPU, steps are captured as well, anew at each turn, which therefore goes through its quarter
several times: seconds are those of one epoch, its share of the capture included.

    python benchmarks/training.py [--rounds 20] [--precision bf16] [--pytorch-examples CLONE]
        [--json FILE]
    python benchmarks/training.py --device cuda --epochs 20 [--rounds 5] [--json FILE]
"""

import argparse
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import byhand
import peers
import results
import torch
import turns
from torch import Tensor
from torch.utils.data import DataLoader, Subset

import vaekit as vk

BATCH, HIDDEN, LATENT, PIXELS = 128, 400, 20, 784
QUARTERS = 4
PRODUCTS, BY_HAND, FIT = "matrix products alone", "hand-written loop", "fit"
COMPILED, BF16 = "fit(compile=True)", "fit(precision='bf16')"
COMPILED_BF16 = "fit(compile=True, precision='bf16')"
BY_HAND_BF16, PARTS_BF16 = "hand-written loop, bf16", "the parts of a step in bf16 alone"
PYTHAE, SCRIPT = "pythae", "script of pytorch/examples"
CAPTURED, BOTH = "fit(cuda_graph=True)", "fit(compile=True, cuda_graph=True)"
TORCHVISION, RANDOM = "torchvision loop", "random bytes"
BARS = [
    (FIT, BY_HAND, "at most", 1.05),
    (COMPILED, FIT, "at most", 1.0),
    (TORCHVISION, FIT, "at least", 2.5),
    (PYTHAE, FIT, "at least", 1.6),
    (SCRIPT, FIT, "at least", 3.0),
    (BF16, PRODUCTS, "at most", 1.0),
    (PYTHAE, BF16, "at least", 2.0),
    (SCRIPT, BF16, "at least", 4.0),
    (COMPILED_BF16, PRODUCTS, "at most", 1.0),
    (PYTHAE, COMPILED_BF16, "at least", 2.0),
    (SCRIPT, COMPILED_BF16, "at least", 4.0),
]
BARS_OF_A_GPU = [
    (FIT, BY_HAND, "at most", 1.1),
    (BY_HAND, CAPTURED, "at least", 5.0),
    (BY_HAND, BOTH, "at least", 5.0),
]


@dataclass
class Epoch:
    """A model in training."""

    run: Callable[[int], object]  # through one quarter of the data
    loss: Callable[[Tensor], Any] | None = None  # the mean negative ELBO of pictures in [0, 1]
    begin: Callable[[], object] | None = None  # with new weights, where it is not made anew

    def __call__(self, quarter: int) -> None:
        """Train on one quarter."""
        self.run(quarter)

    @torch.no_grad()
    def test(self, images: Tensor) -> float:
        """Return the mean loss of images held as bytes."""
        assert self.loss is not None
        batches = images.split(1000)
        return statistics.mean(float(self.loss(batch / 255)) for batch in batches)


def images(train: bool) -> tuple[Tensor, str]:
    """Return images as bytes, and what they are."""
    count = 60_000 if train else 10_000
    try:
        from torchvision.datasets import MNIST

        held = MNIST(os.environ["VAEKIT_DATA"], train=train).data[:, None]
    except (KeyError, RuntimeError, ImportError):
        return torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8), RANDOM
    return held, f"MNIST ({len(held)} images)"


def make_model(device: str) -> vk.VAE:
    """Make the model."""
    latent = vk.GaussianLatent(LATENT)
    encoder = vk.Encoder(vk.networks.mlp(PIXELS, [HIDDEN], latent.num_params), latent)
    likelihood = vk.likelihoods.Bernoulli((1, 28, 28), grey_levels=True)
    decoder = vk.Decoder(vk.networks.mlp(LATENT, [HIDDEN], PIXELS), likelihood)
    return vk.VAE(encoder, decoder).to(device)


def hand_written(quarters: Sequence[Tensor], device: str, epochs: int, half: bool = False) -> Epoch:
    """Return epochs of a loop over the tensor in memory, with fused Adam."""
    kind = byhand.InHalf if half else byhand.HandWritten
    model = byhand.perceptrons(PIXELS, HIDDEN, LATENT, kind).to(device)
    epoch = byhand.loop(model, quarters, BATCH)

    def run(quarter: int) -> None:
        for _ in range(epochs):
            epoch(quarter)

    return Epoch(run, lambda x: model.loss(x.flatten(1)))


def parts_in_half(quarters: Sequence[Tensor], device: str, epochs: int) -> Epoch:
    """Return what a step in bf16 does at least, one operation after the other, without a graph.

    A batch is gathered, weights and data are rounded, multiplied forward and back, and the weights'
    gradients widened; then come the cross-entropy, its slope, and Adam. On values made before.
    """
    model = byhand.perceptrons(PIXELS, HIDDEN, LATENT).to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    linears = [each for each in model.modules() if isinstance(each, torch.nn.Linear)]
    half = {"device": device, "dtype": torch.bfloat16}
    inputs = [torch.randn(BATCH, each.in_features, **half) for each in linears]
    slopes = [torch.randn(BATCH, each.out_features, **half) for each in linears]
    logits = torch.randn(BATCH, PIXELS, device=device)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    @torch.no_grad()
    def run(quarter: int) -> None:
        data = quarters[quarter]
        for _ in range(epochs):
            order = torch.randperm(len(data), device=data.device)
            for rows in order[: len(data) // BATCH * BATCH].split(BATCH):
                x = data[rows].float().div_(255)
                for linear, given, slope in zip(linears, inputs, slopes, strict=True):
                    weight, gradient = linear.weight.bfloat16(), linear.weight.grad
                    assert gradient is not None
                    if linear is linears[0]:  # the data need no gradient
                        given = x.bfloat16()
                    else:
                        slope @ weight
                    torch.nn.functional.linear(given, weight, linear.bias.bfloat16())
                    gradient.copy_(slope.T @ given)
                torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
                logits.sigmoid().sub_(x)
                optimizer.step()

    return Epoch(run)


def torchvision_loop(device: str) -> Epoch:
    """Return an epoch of the usual loop: torchvision's data set, a plain DataLoader, plain Adam."""
    from torchvision.datasets import MNIST
    from torchvision.transforms import ToTensor

    held = MNIST(os.environ["VAEKIT_DATA"], train=True, transform=ToTensor())
    size = len(held) // QUARTERS
    parts = [Subset(held, range(first, first + size)) for first in range(0, len(held), size)]
    loaders = [DataLoader(part, BATCH, shuffle=True) for part in parts]
    model = byhand.perceptrons(PIXELS, HIDDEN, LATENT).to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def epoch(quarter: int) -> None:
        total = 0.0
        for x, _ in loaders[quarter]:
            optimizer.zero_grad()
            loss = model.loss(x.flatten(1).to(device))
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)

    return Epoch(epoch, lambda x: model.loss(x.flatten(1)))


def matrix_products(count: int, device: str, epochs: int) -> Epoch:
    """Return the matrix products of epochs alone, on batches made before."""
    sizes = [(PIXELS, HIDDEN), (HIDDEN, 2 * LATENT), (LATENT, HIDDEN), (HIDDEN, PIXELS)]
    weights = [torch.randn(n_in, n_out, device=device) * 0.01 for n_in, n_out in sizes]
    inputs = [torch.randn(BATCH, n_in, device=device) for n_in, _ in sizes]
    gradients = [torch.randn(BATCH, n_out, device=device) for _, n_out in sizes]

    def epoch(quarter: int) -> None:
        for _ in range(epochs * (count // QUARTERS // BATCH)):
            for index, (w, x, g) in enumerate(zip(weights, inputs, gradients, strict=True)):
                x @ w
                x.T @ g
                if index:  # the data need no gradient
                    g @ w.T

    return Epoch(epoch)


def with_fit(
    quarters: Sequence[vk.datasets.ArrayDataset], device: str, epochs: int, **options: Any
) -> Epoch:
    """Return epochs of `vaekit.fit`."""
    model = make_model(device)
    objective = vk.Reconstruction() + vk.KL()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    def begin() -> None:
        model.load_state_dict(make_model(device).state_dict())
        optimizer.state.clear()

    def epoch(quarter: int) -> None:
        vk.fit(
            model,
            objective,
            quarters[quarter],
            epochs=epochs,
            batch_size=BATCH,
            optimizer=optimizer,
            progress=False,
            **options,
        )

    return Epoch(epoch, lambda x: objective(model(x), x, 0)[0], begin)


def main() -> None:
    """Time them and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=1, help="through the data in each round")
    parser.add_argument("--precision", nargs="*", default=[], help="of fit, beside float32")
    parser.add_argument("--pytorch-examples", type=Path, help="a clone of pytorch/examples")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    args = parser.parse_args()

    (data, what), (test, _) = images(train=True), images(train=False)
    test = test.to(args.device)
    flat = data.flatten(1).to(args.device).chunk(QUARTERS)
    quarters = [vk.datasets.from_tensors(part).to(args.device) for part in data.chunk(QUARTERS)]
    products = matrix_products(len(data), args.device, args.epochs)

    def kept(**options: Any) -> Callable[[], Epoch]:
        """Give new weights to one model, whose compilation would take longer than an epoch."""
        epoch = with_fit(quarters, args.device, args.epochs, **options)

        def anew() -> Epoch:
            assert epoch.begin is not None
            epoch.begin()
            return epoch

        return anew

    ways: dict[str, Callable[[], Epoch]] = {
        PRODUCTS: lambda: products,
        BY_HAND: lambda: hand_written(flat, args.device, args.epochs),
        FIT: lambda: with_fit(quarters, args.device, args.epochs),
        COMPILED: kept(compile=True),
    }
    if "cuda" in args.device:
        ways[CAPTURED] = lambda: with_fit(quarters, args.device, args.epochs, cuda_graph=True)
        ways[BOTH] = kept(compile=True, cuda_graph=True)
    for precision in args.precision:
        name = f"fit(precision={precision!r})"
        ways[name] = lambda each=precision: with_fit(
            quarters, args.device, args.epochs, precision=each
        )
        if "cuda" not in args.device:
            ways[f"fit(compile=True, precision={precision!r})"] = kept(
                compile=True, precision=precision
            )
    if "bf16" in args.precision:
        ways[BY_HAND_BF16] = lambda: hand_written(flat, args.device, args.epochs, half=True)
        ways[PARTS_BF16] = lambda: parts_in_half(flat, args.device, args.epochs)
    alone = args.epochs == 1 and "cuda" not in args.device  # the others go through the data once
    if what != RANDOM and alone:
        ways[TORCHVISION] = lambda: torchvision_loop(args.device)
    if peers.versions() and alone:
        held, sizes = data.flatten(1).chunk(QUARTERS), (PIXELS, HIDDEN, LATENT)
        ways[PYTHAE] = lambda: Epoch(*peers.pythae(held, sizes, BATCH, args.device))
    if (clone := args.pytorch_examples) is not None and alone:
        ways[SCRIPT] = lambda: Epoch(*peers.pytorch_examples(clone, QUARTERS, BATCH, args.device))

    losses: dict[str, list[float]] = {}

    def after(name: str, epoch: Epoch) -> None:
        if epoch.loss is not None:
            losses.setdefault(name, []).append(epoch.test(test))

    times = turns.take_turns(ways, args.rounds, QUARTERS, args.device, after)
    machine = results.machine(
        turns.processor(args.device),
        threads=torch.get_num_threads(),
        data=what,
        rounds=args.rounds,
        epochs=args.epochs,
        seeds=turns.SEEDS,
        **peers.versions(),
        **({} if clone is None else {"pytorch/examples": results.commit(clone)}),
    )
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"{'one epoch':36}{'seconds':>9}{'/ products':>12}{'/ by hand':>11}{'test loss':>11}")
    rows: dict[str, dict[str, float | None]] = {}
    for name in ways:
        row = [
            times.median(name) / args.epochs,
            times.ratio(name, PRODUCTS),
            times.ratio(name, BY_HAND),
        ]
        found = losses.get(name)
        loss = statistics.mean(found) if found else None
        error = statistics.stdev(found) / len(found) ** 0.5 if found and len(found) > 1 else None
        keys = ("seconds", "over_products", "over_hand_written", "test_loss", "standard_error")
        rows[name] = dict(zip(keys, [*row, loss, error], strict=True))
        shown = "" if loss is None else f"{loss:11.2f}" + (f" +- {error:.2f}" if error else "")
        print(f"{name:36}{row[0]:9.4f}{row[1]:12.2f}{row[2]:11.2f}{shown}")
    bars = turns.judged(times, BARS_OF_A_GPU if "cuda" in args.device else BARS)
    others = [(each, BY_HAND) for each in losses if each.startswith(FIT)]
    others += [(FIT, each) for each in (PYTHAE, SCRIPT) if each in losses]
    for name, other in others:
        apart = abs(statistics.mean(losses[name]) - statistics.mean(losses[other]))
        bars[f"test loss of {name}, from that of {other}"] = turns.judge(apart, "at most", 0.3)
    print(*(f"{name}: {verdict}" for name, verdict in bars.items()), sep="\n")
    results.write(args.json, {"machine": machine, "bars": bars, "rows": rows})


if __name__ == "__main__":
    main()
