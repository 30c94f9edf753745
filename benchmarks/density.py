"""Train the one-layer model of the IWAE paper on binarised MNIST and estimate its log-likelihood.

Two tanh layers of 200, 50 latent dimensions, a Bernoulli likelihood, pixels drawn afresh at each
epoch; Glorot's initial weights, the output's bias from the mean image. The schedule is shorter than
the paper's 3,280 epochs: a learning rate that falls to a hundredth along a cosine. The negative
log-likelihood is estimated over the whole test set, binarised once by its seed, with 5,000 draws
for each image; in expectation the estimate is at least the true one.

``cpu_minutes`` is what training took of all cores together: 60 are 30 minutes of two.

    VAEKIT_DATA=... python benchmarks/density.py vae iwae dreg vamp --epochs 25 [--json FILE]
"""

import argparse
import time
from pathlib import Path

import results
import torch
from torch import Tensor, nn

import vaekit as vk

NETS = vk.recipes.perceptrons((200, 200), nn.Tanh)
LATENT = 50
IMAGE = vk.likelihoods.Bernoulli((1, 28, 28))


def make(name: str, mean: Tensor, pseudo_inputs: Tensor) -> vk.recipes.Recipe:
    """Make a model by its name, with the paper's initial weights."""
    recipes = {
        "vae": lambda: vk.recipes.vae(IMAGE, LATENT, nets=NETS),
        "iwae": lambda: vk.recipes.iwae(IMAGE, LATENT, nets=NETS),
        "stl": lambda: vk.recipes.stl(IMAGE, LATENT, nets=NETS),
        "dreg": lambda: vk.recipes.dreg(IMAGE, LATENT, nets=NETS),
        "vamp": lambda: vk.recipes.vamp_vae(IMAGE, LATENT, pseudo_inputs, nets=NETS),
    }
    model, objective = recipes[name]()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    last = [m for m in model.decoder.modules() if isinstance(m, nn.Linear)][-1]
    last.bias.data.copy_(mean.flatten().clamp(0.001, 0.999).logit())
    return vk.recipes.Recipe(model, objective)


def main() -> None:
    """Train each model, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", choices=["vae", "iwae", "stl", "dreg", "vamp"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--batch-size", type=int, default=200)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--samples", type=int, default=50, help="draws in training (IWAE's k)")
    parser.add_argument("--draws", type=int, default=5000, help="draws for each test image")
    parser.add_argument("--pseudo-inputs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to add the numbers")
    parser.add_argument("--save", type=Path, help="a folder for the weights")
    args = parser.parse_args()

    train, _ = vk.datasets.mnist(binarize="dynamic", download=False)
    _, test = vk.datasets.mnist(binarize="static", download=False)
    train, test = train.to(args.device), test.to(args.device)
    mean = train[:][0].mean(0)
    torch.manual_seed(args.seed)
    chosen = torch.randperm(len(train))[: args.pseudo_inputs]
    pseudo_inputs = 0.05 + 0.9 * train[chosen][0].cpu()

    steps = args.epochs * -(-len(train) // args.batch_size)
    for name in args.models:
        torch.manual_seed(args.seed)
        model, objective = make(name, mean.cpu(), pseudo_inputs)
        model.to(args.device)
        drawing = name in ("iwae", "stl", "dreg")
        started, cpu = time.perf_counter(), time.process_time()
        history = vk.fit(
            model,
            objective,
            train,
            epochs=args.epochs,
            batch_size=args.batch_size,
            samples=args.samples if drawing else None,
            learning_rate=args.learning_rate,
            scheduler=results.cosine(steps, args.learning_rate / 100),
            compile=args.compile,
            seed=args.seed,
            progress=False,
        )
        minutes = (time.perf_counter() - started) / 60
        cpu_minutes = (time.process_time() - cpu) / 60
        if args.save:
            args.save.mkdir(parents=True, exist_ok=True)
            torch.save(model.state_dict(), args.save / f"{name}-{args.epochs}-{args.seed}.pt")
        found = vk.metrics.negative_log_likelihood(model, test, args.draws, seed=args.seed)
        nll, error = found.nats
        key = f"{name}, k={args.samples if drawing else 1}, {args.epochs} epochs"
        held = results.read(args.json)
        held["rows"][key] = {
            "nll": nll,
            "standard_error": error,
            "training_bound": -history["loss"][-1],
            "minutes": minutes,
            "cpu_minutes": cpu_minutes,
            "batch_size": args.batch_size,
            "learning_rate": args.learning_rate,
            "threads": torch.get_num_threads(),
            "seed": args.seed,
        }
        print(f"{key}: NLL {nll:.2f} +- {error:.2f} nats, trained in {minutes:.1f} minutes")
        held["machine"] = results.machine(args.device, draws=args.draws)
        results.write(args.json, held)


if __name__ == "__main__":
    main()
