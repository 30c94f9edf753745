"""Train disentangling VAEs on the sprites and give each every score.

The networks are those of disentanglement_lib: four convolutions of 32, 32, 64 and 64 channels, a
layer of 256, ten latent dimensions, and their mirror; a Bernoulli likelihood, batches of 64. The
schedule is far shorter than its 300,000 steps, with a higher learning rate that falls along a
cosine.

A beta-TCVAE of constant weights spends such a schedule on position: it is soon spread over four or
five dimensions, or lies across two, and to turn takes long. `beta_tcvae_falling` has the same
objective with weights that fall, as the options say. That of the whole KL is high at first, so that
only what lowers the loss most is kept, and that is position, in two dimensions; that of the total
correlation turns them into the axes, which is a linear map within the two layers beside z, and
these learn faster than the others; and then both let go.

The scores take posterior means of 15,000 sprites (10,000 to train their classifiers on,
5,000 to test; MIG, modularity and IRS take all), and the defaults of `vaekit.metrics`; which
classifiers, the file of results says.

`--precision` and `--channels-last` are options of `fit`. Runs may share a file, one after another
or side by side; without a model named, what the file says of each over its seeds is written anew.

    python benchmarks/disentangle.py vae beta_tcvae --seeds 0 1 2 --steps 10000 [--json FILE]
"""

import argparse
import re
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import results
import torch
import turns
from torch import nn

import vaekit as vk

LATENT = 10
IMAGE = vk.likelihoods.Bernoulli((1, 64, 64))
NOISE = "noise"  # codes that no model made: what the scores are by chance
#: Of the weights that fall: from and to, and what part of the steps they hold and fall over.
KL, KL_HOLD, KL_OVER = (50, 1), 0.08, 0.08
MORE, MORE_HOLD, MORE_OVER = (29, 2), 0.3, 0.2  # of the total correlation, beside that in the KL


def encoder(shape: torch.Size, out: int) -> nn.Module:
    """Build disentanglement_lib's convolutional encoder."""
    layers: list[nn.Module] = []
    for before, after, side in ((1, 32, 4), (32, 32, 4), (32, 64, 2), (64, 64, 2)):
        layers += [nn.Conv2d(before, after, side, 2, side // 2 - 1), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(1024, 256), nn.ReLU(), nn.Linear(256, out)
    )


def decoder(size: int, shape: torch.Size) -> nn.Module:
    """Build its mirror: what doubles every side from 4 x 4 up."""
    layers: list[nn.Module] = [nn.Linear(size, 256), nn.ReLU(), nn.Linear(256, 1024), nn.ReLU()]
    layers.append(nn.Unflatten(1, (64, 4, 4)))
    for before, after in ((64, 64), (64, 32), (32, 32)):
        layers += [nn.ConvTranspose2d(before, after, 4, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(32, 1, 4, 2, 1))


NETS = vk.recipes.Nets(encoder, decoder)


def falling(start: float, end: float, hold: int, over: int) -> Callable[[int], float]:
    """Make a weight that holds for so many steps, and then falls over so many."""
    line = vk.schedules.Linear(start, end, over)
    return lambda step: line(step - hold)


def vae_falling(steps: int) -> vk.recipes.Recipe:
    """Build a VAE with a weight of the KL that falls."""
    model, _ = vk.recipes.vae(IMAGE, LATENT, nets=NETS)
    kl = falling(*KL, round(KL_HOLD * steps), round(KL_OVER * steps))
    return model, vk.Reconstruction() + kl * vk.KL()


def beta_tcvae_falling(steps: int) -> vk.recipes.Recipe:
    """Build the same with the total correlation besides, whose weight falls later."""
    model, objective = vae_falling(steps)
    more = falling(*MORE, round(MORE_HOLD * steps), round(MORE_OVER * steps))
    return model, objective + more * vk.TotalCorrelation()


RECIPES: dict[str, Callable[[int], vk.recipes.Recipe]] = {
    "vae": lambda _: vk.recipes.vae(IMAGE, LATENT, nets=NETS),
    "beta_vae": lambda _: vk.recipes.beta_vae(IMAGE, LATENT, beta=4, nets=NETS),
    "beta_tcvae": lambda _: vk.recipes.beta_tcvae(IMAGE, LATENT, beta=6, nets=NETS),
    "vae_falling": vae_falling,
    "beta_tcvae_falling": beta_tcvae_falling,
    "factor_vae": lambda _: vk.recipes.factor_vae(IMAGE, LATENT, gamma=10, nets=NETS),
}
#: Times the rate of the others that the layers beside z have.
QUICKER = {"vae_falling": 15, "beta_tcvae_falling": 15}


def adam(model: vk.VAE, rate: float, quicker: float) -> torch.optim.Adam:
    """Make an Adam with a higher rate for the weights that z is made by, and is taken in by."""
    parts = model.encoder, model.decoder
    layers = [[each for each in part.modules() if isinstance(each, nn.Linear)] for part in parts]
    beside = [*layers[0][-1].parameters(), layers[1][0].weight]
    among = {id(parameter) for parameter in beside}
    others = [each for each in model.parameters() if id(each) not in among]
    groups = [{"params": others}, {"params": beside, "lr": quicker * rate}]
    return torch.optim.Adam(groups, rate, fused=True)


@torch.no_grad()
def encoded(model: vk.VAE, data: vk.datasets.FactorDataset) -> torch.Tensor:
    """Encode each sprite once: what the scores draw are its codes."""
    return torch.cat([model.encode(data.images(rows)).mean for rows in data.labels.split(1000)])


def scores(
    means: torch.Tensor, data: vk.datasets.FactorDataset, seed: int
) -> tuple[dict[str, float], dict[str, str]]:
    """Return every score of the codes of all sprites, and the classifiers behind them."""
    metrics = vk.metrics
    coded = vk.datasets.FactorDataset(means.cpu(), data.factor_values)

    def same(codes: torch.Tensor) -> torch.Tensor:
        return codes

    codes, factors = metrics.encode_factors(coded, same, 15_000, seed=seed)
    voted = metrics.factor_vae_score(coded, same, seed=seed)
    told = metrics.beta_vae_score(coded, same, seed=seed)
    sap, dci = metrics.sap(codes, factors, seed=seed), metrics.dci(codes, factors, seed=seed)
    explicit = metrics.explicitness(codes, factors, seed=seed)
    found = {
        "mig": metrics.mig(codes, factors).score,
        "sap": sap.score,
        "disentanglement": dci.disentanglement,
        "completeness": dci.completeness,
        "informativeness": dci.informativeness,
        "factor_vae": voted.score.mean,
        "beta_vae": told.score.mean,
        "modularity": metrics.modularity(codes, factors).score,
        "explicitness": explicit.score,
        "irs": metrics.irs(codes, factors).score,
    }
    classifiers = {"SAP": sap.classifier, "DCI": dci.classifier}
    classifiers |= {"BetaVAE": told.classifier, "explicitness": explicit.classifier}
    classifiers["all of them"] = f"scikit-learn {version('scikit-learn')}"
    seeded = {
        of: re.sub(r"random_state=\d+", "random_state=seed", it) for of, it in classifiers.items()
    }
    return found, seeded


def trained(
    name: str, seed: int, data: vk.datasets.FactorDataset, args: argparse.Namespace
) -> tuple[torch.Tensor, dict[str, Any], str]:
    """Train a model; return the codes of all sprites, what its run was, and its history."""
    model, objective = RECIPES[name](args.steps)
    model.to(args.device)
    started, cpu = time.perf_counter(), time.process_time()
    history = vk.fit(
        model,
        objective,
        data,
        steps=args.steps,
        batch_size=args.batch_size,
        optimizer=adam(model, args.learning_rate, QUICKER.get(name, 1)),
        scheduler=results.cosine(args.steps, args.learning_rate / 10),
        precision=args.precision,
        channels_last=args.channels_last,
        validate_every=max(args.steps // 10, 1),
        seed=seed,
        progress=False,
    )
    row = {
        "reconstruction": history["reconstruction"][-1],
        "minutes": (time.perf_counter() - started) / 60,
        "cpu_minutes": (time.process_time() - cpu) / 60,
        "precision": args.precision or "float32",
        "channels_last": args.channels_last,
    }
    return encoded(model, data), row, str(history)


def main() -> None:
    """Train each model from each seed, score it, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ", ".join([*RECIPES, f"{NOISE} for codes that know nothing"])
    parser.add_argument("models", nargs="*", metavar="model", help=names)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", choices=["bf16", "fp16"])
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="where to add the numbers")
    args = parser.parse_args()
    known = [*RECIPES, NOISE]
    if unknown := set(args.models) - set(known):
        parser.error(f"there is no model {', '.join(unknown)}; there are {', '.join(known)}")

    data = vk.datasets.sprites().to(args.device)
    held = results.read(None)
    for name in args.models:
        for seed in args.seeds:
            torch.manual_seed(seed)
            steps = 0 if name == NOISE else args.steps
            if name == NOISE:
                means, row, said = torch.randn(len(data), LATENT), {}, "of no model"
            else:
                means, row, said = trained(name, seed, data, args)
            found, classifiers = scores(means, data, seed)
            key = f"{name}, seed {seed}, {steps} steps"
            held = results.read(args.json) if args.json else held  # with what others added to it
            held["rows"][key] = found | row
            print(f"{key}: {said}", *(f"{k} {v:.3f}" for k, v in found.items()), flush=True)
            held["classifiers"] = classifiers
            held.setdefault("settings", {})[name] = _told(name, args)
            _summarise(held)
            results.write(args.json, held)
    if not args.models:
        held = results.read(args.json)
        _summarise(held)
        results.write(args.json, held)
    print(*(f"{name}: {value}" for name, value in held.get("bars", {}).items()), sep="\n")


def _told(name: str, args: argparse.Namespace) -> str:
    """Say by what settings, and on what, the runs of a model were."""
    kl = (
        f"weight of the KL {KL[0]} to {KL[1]}, held for {KL_HOLD:.0%} of the steps and falling "
        f"over {KL_OVER:.0%}"
    )
    more = (
        f"that of the total correlation beside it, which the KL has in it too, {MORE[0]} to "
        f"{MORE[1]}, {MORE_HOLD:.0%} and {MORE_OVER:.0%}"
    )
    if name == NOISE:
        return f"{LATENT} standard normal values for each sprite"
    weights = {
        "beta_vae": ["beta 4"],
        "beta_tcvae": ["weight of the total correlation 6"],
        "vae_falling": [kl],
        "beta_tcvae_falling": [kl, more],
        "factor_vae": ["gamma 10"],
    }.get(name, [])
    if name in QUICKER:
        quicker = f"the layers beside z at {QUICKER[name]} times the learning rate"
        weights.append(f"{quicker} at first, and at the same at the end")
    machine = results.machine(args.device, threads=torch.get_num_threads())
    fixed = f"learning rate {args.learning_rate:g}", f"batches of {args.batch_size}"
    return ", ".join([*fixed, *weights, *(f"{key} {value}" for key, value in machine.items())])


def _summarise(held: dict[str, Any]) -> None:
    """Add what the rows say of each model over its seeds, and whether that is enough."""
    rows = {key: row for key, row in held["rows"].items() if " over " not in key}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for key, row in rows.items():
        name, _, steps = key.split(", ")
        groups.setdefault((name, steps), []).append(row)
    means: dict[tuple[str, str], dict[str, float]] = {}
    shown: dict[str, Any] = {}
    for (name, steps), runs in groups.items():
        shared = [key for key in runs[0] if isinstance(runs[0][key], float)]
        columns = {key: [run[key] for run in runs] for key in shared}
        means[name, steps] = {key: statistics.mean(each) for key, each in columns.items()}
        own = (key for key in rows if key.startswith(f"{name}, ") and key.endswith(f", {steps}"))
        shown |= {key: rows[key] for key in sorted(own)}
        if len(runs) > 1:
            over = f"over {len(runs)} seeds, {steps}"
            shown[f"{name}, mean {over}"] = means[name, steps]
            spreads = {key: statistics.stdev(each) for key, each in columns.items()}
            shown[f"{name}, standard deviation {over}"] = spreads
    held["rows"], held["bars"] = shown, {}
    for (name, steps), mean in means.items():
        if not name.startswith("beta_tcvae"):
            continue
        held["bars"][f"MIG of {name}"] = turns.judge(mean["mig"], "at least", 0.3)
        for other in ("vae", "vae_falling"):
            if (other, steps) in means and other in ("vae", name.replace("beta_tcvae", "vae")):
                above = mean["mig"] - means[other, steps]["mig"]
                held["bars"][f"MIG of {name} above {other}"] = turns.judge(above, "at least", 0.15)


if __name__ == "__main__":
    main()
