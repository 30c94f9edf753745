"""A Trainer of Lightning's takes the steps that fit takes, with the module of the example."""

import ast
import copy
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning
import pytest
import torch
from models import elbo, tiny

import vaekit as vk

EXAMPLE = Path(__file__).parent.parent / "examples" / "lightning_module.py"

pytestmark = pytest.mark.filterwarnings(
    "ignore:The number of training batches",  # is small
    "ignore:You defined a `validation_step`",  # and some have nothing to validate on
)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The example, run for two epochs."""
    out = tmp_path_factory.mktemp("lightning")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(EXAMPLE), "--epochs", "2", "--out", str(out)])
        return SimpleNamespace(**runpy.run_path(str(EXAMPLE)))


def train(module: lightning.LightningModule, data, validation=None, *, seed=0, **length):
    """Train a module from a seed as fit does: the order of the data, and the noise."""
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        **length,
    )
    order = torch.Generator().manual_seed(vk.training.fork_seed(seed, "data"))
    loader = vk.datasets.loader(data, 32, shuffle=True, generator=order)
    torch.manual_seed(vk.training.fork_seed(seed, "noise"))
    trainer.fit(module, loader, validation and vk.datasets.loader(validation, 128))
    return trainer


def part(binarize: str) -> list[vk.datasets.ArrayDataset]:
    """Return a few digits to train on, which end with a smaller batch, and a few to validate."""
    return [data.subset(range(140)) for data in vk.datasets.digits(binarize=binarize)]


def adversarial() -> vk.objectives.Objective:
    torch.manual_seed(1)
    critic = vk.networks.mlp(2, [16], 1)
    return elbo() + 5 * vk.objectives.AdversarialTotalCorrelation(critic)


def module_of(name: str, example: SimpleNamespace) -> type[lightning.LightningModule]:
    return example.AdversarialModule if "discriminator" in name else example.ValidatedModule


OPTIONS = {"batch_size": 32, "seed": 0, "progress": False}
WARMING = vk.schedules.Linear(0, 4, steps=12)
OBJECTIVES = {
    "elbo": elbo,
    "a schedule of the weight": lambda: vk.Reconstruction() + WARMING * vk.KL(),
    "a schedule inside a term": lambda: vk.Reconstruction() + 3 * vk.objectives.Capacity(WARMING),
    "the size of the data set": lambda: elbo() + 5 * vk.TotalCorrelation(),
    "a discriminator": adversarial,
    "a discriminator and a schedule": lambda: adversarial() + WARMING * vk.KL(name="other"),
}


def test_the_example_runs_and_finds_no_difference(example: SimpleNamespace) -> None:
    assert example.trainer.global_step == example.history.step[-1] == 24
    assert example.apart <= 1e-6
    assert (example.args.out / "samples.png").stat().st_size > 0
    saved = vk.VAE.from_pretrained(example.args.out / "model")
    x, _ = example.test[:5]
    torch.testing.assert_close(saved.encode(x).mean, example.model.encode(x).mean)


@pytest.mark.parametrize("length", [{"epochs": 3}, {"steps": 7}], ids=["epochs", "steps"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_is_the_same_training(name: str, length, example: SimpleNamespace) -> None:
    data, _ = part("dynamic")
    objective, model = OBJECTIVES[name](), tiny()
    module = module_of(name, example)(copy.deepcopy(model), copy.deepcopy(objective))
    for term in module.objective.terms:
        if hasattr(term, "dataset_size"):
            term.dataset_size = len(data)
    optimizers = 2 if "discriminator" in name else 1  # Lightning counts the steps of each
    its = {"epochs": {"max_epochs": 3}, "steps": {"max_steps": 7 * optimizers}}
    trainer = train(module, data, **its[next(iter(length))])

    history = vk.fit(model, objective, data, **length, **OPTIONS)
    assert trainer.global_step == history.step[-1] * optimizers
    for fitted, trained in ((model, module.model), (objective, module.objective)):
        found = trained.state_dict()
        for parameter, value in fitted.state_dict().items():
            torch.testing.assert_close(found[parameter], value, rtol=1e-6, atol=1e-7)


def test_ten_lines_are_enough(example: SimpleNamespace) -> None:
    (written,) = [
        each
        for each in ast.walk(ast.parse(EXAMPLE.read_text()))
        if isinstance(each, ast.ClassDef) and each.name == "VAEModule"
    ]
    lines = [line.strip() for line in ast.unparse(written).splitlines()]
    assert len([line for line in lines if line and not line.startswith('"""')]) == 10
    data, _ = part("static")
    fitted, trained = tiny(), tiny()
    objective = vk.Reconstruction() + WARMING * vk.KL()
    train(example.VAEModule(trained, objective), data, max_epochs=3)
    vk.fit(fitted, objective, data, epochs=3, **OPTIONS)
    for one, other in zip(fitted.parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["elbo", "a discriminator"])
def test_what_is_logged_is_the_history(name: str, example: SimpleNamespace) -> None:
    data, test = part("static")
    objective, model = OBJECTIVES[name](), tiny()
    module = module_of(name, example)(copy.deepcopy(model), copy.deepcopy(objective))
    trainer = train(module, data, test, max_epochs=2)
    history = vk.fit(model, objective, data, epochs=2, validation=test, **OPTIONS)
    logged = {key: value.item() for key, value in trainer.callback_metrics.items()}
    assert logged.keys() == {
        f"{stage}_{name}" for name in history.train for stage in ("train", "validation")
    }
    for term, values in history.train.items():
        assert logged[f"train_{term}"] == pytest.approx(values[-1], rel=1e-5)
    # Not made of draws, so that it is that of any seed.
    assert logged["validation_kl"] == pytest.approx(history.validation["kl"][-1], rel=1e-5)


def test_validating_leaves_the_training_as_it_was(example: SimpleNamespace) -> None:
    data, test = part("static")
    with_it, without = tiny(), tiny()
    train(example.ValidatedModule(with_it, elbo()), data, test, max_epochs=2)
    train(example.ValidatedModule(without, elbo()), data, max_epochs=2)
    for one, other in zip(with_it.parameters(), without.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")
@pytest.mark.parametrize("training", [True, False])
def test_it_trains_in_the_mode_that_the_model_is_in(training: bool, example) -> None:
    # As the page warns: a model that fit or a file left in evaluation mode stays in it.
    data, test = part("static")
    module = example.ValidatedModule(tiny().train(training), elbo())
    train(module, data, test, max_epochs=1)
    assert module.model.training == training


def test_a_term_that_was_not_told_the_size_says_so(example: SimpleNamespace, refuses) -> None:
    module = example.VAEModule(tiny(), elbo() + vk.TotalCorrelation())
    data, _ = part("static")
    refuses(ValueError, lambda: train(module, data, max_epochs=1), "dataset_size", "None")
