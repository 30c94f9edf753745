import inspect
import math
import subprocess
import sys

import pytest
import torch

import vaekit as vk
from vaekit import recipes
from vaekit.distributions.flows import import_zuko
from vaekit.recipes import Recipe

BINARY = vk.likelihoods.Bernoulli((1, 8, 8))
X = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round()
SMALL = recipes.perceptrons((16,))


def _flow():
    return import_zuko().flows.NSF(3, hidden_features=(8,))


def _noisy(x: torch.Tensor) -> torch.Tensor:
    return x * (torch.rand_like(x) > 0.3)


#: What makes each recipe, small; and what `fit` is to be told.
MAKERS = {
    "aae": (lambda: recipes.aae(BINARY, 3, nets=SMALL), {}),
    "annealed_vae": (lambda: recipes.annealed_vae(BINARY, 3, nets=SMALL), {}),
    "autoencoder": (lambda: recipes.autoencoder(BINARY, 3, nets=SMALL), {}),
    "beta_tcvae": (lambda: recipes.beta_tcvae(BINARY, 3, nets=SMALL), {}),
    "beta_vae": (lambda: recipes.beta_vae(BINARY, 3, nets=SMALL), {}),
    "capacity_vae": (lambda: recipes.capacity_vae(BINARY, 3, nets=SMALL), {}),
    "categorical_vae": (lambda: recipes.categorical_vae(BINARY, 3, 4, nets=SMALL), {}),
    "ciwae": (lambda: recipes.ciwae(BINARY, 3, nets=SMALL), {"samples": 4}),
    "cvae": (lambda: recipes.cvae(BINARY, 3, 10, nets=SMALL), {}),
    "denoising_autoencoder": (
        lambda: recipes.denoising_autoencoder(BINARY, 3, nets=SMALL),
        {"corruption": _noisy},
    ),
    "dip_vae_i": (lambda: recipes.dip_vae_i(BINARY, 3, nets=SMALL), {}),
    "dip_vae_ii": (lambda: recipes.dip_vae_ii(BINARY, 3, nets=SMALL), {}),
    "dreg": (lambda: recipes.dreg(BINARY, 3, nets=SMALL), {"samples": 4}),
    "factor_vae": (lambda: recipes.factor_vae(BINARY, 3, nets=SMALL), {}),
    "flow_posterior_vae": (
        lambda: recipes.flow_posterior_vae(BINARY, 3, context=4, nets=SMALL),
        {},
    ),
    "flow_prior_vae": (lambda: recipes.flow_prior_vae(BINARY, 3, _flow(), nets=SMALL), {}),
    "hyperspherical_vae": (lambda: recipes.hyperspherical_vae(BINARY, 3, nets=SMALL), {}),
    "info_vae": (lambda: recipes.info_vae(BINARY, 3, nets=SMALL), {}),
    "iwae": (lambda: recipes.iwae(BINARY, 3, nets=SMALL), {"samples": 4}),
    "joint_vae": (lambda: recipes.joint_vae(BINARY, 3, 4, nets=SMALL), {}),
    "ladder_vae": (
        lambda: recipes.ladder_vae(BINARY, (4, 3, 2), hidden=(16, 12, 8)),
        {},
    ),
    "miwae": (lambda: recipes.miwae(BINARY, 3, groups=2, nets=SMALL), {"samples": 4}),
    "rae": (lambda: recipes.rae(BINARY, 3, nets=SMALL), {}),
    "renyi_vae": (lambda: recipes.renyi_vae(BINARY, 3, nets=SMALL), {"samples": 4}),
    "sigma_vae": (lambda: recipes.sigma_vae((1, 8, 8), 3, nets=SMALL), {}),
    "stl": (lambda: recipes.stl(BINARY, 3, nets=SMALL), {"samples": 4}),
    "two_layer_vae": (lambda: recipes.two_layer_vae(BINARY, (4, 2), hidden=(16, 8)), {}),
    "vae": (lambda: recipes.vae(BINARY, 3, nets=SMALL), {}),
    "vamp_vae": (lambda: recipes.vamp_vae(BINARY, 3, X[:5], nets=SMALL), {}),
    "vq_vae": (
        lambda: recipes.vq_vae(BINARY, 4, codes=8, variables=2, nets=SMALL),
        {},
    ),
    "wae": (lambda: recipes.wae(BINARY, 3, nets=SMALL), {}),
}
HELPERS = {"Nets", "Recipe", "convolutions", "perceptrons"}


def test_every_recipe_is_tested_here() -> None:
    assert set(MAKERS) == set(recipes.__all__) - HELPERS


@pytest.mark.parametrize("name", MAKERS)
def test_it_trains_evaluates_generates_and_reloads(name: str) -> None:
    make, options = MAKERS[name]
    torch.manual_seed(0)
    recipe = make()
    assert isinstance(recipe, Recipe)
    model, objective = recipe
    y = torch.arange(len(X)) % 10
    data = vk.datasets.from_tensors(X, y)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    history = vk.fit(
        model, objective, data, steps=3, batch_size=16, validation=data, progress=False, **options
    )
    assert math.isfinite(history["loss"][-1])
    assert math.isfinite(history.validation["loss"][-1])
    changed = [not torch.equal(before[key], value) for key, value in model.state_dict().items()]
    assert sum(changed) >= 4
    context = y[:6] if model.takes_context else None
    assert model.reconstruct(X[:6], context).shape == (6, 1, 8, 8)
    if name not in ("autoencoder", "denoising_autoencoder", "rae", "vq_vae"):
        torch.manual_seed(1)
        pictures = model.sample(6, context=context)
        assert pictures.shape == (6, 1, 8, 8)
    again, _ = make()
    again.load_state_dict(model.state_dict())
    again.eval()
    torch.testing.assert_close(
        again.reconstruct(X, y if context is not None else None),
        model.reconstruct(X, y if context is not None else None),
    )


@pytest.mark.parametrize("name", MAKERS)
def test_it_is_a_few_lines_and_tells_its_paper(name: str) -> None:
    function = getattr(recipes, name)
    lines = inspect.getsource(function).splitlines()
    end = next(i for i, line in reversed([*enumerate(lines)]) if line.strip() == '"""')
    assert len(lines) - end - 1 <= 10
    assert "References:" in (function.__doc__ or "")


def test_joint_vae_holds_each_kind_of_latent_to_its_capacity() -> None:
    torch.manual_seed(0)
    recipe = recipes.joint_vae(BINARY, 3, 4, gamma=7, capacities=(6, 9), steps=10, nets=SMALL)
    model, objective = recipe
    out = model(X)
    continuous, discrete = (
        vk.kl_divergence(*pair) for pair in zip(out.posterior.parts, out.prior.parts, strict=True)
    )
    for step in (0, 5, 10, 99):
        share = min(1, step / 10)
        held = (continuous - share * 6).abs() + (discrete - share * math.log(4)).abs()
        exact = vk.reconstruction(out.likelihood, X).mean() + 7 * held.mean()
        torch.testing.assert_close(objective(out, X, step).total, exact)


def test_cvae_with_a_learned_prior() -> None:
    prior = vk.priors.ConditionalPrior(vk.networks.mlp(10, [8], 6), 3)
    model, objective = recipes.cvae(BINARY, 3, 10, prior=prior, nets=SMALL)
    assert model.prior is prior
    objective(model(X, context=torch.arange(64) % 10), X).total.backward()
    assert all(p.grad is not None for p in prior.parameters())


@pytest.mark.parametrize("name", sorted(set(MAKERS) - {"sigma_vae"}))
def test_a_shape_in_place_of_a_likelihood_is_refused(name: str, refuses) -> None:
    rest = {"categorical_vae": [3, 4], "joint_vae": [3, 4], "cvae": [3, 4], "vamp_vae": [3, X[:5]]}
    rest |= {"two_layer_vae": [], "ladder_vae": []}
    if name == "flow_prior_vae":
        rest[name] = [3, _flow()]
    make, arguments = getattr(recipes, name), rest.get(name, [4])
    words = "likelihood", "vk.likelihoods.Bernoulli", "(1, 8, 8)"
    refuses(TypeError, lambda: make((1, 8, 8), *arguments), *words)


def test_other_than_two_layers_are_refused(refuses) -> None:
    make = recipes.two_layer_vae
    refuses(ValueError, lambda: make(BINARY, (4, 2, 1)), "latent_dims", "two", "(4, 2, 1)")
    refuses(ValueError, lambda: make(BINARY, (4, 2), hidden=(8,)), "hidden", "two", "(8,)")
    pair = {"capacities": (5.0,)}
    refuses(ValueError, lambda: recipes.joint_vae(BINARY, 3, 4, **pair), "capacities", "two")


@pytest.mark.parametrize("name", MAKERS)
def test_it_tells_its_formula(name: str) -> None:
    assert ".. math::" in getattr(recipes, name).__doc__


def test_networks_of_ones_own() -> None:
    nets = recipes.convolutions((4, 8), (16,))
    model, _ = recipes.vae(BINARY, 3, nets=nets)
    assert isinstance(model.encoder.net.layers[0], torch.nn.Conv2d)
    assert model(X[:2]).x_hat.shape == (2, 1, 8, 8)
    model, objective = recipes.cvae(BINARY, 3, 10, nets=nets)
    out = model(X[:4], context=torch.arange(4))
    assert math.isfinite(float(objective(out, X[:4]).total.detach()))


class TestCollapse:
    """At their neutral settings the variants are the VAE, on the same noise."""

    @pytest.mark.parametrize(
        ("make", "samples"),
        [
            (lambda: recipes.beta_vae(BINARY, 3, beta=1, nets=SMALL), None),
            (lambda: recipes.info_vae(BINARY, 3, alpha=0, scale=1, nets=SMALL), None),
            (lambda: recipes.annealed_vae(BINARY, 3, steps=1, nets=SMALL), None),
            (lambda: recipes.factor_vae(BINARY, 3, gamma=0, nets=SMALL), None),
            (lambda: recipes.dip_vae_i(BINARY, 3, off_diagonal=0, diagonal=0, nets=SMALL), None),
            (lambda: recipes.dip_vae_ii(BINARY, 3, off_diagonal=0, diagonal=0, nets=SMALL), None),
        ],
    )
    def test_those_of_the_analytic_kl(self, make, samples: int | None) -> None:
        self._same(make, samples, vk.Reconstruction() + vk.KL())

    @pytest.mark.parametrize(
        ("make", "samples"),
        [
            (lambda: recipes.iwae(BINARY, 3, nets=SMALL), 1),
            (lambda: recipes.renyi_vae(BINARY, 3, alpha=0.3, nets=SMALL), 1),
            (lambda: recipes.renyi_vae(BINARY, 3, alpha=1, nets=SMALL), 5),
            (lambda: recipes.miwae(BINARY, 3, groups=5, nets=SMALL), 5),
            (lambda: recipes.ciwae(BINARY, 3, beta=1, nets=SMALL), 5),
            (lambda: recipes.beta_tcvae(BINARY, 3, beta=1, nets=SMALL), None),
        ],
    )
    def test_those_of_the_monte_carlo_kl(self, make, samples: int | None) -> None:
        self._same(make, samples, vk.Reconstruction() + vk.KL("monte_carlo"))

    def _same(self, make, samples: int | None, elbo: vk.objectives.Objective) -> None:
        torch.manual_seed(0)
        model, objective = make()
        model, objective = model.double(), objective.double()
        for term in objective.terms:
            if hasattr(term, "run_size"):
                term.run_size = 1000
        x = X[:16].double()
        results = []
        for each in (objective, elbo):
            torch.manual_seed(3)
            model.zero_grad()
            loss = each(model(x, samples), x, step=5).total
            loss.backward()
            results.append([loss.detach(), *(p.grad for p in model.parameters())])
        for mine, exact in zip(*results, strict=True):
            torch.testing.assert_close(mine, exact, rtol=1e-10, atol=1e-10)


def test_importing_the_recipes_imports_no_extra() -> None:
    script = "import sys, vaekit; print([m for m in ('zuko', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
