"""The command line: ``python -m vaekit train``, ``evaluate``, ``sample`` and ``report``.

A run is a folder: ``config.json`` (what was asked for), ``checkpoints``, ``history.json``, pictures
and ``model``, as `vaekit.pretrained.Pretrained.save_pretrained` writes it.
"""

import argparse
import csv
import inspect
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch

from vaekit import _checks, datasets, likelihoods, metrics, plots, recipes, storage
from vaekit._version import __version__
from vaekit.datasets.tables import read_numbers, remark, units
from vaekit.objectives import Reconstruction
from vaekit.training import Checkpoints, History, evaluate, fit, fork_seed
from vaekit.training.world import World
from vaekit.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["main"]

_NAMED = ("digits", "mnist", "fashion_mnist", "kmnist", "cifar10")
_LIKELIHOODS: dict[str, Callable[[torch.Size], likelihoods.Likelihood]] = {
    "bernoulli": likelihoods.Bernoulli,
    "grey_bernoulli": lambda shape: likelihoods.Bernoulli(shape, grey_levels=True),
    "continuous_bernoulli": likelihoods.ContinuousBernoulli,
    "gaussian": lambda shape: likelihoods.Gaussian(shape, learn_sigma=True),
    "laplace": lambda shape: likelihoods.Laplace(shape, learn_sigma=True),
}
#: Recipes that take a module, a tensor, or what each batch is to bring.
_NOT_HERE = ("cvae", "denoising_autoencoder", "flow_prior_vae", "vamp_vae")
_RECIPES = [
    name
    for name in recipes.__all__
    if inspect.isfunction(getattr(recipes, name))
    and name not in (*_NOT_HERE, "convolutions", "perceptrons")
]
#: What a recipe takes that --set does not give: what has options of its own, and a class.
_NOT_SET = ("likelihood", "shape", "latent_dim", "nets", "activation")
_ERRORS = (ValueError, TypeError, OSError, ImportError, ArithmeticError, torch.OutOfMemoryError)
_FAILED, _INTERRUPTED = 1, 130  # as a shell says of Ctrl-C
#: What a run is, where nothing else is asked for.
_DEFAULTS: dict[str, Any] = {
    "data": None,
    "binarize": "none",
    "size": None,
    "channels": 3,
    "test_share": 0.1,
    "label": None,
    "standardize": False,
    "recipe": "vae",
    "latent_dim": 16,
    "likelihood": None,
    "network": "mlp",
    "hidden": [400],
    "filters": [32, 64],
    "set": {},
    "epochs": None,
    "steps": None,
    "batch_size": 128,
    "learning_rate": 1e-3,
    "samples": None,
    "validate_every": None,
    "patience": None,
    "validation_share": 0.1,
    "clip_grad_norm": None,
    "accumulate": 1,
    "ema": None,
    "precision": None,
    "channels_last": False,
    "recompute": False,
    "seed": 0,
    "device": "cpu",
    "compile": False,
    "cuda_graph": False,
    "checkpoint_every": None,
    "log_with": None,
}
#: What `fit` takes by the same name.
_OF_FIT = (
    *("epochs", "steps", "batch_size", "learning_rate", "samples", "validate_every", "patience"),
    *("clip_grad_norm", "accumulate", "ema", "precision", "channels_last", "recompute", "seed"),
    *("compile", "cuda_graph", "log_with"),
)
#: Options by the names of the arguments that they become, in errors of what takes those.
_SPELLED = {
    "beta": "--set beta",
    "channels": "--filters",
    "dim": "--latent-dim",
    "every": "--checkpoint-every",
    "n": "--number",
    "path": "data",
    "validation": "data",
    "weight": "--set",
}
_WORDED = {
    "choose likelihoods.Bernoulli(..., grey_levels=True)": "choose --likelihood grey_bernoulli",
    "Set scale= to what is 1.": "Divide them by what is to be 1.",
}
_FREE = ("epochs", "steps", "device", "checkpoint_every", "log_with", "recompute")  # to go on with


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 1 where it failed, 130 where Ctrl-C ended it; 2 is of usage.

    Args:
        arguments: The words after ``python -m vaekit``; those of the process if None.
    """
    if arguments is None:  # the process is ours, and no thread of torch's is made yet
        torch.set_flush_denormal(True)  # where it can: numbers that slow Adam down become zero
    args = _parser().parse_args(arguments)
    try:
        if getattr(args, "seed", None) is not None:
            _checks.seed("--seed", args.seed)
        code: int = args.run(args)
        return code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:
        of_compiler = type(error).__module__.startswith(("torch._dynamo.", "torch._inductor."))
        of_memory = isinstance(error, RuntimeError) and "allocate memory" in str(error)
        if not (isinstance(error, _ERRORS) or of_compiler or of_memory):
            raise
        said = f"--compile: torch says: {error}".partition("\n")[0] if of_compiler else error
        print(f"vaekit {args.command}: {_spelled(str(said))}", file=sys.stderr)
        return _FAILED


def _spelled(said: str) -> str:
    """Name the option in the place of the argument that it becomes."""
    argument, colon, rest = said.partition(": ")
    for there, here in _WORDED.items():
        rest = rest.replace(there, here)
    known = argument in _DEFAULTS and argument != "data"
    option = f"--{argument.replace('_', '-')}" if known else argument
    return _SPELLED.get(argument, option) + colon + rest


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and where all options are listed, rather than list them."""
        self.exit(2, f"{self.prog}: {message}. See {self.prog} --help.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vaekit", description="Variational autoencoders: train, evaluate, sample, report."
    )
    parser.add_argument("--version", action="version", version=f"vaekit {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands)

    measure = commands.add_parser("evaluate", help="measure a trained model on its test data")
    measure.set_defaults(run=_evaluate)
    measure.add_argument("--samples", type=int, default=100, help="draws per element (100)")
    sample = commands.add_parser("sample", help="generate from a trained model")
    sample.set_defaults(run=_sample)
    sample.add_argument("--number", type=int, default=64, help="how many (64)")
    sample.add_argument("--temperature", type=float, default=1.0, help="of the prior (1)")
    what = "draw from p(x|z), as data are, rather than take its mean"
    sample.add_argument("--draw", action="store_true", help=what)
    sample.add_argument("--out", type=Path, help="a .png, .npy or .csv (RUN/samples.npy)")
    report = commands.add_parser("report", help="write a page of all that applies to a model")
    report.set_defaults(run=_report)
    report.add_argument("--out", type=Path, help="an .html (RUN/report.html)")
    for command in (measure, sample, report):
        command.add_argument("folder", metavar="RUN", type=Path, help="the folder of a run")
        command.add_argument("--seed", type=int, default=0, help="of all draws (0)")
        command.add_argument("--device", default="cpu", help="cpu, cuda, mps (cpu)")
    return parser


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
        "train",
        help="train a model and write a run's folder",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train a model on data, and write a run's folder.",
        epilog="recipes: " + ", ".join(_RECIPES),
        argument_default=argparse.SUPPRESS,  # what is not asked for is not there
    )
    train.set_defaults(run=_train)
    data = train.add_argument_group("data")
    add = data.add_argument
    what = (
        f"{', '.join(_NAMED)}; a folder of images; a .npy, .npz (its array x) or .csv file of "
        "numbers, images with their channels first"
    )
    add("data", nargs="?", help=what)
    add("--binarize", choices=("none", "threshold", "dynamic", "static"), help="(none)")
    add("--size", type=int, help="the side that a folder's images are brought to")
    add("--channels", type=int, help="of a folder's images, 1 or 3 (3)")
    add("--test-share", type=float, help="held out of a folder or a file (0.1)")
    add("--label", metavar="NAME", help="a .csv's column, or a .npz's array, of labels")
    _switch(add, "--standardize", "bring a file's columns to mean 0 and deviation 1")
    model = train.add_argument_group("model")
    add = model.add_argument
    add("--recipe", choices=_RECIPES, metavar="NAME", help="see below (vae)")
    add("--latent-dim", type=int, help="number of latent dimensions (16)")
    add("--likelihood", choices=_LIKELIHOODS, help="bernoulli for binarised data, else gaussian")
    add("--network", choices=("mlp", "conv"), help="of images, conv may be better")
    add("--hidden", type=int, nargs="+", help="widths of hidden layers (400)")
    add("--filters", type=int, nargs="+", help="of convolutions (32 64)")
    add("--set", action="append", metavar="OPTION=VALUE", help="of the recipe: beta=2")
    training = train.add_argument_group("training")
    add = training.add_argument
    add("--epochs", type=int, help="times through the data (20)")
    add("--steps", type=int, help="steps, in place of epochs")
    add("--batch-size", type=int, help="elements of a batch (128)")
    add("--learning-rate", type=float, help="of Adam (0.001)")
    add("--samples", type=int, help="draws of z, for recipes that take several")
    add("--validate-every", type=int, metavar="STEPS", help="else after every epoch")
    what = "stop after as many without a lower loss, of a part that is held out of training for it"
    add("--patience", type=int, metavar="ROWS", help=what)
    add("--validation-share", type=float, metavar="SHARE", help="of that part (0.1)")
    add("--clip-grad-norm", type=float, metavar="NORM", help="of all gradients together")
    add(
        "--accumulate", type=int, metavar="PARTS", help="that a batch goes through the model in (1)"
    )
    add("--ema", type=float, metavar="DECAY", help="average the weights: 0.999")
    add("--precision", choices=("bf16", "fp16"), help="of the networks, in place of float32")
    _switch(add, "--recompute", "compute again what deep networks would keep: less memory")
    _switch(add, "--channels-last", "lay images out so; convolutions may be faster")
    add("--seed", type=int, help="of all that is random (0)")
    add("--device", help="cpu, cuda, mps (cpu)")
    _switch(add, "--compile", "through torch.compile")
    _switch(add, "--cuda-graph", "capture whole steps; small models train faster on a GPU")
    run = train.add_argument_group("run")
    add = run.add_argument
    add("--out", type=Path, required=True, metavar="RUN", help="the run's folder")
    add("--checkpoint-every", type=int, metavar="STEPS", help="beside those after every row")
    what = "tensorboard, wandb, mlflow, ...; what is kept in files lies in RUN/logs"
    add("--log-with", metavar="TRACKER", help=what)
    add("--resume", action="store_true", default=False, help="go on with RUN, as it was begun")
    add("--quiet", action="store_true", default=False, help="show no progress bar")


def _switch(add: Callable[..., Any], name: str, what: str) -> None:
    add(name, action="store_true", default=argparse.SUPPRESS, help=what)


# --- Commands ------------------------------------------------------------------------------------


def _train(args: argparse.Namespace) -> int:
    config = _config(args)
    device = _checks.device("--device", config["device"])
    train, test = _data(config)
    model, objective = _model(config, train)
    config["elements"] = len(train) + len(test)
    train, watched = _watched(config, train, test)
    world = World.joined(device)  # of a launcher, whose first process writes the folder
    if world.leads:
        for note in _notes(train, config):
            print(f"vaekit train: data: {note}", file=sys.stderr)
        with _written_to(args.out):
            _write_json(args.out / "config.json", config)
    try:
        history = fit(
            model.to(world.device_for(device)),
            objective,
            train,
            validation=watched,
            progress=not args.quiet,
            checkpoint=Checkpoints(args.out / "checkpoints", every=config["checkpoint_every"]),
            resume=args.resume,
            log_dir=args.out / "logs",
            **{name: config[name] for name in _OF_FIT},
        )
    except BaseException as error:
        if world.leads and isinstance(until := getattr(error, "history", None), History):
            try:
                _write_json(args.out / "history.json", until.to_dict())
            except OSError as other:  # beside which the first is what ended the run
                print(f"vaekit train: no history: {other}", file=sys.stderr)
        raise
    code = _INTERRUPTED if history.stopped == "interrupted" else 0
    if not world.leads:
        return code
    text = f"A {config['recipe']} of {config['data']}, after {history.step[-1]} steps."
    if "units" in config:
        text += " Its columns are standardised; config.json of the run holds their units."
    with _written_to(args.out):
        _write_json(args.out / "history.json", history.to_dict())
        model.save_pretrained(args.out / "model", text=text)
    _draw(args.out, model, test, history, config["seed"])
    print(f"{args.out}: {history}")
    return code


def _evaluate(args: argparse.Namespace) -> int:
    _checks.positive_int("--samples", args.samples)
    model, config = _trained(args), _read_config(args.folder)
    test = _data(config)[1]
    found: dict[str, Any] = {}
    try:
        bound = metrics.elbo(model, test, seed=args.seed)
        found["elbo"] = bound.elbo.mean
        found |= {"reconstruction": bound.reconstruction.mean, "kl": bound.kl.mean}
        likelihood = metrics.negative_log_likelihood(
            model, test, samples=args.samples, seed=args.seed
        )
        found |= {"nll": likelihood.nats.mean, "nll_standard_error": likelihood.nats.standard_error}
        found["samples"] = args.samples
    except (ValueError, TypeError, NotImplementedError) as error:  # of a plain autoencoder, say
        print(f"no likelihood: {error}", file=sys.stderr)
        found |= evaluate(model, Reconstruction(), test, seed=args.seed)
        found.pop("loss")
    volume = math.fsum(map(math.log, config.get("units", {}).get("scale", ())))  # of a unit
    for name in found.keys() & {"elbo", "reconstruction", "nll"}:
        found[name] += -volume if name == "elbo" else volume
    found["elements"] = len(test)
    for name, value in found.items():
        print(f"{name:20s}{value:12.4f}" if isinstance(value, float) else f"{name:20s}{value:12d}")
    with _written_to(args.folder, "RUN"):
        _write_json(args.folder / "evaluation.json", found)
    return 0


def _sample(args: argparse.Namespace) -> int:
    model = _trained(args)
    out = args.out or args.folder / "samples.npy"
    _checks.one_of("--out: its ending", out.suffix, (".npy", ".png", ".csv"))
    _checks.require(not out.is_dir(), "--out", "a file", f"a folder, {out}")
    generator = torch.Generator(args.device).manual_seed(args.seed)
    how = {"temperature": args.temperature, "draw": args.draw}
    drawn = model.sample(args.number, generator=generator, **how)
    table = drawn.ndim == 2
    _checks.require(table or out.suffix != ".csv", "--out", "a .npy, of what is no table", out)
    config, values = _read_config(args.folder), drawn.cpu().numpy()
    if units := config.get("units"):  # in double precision, which columns far from 0 need
        spread = np.where(units["varies"], units["scale"], 0)
        values = values * spread + np.array(units["mean"])
    with _written_to(out), storage.scratch(out.parent) as temporary:
        if out.suffix == ".npy":
            with temporary.open("wb") as file:
                np.save(file, values)
        elif out.suffix == ".csv":
            with temporary.open("w", encoding="utf-8", newline="") as file:
                names = config.get("columns", ())
                csv.writer(file).writerows([names] * bool(names) + values.tolist())
        else:
            _write_picture(temporary, lambda: plots.images(drawn))
        storage.commit(temporary, out)
    print(out)
    return 0


def _report(args: argparse.Namespace) -> int:
    out = args.out or args.folder / "report.html"
    _checks.one_of("--out: its ending", out.suffix, (".html",))
    _checks.require(not out.is_dir(), "--out", "a file", f"a folder, {out}")
    model, test = _trained(args), _test_data(args)
    history = _history(args.folder / "history.json")
    title = f"Report of {args.folder.name}"
    if _read_config(args.folder)["standardize"]:
        title += ", in standardised columns"
    with _written_to(out):
        print(plots.report(model, test, out, history=history, title=title, seed=args.seed))
    return 0


# --- What they share -----------------------------------------------------------------------------


def _config(args: argparse.Namespace) -> dict[str, Any]:
    """Return what a run is asked for; of one that goes on, what it was asked for."""
    given = {name: value for name, value in vars(args).items() if name in _DEFAULTS}
    if "set" in given:
        given["set"] = _options(given["set"])
    if "data" in given and given["data"] not in _NAMED:
        given["data"] = str(Path(given["data"]).resolve())  # wherever it is asked for again
    if args.resume:
        if (args.out / "history.json").exists() and not [*_steps(args.out)]:
            what = "a run with its checkpoints, to go on from"
            raise ValueError(_checks.expected("--out", what, f"{args.out}, which has none left"))
        return _gone_on_with(_DEFAULTS | _read_config(args.out), given)
    if "data" not in given:
        raise ValueError(_checks.expected("data", "a name, a folder or a file", "none"))
    if args.out.is_file():
        raise FileExistsError(_checks.expected("--out", "a folder", f"a file, {args.out}"))
    data = Path(given["data"])
    within = given["data"] not in _NAMED and args.out.resolve().is_relative_to(data)
    what = f"a folder outside of {data}, among whose images its own would be"
    _checks.require(not (within and data.is_dir()), "--out", what, args.out)
    written = _steps(args.out)
    if not all(path.name.startswith("step-00000000-") for path in written):  # of a run that failed
        what = "a folder without a run, or --resume"
        raise ValueError(_checks.expected("--out", what, args.out))
    if (args.out / "config.json").exists():
        _read_config(args.out)  # which says so where it is of something else
    if not {"epochs", "steps"} & given.keys():
        given["epochs"] = 20
    config = _DEFAULTS | given | {"version": __version__}
    _check_all_apply(given, config)
    return config


def _steps(out: Path) -> Iterator[Path]:
    """Find what checkpoints of a run are there, whole or damaged."""
    return (out / "checkpoints").glob("step-*")


def _check_all_apply(given: dict[str, Any], config: dict[str, Any]) -> None:
    """Refuse what is asked for and would not be looked at."""
    named, folder = config["data"] in _NAMED, Path(config["data"]).is_dir()
    of_folder = folder and not named, "for a folder of images"
    of_file = not folder and not named, "for a file of numbers"
    recipe = config["recipe"]
    takes = inspect.signature(getattr(recipes, recipe)).parameters
    own = ", ".join(_set_by_name(takes)) or "none"
    of_recipe = f"with another recipe than {recipe}, whose own options (--set) are: {own}"
    where = {
        "latent_dim": ("latent_dim" in takes, of_recipe),
        "likelihood": ("likelihood" in takes, of_recipe),
        "hidden": ("nets" in takes, of_recipe),
        "network": ("nets" in takes, of_recipe),
        "size": of_folder,
        "channels": of_folder,
        "label": of_file,
        "standardize": of_file,
        "test_share": (not named, "for a folder or a file"),
        "filters": (config["network"] == "conv", "with --network conv"),
        "validation_share": (config["patience"] is not None, "with --patience"),
    }
    for name, (applies, what) in where.items():
        option = f"--{name.replace('_', '-')}"
        _checks.require(applies or name not in given, option, f"none but {what}", given.get(name))


def _set_by_name(takes: Iterable[str]) -> list[str]:
    """List which of a recipe's arguments --set gives."""
    return [name for name in takes if name not in _NOT_SET]


def _notes(train: datasets.ArrayDataset, config: dict[str, Any]) -> Iterator[str]:
    """Word what of numbers may not be meant."""
    path = Path(config["data"])
    if path.suffix == ".csv" and (said := remark(path, config["label"])):
        yield said
    shape, normal = train.shape, config["likelihood"] in (None, "gaussian")
    if len(shape) == 1 and config["binarize"] == "none" and normal and not config["standardize"]:
        rows = datasets.unpack(train[:10_000]).x
        scale = units(rows.double().numpy()).scale
        if not scale.max() <= 100 * min(scale.min(), 1):
            what = f"deviations from {scale.min():.2g} to {scale.max():.2g}"
            yield f"the columns have {what}; --standardize brings them to one."
    if len(shape) == 3 and shape[2] in (1, 3) and shape[0] not in (1, 3):
        yield f"elements of {tuple(shape)} have {shape[0]} channels, if images: those come first."


def _gone_on_with(config: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return what a run was asked for, with what may change where it goes on."""
    for name, value in given.items():
        if name not in _FREE and value != config[name]:
            argument = name if name == "data" else f"--{name.replace('_', '-')}"
            what = f"{config[name]}, as the run was begun with, or nothing beside --resume"
            raise ValueError(_checks.expected(argument, what, value))
    if {"epochs", "steps"} & given.keys():
        config |= {"epochs": None, "steps": None}
    return config | given


def _options(pairs: Sequence[str]) -> dict[str, Any]:
    """Read what is set of a recipe."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        try:
            found[name] = json.loads(value)
        except ValueError:
            equals = ""
        if not equals or not name.isidentifier():
            raise ValueError(_checks.expected("--set", "OPTION=NUMBER", repr(pair)))
    return found


def _data(config: dict[str, Any]) -> tuple[datasets.ArrayDataset, datasets.ArrayDataset]:
    """Return the training and the test data."""
    name, binarize = config["data"], config["binarize"]
    path = Path(name)
    if name in _NAMED:
        train, test = getattr(datasets, name)(binarize=binarize)
        return train, test
    if path.is_dir():
        if config["size"] is None:
            raise ValueError(_checks.expected("--size", "a side, for a folder of images", None))
        size, channels = config["size"], config["channels"]
        with _checks.calling("channels", "--channels"):
            whole = datasets.image_folder(path, size, channels=channels, binarize=binarize)
        train, test = _split(len(whole), config)
    else:
        if not path.is_file():
            what = f"one of {', '.join(_NAMED)}, a folder or a file"
            raise FileNotFoundError(_checks.expected("data", what, path))
        values, labels, classes, columns = read_numbers(path, config["label"])
        _check_columns(columns, config)
        train, test = _split(len(values), config)
        if config["standardize"]:
            values = _standardized(values, train, config)
        with _checks.calling("x", "data"):
            whole = datasets.from_tensors(values, labels, binarize=binarize, classes=classes)
    return whole.subset(train), whole.subset(test)


def _check_columns(names: Sequence[str], config: dict[str, Any]) -> None:
    """Note the names of the columns; of a run that has them noted, refuse others."""
    before = config.get("columns", names)
    what = f"the columns {', '.join(before)}, as the run was begun with"
    _checks.require(list(names) == list(before), "data", what, ", ".join(names) or "none by name")
    if names:
        config["columns"] = names


def _split(count: int, config: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which elements of a folder or a file are trained on, and which are held out."""
    before = config.get("elements", count)
    _checks.require(
        count == before, "data", f"the {before} elements that the run was begun with", count
    )
    return _held_out(count, "--test-share", config["test_share"], config["seed"], "split")


def _watched(
    config: dict[str, Any], train: datasets.ArrayDataset, test: datasets.ArrayDataset
) -> tuple[datasets.ArrayDataset, datasets.ArrayDataset]:
    """Return what to train on, and what to measure at every row.

    Where that decides which weights are kept, it must not be the test data, which are to tell how
    good those are.
    """
    if config["patience"] is None:
        return train, test
    share, seed = config["validation_share"], config["seed"]
    kept, held = _held_out(len(train), "--validation-share", share, seed, "validation")
    return train.subset(kept), train.subset(held)


def _held_out(
    count: int, option: str, share: float, seed: int, purpose: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows that are left, and those of a part that is held out at random."""
    share = _checks.number(option, share, above=0)
    _checks.require(share < 1, option, "a number in (0, 1)", share)
    held = min(max(1, round(share * count)), count - 1)
    _checks.require(held > 0, "data", "at least two elements", count)
    order = torch.Generator().manual_seed(fork_seed(seed, purpose))
    rows = torch.randperm(count, generator=order)
    return rows[held:], rows[:held]


def _standardized(values: Any, rows: torch.Tensor, config: dict[str, Any]) -> Any:
    """Bring columns to mean 0 and deviation 1 over the training rows, and note their units."""
    what = "a table, a row for each element, to --standardize"
    _checks.require(values.ndim == 2, "data", what, f"shape {values.shape}")
    real = values.dtype.kind in "biuf"
    _checks.require(real, "data", "an array of real numbers", values.dtype)
    if not np.isfinite(values).all():
        _checks.finite("data", torch.tensor(values))
    if "units" not in config:
        found = units(np.asarray(values[rows.numpy()]))
        config["units"] = {name: each.tolist() for name, each in found._asdict().items()}
    count, got = len(config["units"]["mean"]), values.shape[1]
    what = f"the {count} columns that the run was begun with"
    _checks.require(got == count, "data", what, got)
    return (values - np.array(config["units"]["mean"])) / np.array(config["units"]["scale"])


def _model(config: dict[str, Any], train: datasets.ArrayDataset) -> recipes.Recipe:
    """Build the model and the objective."""
    torch.manual_seed(fork_seed(config["seed"], "initialisation"))
    name = config["likelihood"] or ("gaussian" if config["binarize"] == "none" else "bernoulli")
    shape, recipe = train.shape, getattr(recipes, config["recipe"])
    hidden = tuple(config["hidden"])
    nets = recipes.perceptrons(hidden)
    if config["network"] == "conv":
        nets = recipes.convolutions(tuple(config["filters"]), hidden)
    given = {
        "likelihood": _LIKELIHOODS[name](shape),
        "shape": shape,
        "latent_dim": config["latent_dim"],
        "nets": nets,
    }
    takes = inspect.signature(recipe).parameters
    free = _set_by_name(takes)
    for option in config["set"]:
        what = f"none, for {config['recipe']} takes no options"
        _checks.require(bool(free), "--set", what, option)
        _checks.one_of(f"--set of {config['recipe']}", option, free)
    given = {each: value for each, value in given.items() if each in takes} | config["set"]
    lacking = [each for each in free if takes[each].default is inspect.Parameter.empty]
    for option in lacking:
        what = f"{option}=NUMBER, as {config['recipe']} takes"
        _checks.require(option in given, "--set", what, "none")
    made: recipes.Recipe = recipe(**given)
    return made


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        what = "the folder of a run, with its config.json"
        raise FileNotFoundError(_checks.expected("RUN", what, folder))
    config = _read_json(path)
    if not isinstance(config, dict) or not {"data", "recipe", "version"} <= config.keys():
        what = "the folder of a run, or one without a config.json"
        raise ValueError(_checks.expected("RUN", what, f"{path}, of something else"))
    _checks.one_of(f"RUN: the recipe in {path}", config["recipe"], _RECIPES)
    return _DEFAULTS | config


def _trained(args: argparse.Namespace) -> VAE:
    """Return the model of a run."""
    _read_config(args.folder)  # which says so where it is no run
    device = _checks.device("--device", args.device)
    if not (args.folder / "model").is_dir():
        hint = f"vaekit train --resume --out {args.folder} ends one that was cut off."
        what, got = "a run that has ended", f"{args.folder}, without a model"
        raise FileNotFoundError(_checks.expected("RUN", what, got, hint))
    return VAE.from_pretrained(args.folder / "model", device=device)


def _read_json(path: Path) -> Any:
    """Read a file of a run, or name it where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(_checks.expected("RUN", "whole files", f"{path}: {error}")) from error


def _history(path: Path) -> History:
    """Read a history, or name the file where it holds another thing."""
    found, kinds = _read_json(path), {name: type(each) for name, each in vars(History()).items()}
    if not isinstance(found, dict) or not found.keys() <= kinds.keys():
        raise ValueError(_checks.expected("RUN", "a history", f"{path}, with another thing"))
    for name, value in found.items():
        if not isinstance(value, kinds[name]) and kinds[name] is not type(None):
            what, got = f"a {kinds[name].__name__} for {name}", f"{path} with {value!r}"
            raise ValueError(_checks.expected("RUN", what, got))
    return History(**found)


def _test_data(args: argparse.Namespace) -> datasets.ArrayDataset:
    """Return the data that a run holds out."""
    return _data(_read_config(args.folder))[1]


@contextmanager
def _written_to(out: Path, option: str = "--out") -> Iterator[None]:
    """Name the option where its place cannot be written to."""
    try:
        yield
    except OSError as error:
        if str(error).startswith(f"{option}: "):  # in words already
            raise
        got = f"{out} ({error.strerror or error})"
        message = _checks.expected(option, "a place that can be written to", got)
        raise OSError(message) from error


def _write_json(path: Path, value: Any) -> None:
    with storage.scratch(path.parent) as temporary:
        temporary.write_text(json.dumps(value, indent=1, default=str) + "\n", encoding="utf-8")
        storage.commit(temporary, path)


def _draw(
    folder: Path, model: VAE, test: datasets.ArrayDataset, history: History, seed: int
) -> None:
    """Write the pictures that apply; say so where matplotlib is missing."""
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    pictures: dict[str, Callable[[], Axes]] = {
        "curves": lambda: plots.curves(history),
        "kl": lambda: plots.kl_bars(model, test),
        "latents": lambda: plots.latent_scatter(model, test),
    }
    if len(test.shape) == 3:  # not of tables, of which there are none
        pictures["reconstructions"] = lambda: plots.reconstructions(model, test)
        pictures["samples"] = lambda: plots.samples(model, 64, generator=generator)
    for name, draw in pictures.items():
        try:
            _write_picture(folder / f"{name}.png", draw)
        except ImportError as error:
            print(f"no pictures: {error}", file=sys.stderr)
            return
        except (ValueError, TypeError, NotImplementedError) as error:  # it does not apply
            print(f"{name}.png does not apply: {error}", file=sys.stderr)


def _write_picture(path: Path, draw: "Callable[[], Axes]") -> None:
    """Write a picture without a screen, and close what it was drawn on."""
    plt = _checks.module("matplotlib.pyplot", "A picture", "matplotlib", '"vaekit[plots]"')
    plt.switch_backend("agg")
    try:
        draw()
        with _written_to(path.parent):
            plt.savefig(path, format="png", dpi=150)
    finally:
        plt.close("all")
