"""Latent, likelihood, prior and objective at random: what is possible trains, the rest is refused.

Which is which, `combinations.refusals` tells.
"""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import combinations
import pytest
import torch
from combinations import LATENTS, LIKELIHOODS, OWN, PRIORS, SHAPES, TERMS, Choice, N, refusals
from conftest import annotations_unchecked
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vaekit as vk

AT_RANDOM = settings(max_examples=75, suppress_health_check=list(HealthCheck))

#: What the rules found at fault once.
ONCE_AT_FAULT = {
    "measures": Choice("CategoricalLatent, hard", "MixtureOfGaussians", ("KL",)),
    "ladder": Choice("Ladder", "StandardNormal", ("KL",)),
    "chains": Choice("BottomUp", "TopDown", ("KL",), samples=3, batch_size=11),
    "mixtures of chains": Choice("BottomUp", "VampPrior", ("KL",)),
    "moments": Choice("BernoulliLatent, hard", OWN, ("DIP, within",)),
}


@st.composite
def choices(draw: st.DrawFn, possible: bool) -> Choice:
    def among(field: str, options, start: Choice) -> Choice:
        """Draw a field; of what is possible, where that is asked for."""
        all_of_them = [replace(start, **{field: option}) for option in options]
        fitting = [choice for choice in all_of_them if not (possible and refusals(choice))]
        return draw(st.sampled_from(fitting))

    shape = draw(st.sampled_from(SHAPES))
    names = [name for name in LIKELIHOODS if name != "Mixed" or shape == (6,)]
    choice = Choice("GaussianLatent", "TopDown", (), draw(st.sampled_from(names)), shape)
    choice = among("latent", LATENTS, choice)
    choice = among("conditional", (False, True), choice)
    choice = among("prior", PRIORS, choice)
    choice = among("samples", (None, 1, 3), choice)
    choice = among("batch_size", (4, 11), choice)
    for _ in range(draw(st.integers(1, 2))):
        used = {name.split(",")[0] for name in choice.terms}
        terms = [name for name in TERMS if name.split(",")[0] not in used]
        choice = among("terms", [(*choice.terms, name) for name in terms], choice)
    return choice


def fit(
    choice: Choice,
    model: vk.VAE,
    objective: vk.objectives.Objective | None = None,
    **options: Any,
) -> vk.training.History:
    return vk.fit(
        model,
        objective or combinations.objective(choice),
        vk.datasets.from_tensors(*combinations.data(choice)),
        batch_size=choice.batch_size,
        samples=choice.samples,
        progress=False,
        **{"steps": 3, **options},
    )


@AT_RANDOM
@given(choices(possible=True))
def test_what_is_possible_trains_and_reloads(tmp_path: Path, choice: Choice) -> None:
    check_possible(choice, tmp_path)


@AT_RANDOM
@given(choices(possible=False).filter(refusals))
def test_what_is_impossible_is_refused_by_name(choice: Choice) -> None:
    check_refused(choice)


@pytest.mark.parametrize("choice", ONCE_AT_FAULT.values(), ids=ONCE_AT_FAULT)
def test_what_was_once_at_fault(choice: Choice, tmp_path: Path) -> None:
    if refusals(choice):
        check_refused(choice)
    else:
        check_possible(choice, tmp_path)


def check_possible(choice: Choice, folder: Path) -> None:
    """It trains, and what was learned is all in the state, from which training goes on the same."""
    model, (x, context) = combinations.build(choice), combinations.data(choice)
    objective = combinations.objective(choice)
    labels = context if model.takes_context else None
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    history = fit(choice, model, objective, optimizer=optimizer)
    assert all(math.isfinite(value) for row in history.train.values() for value in row)
    after = model.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    assert any(not torch.equal(value, after[key]) for key, value in before.items())
    parts = {"model": model, "objective": objective, "optimizer": optimizer}
    torch.save({name: part.state_dict() for name, part in parts.items()}, folder / "state.pt")
    again = combinations.build(choice, seed=1)
    other = combinations.objective(choice)
    twin = torch.optim.Adam(again.parameters(), 1e-3)
    saved = torch.load(folder / "state.pt", weights_only=True)
    for name, part in (("model", again), ("objective", other), ("optimizer", twin)):
        part.load_state_dict(saved[name])
    again.eval()
    x_hat = model.reconstruct(x, labels)
    assert x_hat.shape == x.shape
    assert torch.equal(again.reconstruct(x, labels), x_hat)
    values = [seeded(choice, each) for each in (model, again)]
    for name, value in values[0].items():
        assert torch.equal(value, values[1][name]), name
    assert model.sample(N, context=labels).shape == x.shape
    # One element is a batch like any other.
    alone = tuple(name for name in choice.terms if not TERMS[name].batch)
    for value in seeded(replace(choice, terms=alone), model, batch=1).values():
        assert value.shape in ((1,), ())
    # The next step is the same as if there had been no break.
    rows = [
        fit(choice, *both, optimizer=one, steps=1, seed=3).train
        for *both, one in ((model, objective, optimizer), (again, other, twin))
    ]
    for name, row in rows[0].items():
        assert row == rows[1][name], name
    for one, same in ((model, again), (objective, other)):
        for key, value in one.state_dict().items():
            assert torch.equal(value, same.state_dict()[key]), key
    assert any(
        not torch.equal(value, saved["model"][key]) for key, value in again.state_dict().items()
    )


def check_refused(choice: Choice) -> None:
    """It is refused, in our words."""
    with annotations_unchecked(), pytest.raises((NotImplementedError, TypeError, ValueError)) as e:
        fit(choice, combinations.build(choice))
    check_names(e.value, refusals(choice))


def seeded(choice: Choice, model: vk.VAE, batch: int = N) -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    return combinations.run(choice, model, batch)


def check_names(error: Exception, arguments: set[str]) -> None:
    """An error of ours begins with the argument: ``prior: expected ..., got ...``."""
    assert not isinstance(error, ArithmeticError), error
    named = re.match(r"(\w+): (expected|no closed form)", str(error))
    assert named, f"no argument is named: {error!r}"
    assert named[1] in arguments, f"{arguments} was expected: {error}"


@pytest.mark.parametrize("latent", LATENTS)
def test_every_latent_with_every_prior_and_every_term(latent: str) -> None:
    pairs = [Choice(latent, prior, (term,)) for prior in PRIORS for term in ("KL", "MMD")]
    pairs += [
        Choice(latent, OWN, (term,), samples=3 if TERMS[term].draws else None) for term in TERMS
    ]
    for choice in pairs:
        arguments = refusals(choice)
        try:
            combinations.run(choice, combinations.build(choice))
        except (NotImplementedError, TypeError, ValueError) as error:
            check_names(error, arguments)
        else:
            assert not arguments, choice


@pytest.mark.parametrize(
    "latent",
    [name for name, q in LATENTS.items() if q.by_dimension and q.family != "joint"],
)
def test_the_exact_divergence_of_the_dimensions_adds_up(latent: str) -> None:
    choice = Choice(latent, OWN, ())
    out = combinations.build(choice)(combinations.data(choice)[0])
    total = vk.kl_divergence(out.posterior, out.prior, method="analytic")
    by_dimension = vk.losses.kl_by_dimension(out.posterior, out.prior, z=out.z)
    torch.testing.assert_close(by_dimension.sum(-1), total)


@pytest.mark.parametrize(
    ("module", "cases", "others"),
    [
        (vk.latents, {**LATENTS, "BottomUp": 0, "Ladder": 0}, {"Latent"}),
        (vk.likelihoods, LIKELIHOODS, {"Likelihood"}),
        (vk.priors, PRIORS, {"fit_flow", "fit_gaussian_mixture"}),
        (vk.objectives, TERMS, {"Loss", "Objective", "Reconstruction", "Term"}),
    ],
    ids=["latents", "likelihoods", "priors", "objectives"],
)
def test_every_public_part_takes_part(module, cases, others) -> None:
    found = {name.split(",")[0] for name in cases}
    assert set(module.__all__) - others <= found
