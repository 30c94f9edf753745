"""Tell one digit of MNIST from the nine others, by a VAE that has seen it alone.

For each digit in turn a VAE is trained on its training images, grey levels under a Gaussian
likelihood of one sigma, and scores all 10,000 test images in the four ways of
`vaekit.metrics.anomaly_scores`. What is reported is the area under the ROC curve of each score, and
its mean over the ten digits.

    VAEKIT_DATA=... python benchmarks/anomalies.py [--sigma 0.3] [--json FILE]
"""

import argparse
import statistics
import time
from pathlib import Path

import results
import torch
import turns

import vaekit as vk

SCORES = ("reconstruction", "negative_elbo", "negative_log_likelihood", "likelihood_regret")
CHOSEN_BY = {"2", "5", "8"}  # digits whose areas the settings were chosen by


def main() -> None:
    """Train ten models, score the test set with each, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--latents", type=int, default=16)
    parser.add_argument("--hidden", type=int, nargs="+", default=[512, 256])
    parser.add_argument("--sigma", type=float, default=0.3)
    parser.add_argument("--beta", type=float, default=1.0)
    parser.add_argument("--digits", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    args = parser.parse_args()

    train, test = (part.to(args.device) for part in vk.datasets.mnist(download=False))
    likelihood = vk.likelihoods.Gaussian(train.shape, sigma=args.sigma)
    nets = vk.recipes.perceptrons(args.hidden)
    rows: dict[str, dict[str, float]] = {}
    errors: dict[str, dict[str, float]] = {}
    started, cpu = time.perf_counter(), time.process_time()
    for digit in args.digits:
        torch.manual_seed(args.seed)
        inside = train.subset(train.labels == digit)
        model, objective = vk.recipes.beta_vae(likelihood, args.latents, beta=args.beta, nets=nets)
        vk.fit(
            model.to(args.device),
            objective,
            inside,
            epochs=args.epochs,
            seed=args.seed,
            progress=False,
        )
        scores = vk.metrics.anomaly_scores(model, test, seed=args.seed)._asdict()
        outside = (test.labels != digit).cpu()
        areas = {name: vk.metrics.auroc(scores[name], outside) for name in SCORES}
        rows[str(digit)] = {name: area.mean for name, area in areas.items()}
        errors[str(digit)] = {name: area.standard_error for name, area in areas.items()}
        print(digit, *(f"{name} {area:.4f}" for name, area in rows[str(digit)].items()), flush=True)
    of = {"mean": rows.keys(), "mean of the seven others": rows.keys() - CHOSEN_BY}
    means = {
        name: {score: statistics.mean(rows[each][score] for each in digits) for score in SCORES}
        for name, digits in of.items()
        if digits
    }
    for name, row in means.items():
        print(name, *(f"{score} {area:.4f}" for score, area in row.items()))
    rows |= means
    best = max(SCORES, key=means["mean"].__getitem__)
    if args.json:
        result = {
            "machine": results.machine(
                args.device,
                threads=torch.get_num_threads(),
                minutes=(time.perf_counter() - started) / 60,
                cpu_minutes=(time.process_time() - cpu) / 60,
            ),
            "settings": {
                "model": f"MLP 784-{'-'.join(map(str, args.hidden))}-{args.latents}",
                "likelihood": f"Gaussian, sigma {args.sigma:g}, grey levels",
                "optimizer": "Adam, learning rate 1e-3, batches of 128",
                "beta": args.beta,
                "epochs": args.epochs,
                "seed": args.seed,
            },
            "rows": rows,
            "standard errors of the negative ELBO's": {
                digit: row["negative_elbo"] for digit, row in errors.items()
            },
            "bars": {f"mean area, {best}": turns.judge(means["mean"][best], "at least", 0.95)},
        }
        results.write(args.json, result)


if __name__ == "__main__":
    main()
