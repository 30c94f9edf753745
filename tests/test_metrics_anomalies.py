"""Scores of strange elements, held to a linear-Gaussian model whose best posterior is exact."""

import math

import pytest
import torch
from models import tiny
from sklearn.metrics import roc_auc_score
from torch import nn

import vaekit as vk
from vaekit import metrics

f64 = torch.double
SIGMA = 0.5


def linear() -> tuple[vk.VAE, torch.distributions.Distribution]:
    """x = W z + noise, the columns of W orthogonal, so that the posterior is diagonal."""
    torch.manual_seed(0)
    latent = vk.GaussianLatent(2)
    to_x, to_z = nn.Linear(2, 5), nn.Linear(5, latent.num_params)
    with torch.no_grad():
        to_x.weight.copy_(torch.linalg.qr(torch.randn(5, 2)).Q * torch.tensor([2.0, 0.7]))
        to_z.weight.mul_(0.2)
        to_z.bias[2:] = -2.0  # logvar
    decoder = vk.Decoder(to_x, vk.likelihoods.Gaussian(5, sigma=SIGMA))
    model = vk.VAE(vk.Encoder(to_z, latent), decoder).double()
    w, b = to_x.weight.detach(), to_x.bias.detach()
    covariance = w @ w.T + SIGMA**2 * torch.eye(5, dtype=f64)
    return model, torch.distributions.MultivariateNormal(b, covariance)


def exact_elbo(model: vk.VAE, x: torch.Tensor) -> torch.Tensor:
    """The ELBO of the linear model by its formula, without a draw."""
    q, decode = model.encode(x), model.decoder.net
    density = torch.distributions.Normal(decode(q.mean), SIGMA).log_prob(x).sum(1)
    spread = (decode.weight.square() @ q.variance.T).sum(0) / (2 * SIGMA**2)
    return density - spread - vk.kl_divergence(q, model.prior())


def test_the_regret_is_what_the_encoder_lacks_to_the_exact_evidence() -> None:
    model, evidence = linear()
    x = evidence.sample((6,))
    lacking = evidence.log_prob(x) - exact_elbo(model, x).detach()
    found = metrics.likelihood_regret(model, x, steps=600, learning_rate=0.03, samples=400)
    draws = model(x, samples=4000)  # as many as estimate the ELBO before; after it, little varies
    error = vk.reconstruction(draws.likelihood, x).std(0) / 4000**0.5
    assert (lacking > 10 * error).all()
    assert ((found - lacking).abs() < 4 * error + 0.02).all()
    early = metrics.likelihood_regret(model, x, steps=5, learning_rate=0.03, samples=400)
    assert (early < found).all()


def test_the_scores_are_those_of_the_metrics_they_are_named_after() -> None:
    model, evidence = linear()
    x = evidence.sample((60,))
    found = metrics.anomaly_scores(model, x, samples=4000, importance_samples=4000)
    error = vk.reconstruction(model(x, samples=4000).likelihood, x).std(0) / 4000**0.5
    z = (found.negative_elbo + exact_elbo(model, x).detach()) / error
    assert z.abs().max() < 4
    nll = metrics.negative_log_likelihood(model, x, samples=4000)
    z = (found.negative_log_likelihood + evidence.log_prob(x)) * nll.effective_samples.sqrt()
    near = nll.effective_samples > 200  # where the encoder is far off, no number of draws is enough
    assert near.sum() > 5
    assert z[near].abs().max() < 4
    assert (found.negative_elbo >= found.reconstruction).all()


def test_batches_change_nothing_but_the_draws_and_the_seed_repeats_them() -> None:
    model, x = tiny(), torch.rand(7, 1, 8, 8).round()
    one = metrics.anomaly_scores(model, x, seed=3)
    again = metrics.anomaly_scores(model, x, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    parts = metrics.anomaly_scores(model, x, batch_size=2, seed=3)
    assert all(len(values) == 7 for values in parts)
    before = torch.get_rng_state()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    metrics.likelihood_regret(model.train(), x, steps=2)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_regret_is_measured_where_gradients_are_off() -> None:
    model, x = tiny(), torch.rand(4, 1, 8, 8).round()
    wanted = metrics.likelihood_regret(model, x, steps=3)
    with torch.no_grad():
        assert torch.equal(metrics.likelihood_regret(model, x, steps=3), wanted)
        assert (
            metrics.anomaly_scores(model, x, 2, importance_samples=2).likelihood_regret is not None
        )
    assert wanted.dtype == torch.double


def test_the_regret_may_be_left_out() -> None:
    model, x = tiny(), torch.rand(4, 1, 8, 8).round()
    found, whole = (metrics.anomaly_scores(model, x, 2, regret=each) for each in (False, True))
    assert found.likelihood_regret is None
    assert torch.equal(found.reconstruction, whole.reconstruction)


def test_the_draws_are_those_asked_for_and_a_chunk_of_them_is_held() -> None:
    model, chunks = tiny(), []
    model.decoder.register_forward_pre_hook(lambda _, args: chunks.append(len(args[0])))
    x = torch.zeros(3, 1, 8, 8)
    found = metrics.anomaly_scores(model, x, 5, importance_samples=7, chunk=3)
    of_regret = [8] * (10 + 40 + 10)
    assert chunks == [3, 2, 3, 3, 1, *of_regret]
    assert all(values.dtype == torch.double for values in found)
    chunks.clear()
    metrics.likelihood_regret(model, x, steps=6, samples=2)
    assert chunks == [2] * (10 + 6 + 10)


def test_the_regret_of_a_decoder_that_is_deaf_to_codes_is_the_kl() -> None:
    """As the prior is its best posterior."""
    model, evidence = linear()
    nn.init.zeros_(model.decoder.net.weight)
    x = evidence.sample((5,))
    found = metrics.likelihood_regret(model, x, steps=300, learning_rate=0.05, samples=2)
    kl = vk.kl_divergence(model.encode(x)).detach()
    torch.testing.assert_close(found, kl, rtol=0, atol=1e-3)


def test_what_was_never_seen_scores_higher() -> None:
    train, test = vk.datasets.digits(binarize="threshold")
    zeros = train.subset(train.labels == 0)
    model, objective = vk.recipes.vae(vk.likelihoods.Bernoulli(train.shape), latent_dim=3)
    vk.fit(model, objective, zeros, epochs=60, batch_size=32, seed=0, progress=False)
    outside = test.labels != 0
    for name, values in metrics.anomaly_scores(model, test)._asdict().items():
        pairs = values[outside][:, None] - values[~outside]
        area = (pairs > 0).double().mean()
        assert area > 0.9, (name, area)


def test_other_posteriors_have_no_regret(refuses) -> None:
    likelihood = vk.likelihoods.Bernoulli((1, 8, 8))
    model = vk.recipes.categorical_vae(likelihood, 3, 4).model
    x = torch.rand(5, 1, 8, 8).round()
    found = metrics.anomaly_scores(model, x, samples=3, importance_samples=3)
    assert found.likelihood_regret is None
    refuses(TypeError, lambda: metrics.likelihood_regret(model, x), "model: expected a model whose")


def test_an_autoencoder_is_told_what_scores_its_elements(refuses) -> None:
    torch.manual_seed(0)
    model, _ = vk.recipes.autoencoder(vk.likelihoods.Gaussian(5), latent_dim=2)
    x = torch.randn(10, 5)
    words = "model: expected one whose posterior has a density", "vaekit.losses.reconstruction"
    refuses(TypeError, lambda: metrics.anomaly_scores(model, x), *words)
    scores = vk.losses.reconstruction(model(x).likelihood, x)
    squares = (model.reconstruct(x) - x).square().sum(1)
    torch.testing.assert_close(scores.argsort(), squares.argsort())


def test_a_context_reaches_every_part() -> None:
    data = vk.datasets.from_tensors(torch.rand(12, 4), torch.arange(12) % 3)
    model = vk.recipes.cvae(vk.likelihoods.Gaussian(4), latent_dim=2, classes=3).model
    found = metrics.anomaly_scores(model, data, samples=3, importance_samples=3)
    assert [len(values) for values in found] == [12] * 4


@pytest.mark.parametrize("measure", [metrics.anomaly_scores, metrics.likelihood_regret])
def test_degenerate_data_are_one_clear_error(measure, refuses) -> None:
    x = torch.zeros(4, 1, 8, 8)
    refuses(ValueError, lambda: measure(tiny(), x.fill_(torch.nan)), "data", "NaN")
    refuses(ValueError, lambda: measure(tiny(), x[:0]), "expected at least one element")
    refuses(TypeError, lambda: measure(nn.Identity(), x), "model: expected a VAE")
    refuses(ValueError, lambda: measure(tiny(), x, samples=0), "samples: expected")


def test_numbers_that_do_not_fit_are_named(refuses) -> None:
    x = torch.zeros(4, 1, 8, 8)
    regret, scores = metrics.likelihood_regret, metrics.anomaly_scores
    refuses(ValueError, lambda: regret(tiny(), x, steps=0), "steps: expected")
    refuses(ValueError, lambda: regret(tiny(), x, learning_rate=0), "learning_rate: expected")
    refuses(ValueError, lambda: scores(tiny(), x, importance_samples=0), "importance_samples")
    refuses(ValueError, lambda: scores(tiny(), x, chunk=0), "chunk: expected")


@pytest.mark.parametrize("ties", [False, True])
def test_the_area_is_that_of_scikit_learn_and_the_error_that_of_all_pairs(ties: bool) -> None:
    torch.manual_seed(0)
    labels = torch.arange(90) % 3 == 0
    scores = torch.randn(90) + labels
    scores = scores.round() if ties else scores
    found = metrics.auroc(scores, labels)
    assert found.mean == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    high, low = scores[labels].double(), scores[~labels].double()
    right = (high[:, None] > low).double() + (high[:, None] == low).double() / 2
    variance = right.mean(1).var() / len(high) + right.mean(0).var() / len(low)
    assert found.standard_error == pytest.approx(float(variance.sqrt()), rel=1e-12)


def test_the_error_of_an_area_is_its_spread() -> None:
    torch.manual_seed(0)
    labels = torch.arange(100) >= 40
    found = [metrics.auroc(torch.randn(100) + labels, labels) for _ in range(2000)]
    areas, errors = torch.tensor(found, dtype=f64).T
    # The spread of 2,000 areas is known to one part in 63.
    assert float(errors.square().mean().sqrt() / areas.std()) == pytest.approx(1, abs=3 / 63)


def test_an_area_of_one_element_of_a_kind_has_no_error() -> None:
    found = metrics.auroc(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0, 0, 1]))
    assert found.mean == 1
    assert math.isnan(found.standard_error)


def test_an_area_of_arrays() -> None:
    scores, labels = torch.rand(50), torch.arange(50) % 2
    assert metrics.auroc(scores.numpy(), labels.numpy() == 1) == metrics.auroc(scores, labels)


def test_areas_that_there_are_not(refuses) -> None:
    scores, labels = torch.rand(4), torch.arange(4) % 2
    words = "labels: expected values 0 and 1, both of them"
    refuses(ValueError, lambda: metrics.auroc(scores, 0 * labels), words, "got [0]")
    refuses(ValueError, lambda: metrics.auroc(scores, 2 * labels), words, "got [0, 2]")
    refuses(ValueError, lambda: metrics.auroc(scores[:3], labels), "labels: expected shape (3,)")
    refuses(ValueError, lambda: metrics.auroc(scores[:, None], labels), "scores: expected shape")
    refuses(ValueError, lambda: metrics.auroc(scores / 0, labels), "scores: expected finite")
