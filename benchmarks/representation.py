"""Tell the digits of MNIST from the codes of models that never saw a label.

Each model is trained on the 60,000 training images; their posterior means, with their labels, are
then what a k-NN classifier (k = 5) and a linear probe learn from, and those of the 10,000 test
images what both are asked. Grey levels under a Bernoulli likelihood. The denoising autoencoder is
shown each image turned, scaled, sheared and moved at random, and is to give it back as it was.

    VAEKIT_DATA=... python benchmarks/representation.py vae vamp --latents 2 16 [--json FILE]
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import results
import torch
import torch.nn.functional as F
import turns

import vaekit as vk

IMAGE = vk.likelihoods.Bernoulli((1, 28, 28), grey_levels=True)
MODELS = ("autoencoder", "denoising", "vae", "vamp")


def warped(x: torch.Tensor) -> torch.Tensor:
    """Turn, scale, shear and move each image by itself: a quarter radian, a tenth, an eighth."""

    def drawn(most: float, *shape: int) -> torch.Tensor:
        return (2 * torch.rand(len(x), *shape, device=x.device) - 1) * most

    angle, scale, shear = drawn(0.25), 1 + drawn(0.1), drawn(0.2)
    theta = x.new_zeros(len(x), 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = angle.cos() * scale, shear - angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = angle.sin(), angle.cos() * scale
    theta[:, :, 2] = drawn(0.125, 2)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False).clamp(0, 1)


def recipes(
    latents: int, nets: vk.recipes.Nets, pseudo_inputs: torch.Tensor
) -> dict[str, Callable[[], vk.recipes.Recipe]]:
    """Return what can be trained, by name."""
    return {
        "autoencoder": lambda: vk.recipes.autoencoder(IMAGE, latents, nets=nets),
        "denoising": lambda: vk.recipes.denoising_autoencoder(IMAGE, latents, nets=nets),
        "vae": lambda: vk.recipes.vae(IMAGE, latents, nets=nets),
        "vamp": lambda: vk.recipes.vamp_vae(IMAGE, latents, pseudo_inputs, nets=nets),
    }


def main() -> None:
    """Train each model, probe its codes, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", choices=MODELS)
    parser.add_argument("--latents", type=int, nargs="+", default=[2, 16])
    parser.add_argument("--hidden", type=int, nargs="+", default=[512, 512, 256])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--pseudo-inputs", type=int, default=300)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to add the numbers")
    args = parser.parse_args()

    train, test = (part.to(args.device) for part in vk.datasets.mnist(download=False))
    torch.manual_seed(args.seed)
    chosen = torch.randperm(len(train))[: args.pseudo_inputs]
    pseudo_inputs = 0.05 + 0.9 * train[chosen][0].cpu()
    steps = args.epochs * -(-len(train) // 128)
    for latents in args.latents:
        made = recipes(latents, vk.recipes.perceptrons(args.hidden), pseudo_inputs)
        for name in args.models:
            torch.manual_seed(args.seed)
            model, objective = made[name]()
            started, cpu = time.perf_counter(), time.process_time()
            history = vk.fit(
                model.to(args.device),
                objective,
                train,
                epochs=args.epochs,
                scheduler=results.cosine(steps, 1e-5),
                corruption=warped if name == "denoising" else None,
                seed=args.seed,
                progress=False,
            )
            trained = (time.perf_counter() - started) / 60, (time.process_time() - cpu) / 60
            codes, test_codes = (model.encode(part).mean.cpu() for part in (train, test))
            asked = test_codes, test.labels.cpu()
            near = vk.metrics.nearest_neighbours(codes, train.labels.cpu(), test=asked)
            probe = vk.metrics.linear_probe(codes, train.labels.cpu(), test=asked)
            key = f"{name}, {latents} latents"
            held = results.read(args.json)
            held["rows"][key] = {
                "k_nn": near.accuracy.mean,
                "k_nn_error": near.accuracy.standard_error,
                "linear": probe.accuracy.mean,
                "linear_error": probe.accuracy.standard_error,
                "loss": history["loss"][-1],
                "minutes": trained[0],
                "cpu_minutes": trained[1],
            }
            held["classifiers"] = {"k-NN": near.classifier, "linear": probe.classifier}
            held["settings"] = {
                "model": f"MLP 784-{'-'.join(map(str, args.hidden))}-latents",
                "optimizer": "Adam, 1e-3 to 1e-5 along a cosine, batches of 128",
                "epochs": args.epochs,
                "seed": args.seed,
            }
            held["machine"] = results.machine(args.device, threads=torch.get_num_threads())
            print(f"{key}: k-NN {near.accuracy}, linear {probe.accuracy}", flush=True)
            held["bars"] = bars(held["rows"])
            results.write(args.json, held)


def bars(rows: dict[str, dict[str, float]]) -> dict[str, str]:
    """Judge the best row of two latents, and of 16 the one of the best probe, by both."""
    found = {}
    two = [row["k_nn"] for key, row in rows.items() if key.endswith(", 2 latents")]
    sixteen = {key: row for key, row in rows.items() if key.endswith(", 16 latents")}
    if two:
        found["k-NN, 2 latents"] = turns.judge(max(two), "at least", 0.75)
    if sixteen:
        best = max(sixteen, key=lambda key: sixteen[key]["linear"])
        found[f"k-NN, {best}"] = turns.judge(sixteen[best]["k_nn"], "at least", 0.97)
        found[f"linear probe, {best}"] = turns.judge(sixteen[best]["linear"], "at least", 0.95)
    return found


if __name__ == "__main__":
    main()
