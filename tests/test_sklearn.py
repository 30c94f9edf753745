import copy
import math
import os
import subprocess
import sys

import numpy as np
import pandas
import pytest
import torch
from conftest import annotations_unchecked
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator as checks_of
from sklearn.utils.estimator_checks import parametrize_with_checks

import vaekit as vk
from vaekit.sklearn import VAEOutlierDetector, VAETransformer
from vaekit.training.checkpoints import random_states

IRIS, SPECIES = load_iris(return_X_y=True)


@parametrize_with_checks([VAETransformer(steps=30), VAEOutlierDetector(steps=30)])
def test_all_that_scikit_learn_checks(estimator, check) -> None:
    with annotations_unchecked():  # scikit-learn gives parameters what does not fit them
        check(estimator)


def test_its_check_of_other_libraries_arrays() -> None:
    if not any("array_api_input" in str(check) for _, check in checks_of(VAETransformer())):
        pytest.skip("this scikit-learn has no such check")
    # scikit-learn skips it unless scipy was imported so, which the other tests are not to be.
    command = [sys.executable, "-m", "pytest", "-q", __file__, "-k", "array_api_input"]
    environment = os.environ | {"SCIPY_ARRAY_API": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert "2 passed" in done.stdout, done.stdout
    assert not done.returncode


@pytest.fixture(scope="module")
def fitted() -> VAETransformer:
    return VAETransformer(2, steps=600, random_state=0).fit(IRIS)


class TestTransformer:
    def test_it_reduces_and_comes_back(self, fitted) -> None:
        reduced = fitted.transform(IRIS)
        assert reduced.shape == (150, 2)
        error = ((fitted.inverse_transform(reduced) - IRIS) ** 2).mean(0) / IRIS.var(0)
        assert error.max() < 0.5  # the mean alone leaves 1

    def test_in_a_pipeline_that_is_searched(self) -> None:
        steps = VAETransformer(steps=100, random_state=0), LogisticRegression()
        pipeline = make_pipeline(StandardScaler(), *steps)
        grid = {"vaetransformer__latent_dim": [1, 2], "vaetransformer__beta": [0.1, 1.0]}
        found = GridSearchCV(pipeline, grid, cv=2).fit(IRIS, SPECIES)
        assert found.best_score_ > 0.6
        assert len(found.cv_results_["params"]) == 4

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_the_unit_is_of_no_matter(self, dtype: type) -> None:
        """Columns are standardised however small their numbers; scores are in their unit."""
        rows = IRIS.astype(dtype)
        one, small = (
            VAETransformer(2, steps=50, random_state=0).fit(rows * dtype(unit))
            for unit in (1, 2**-40)
        )
        assert np.allclose(one.transform(rows), small.transform(rows * dtype(2**-40)), atol=1e-5)
        shift = one.score(rows) - small.score(rows * dtype(2**-40))
        assert shift == pytest.approx(4 * np.log(2**-40), rel=1e-6)

    def test_a_column_that_does_not_vary(self) -> None:
        rows = np.column_stack([IRIS, np.full(len(IRIS), 0.1), np.zeros(len(IRIS))])
        estimator = VAETransformer(2, steps=1, random_state=0).fit(rows)
        assert estimator.scale_[-2:].tolist() == [1, 1]
        for made in (estimator.sample(9), estimator.inverse_transform(np.zeros((9, 2)))):
            assert (made[:, -2:] == [0.1, 0]).all()
        assert (estimator.sample(9)[:, :4].std(0) > 0.1).all()

    def test_searched_by_its_own_score(self) -> None:
        grid = {"learning_rate": [1e-3, 1e-6]}
        estimator = VAETransformer(steps=200, random_state=0)
        found = GridSearchCV(estimator, grid, cv=2).fit(IRIS)
        assert found.best_params_ == {"learning_rate": 1e-3}

    def test_a_detector_in_a_pipeline_that_is_searched(self) -> None:
        detector = make_pipeline(StandardScaler(), VAEOutlierDetector(steps=200, random_state=0))
        grid = {"vaeoutlierdetector__learning_rate": [1e-3, 1e-6]}
        found = GridSearchCV(detector, grid, cv=2).fit(IRIS)
        assert found.best_params_ == {"vaeoutlierdetector__learning_rate": 1e-3}
        assert set(found.predict(IRIS)) == {-1, 1}

    def test_clones_repeat_it_to_the_digit(self, fitted) -> None:
        again = clone(fitted).fit(IRIS)
        assert np.array_equal(again.transform(IRIS), fitted.transform(IRIS))
        assert np.array_equal(again.score_samples(IRIS), fitted.score_samples(IRIS))
        other = clone(fitted).set_params(random_state=1).fit(IRIS)
        assert not np.array_equal(other.transform(IRIS), fitted.transform(IRIS))

    def test_data_frames(self) -> None:
        frame = pandas.DataFrame(IRIS, columns=list("abcd"))
        estimator = VAETransformer(2, steps=20, random_state=0).set_output(transform="pandas")
        reduced = estimator.fit_transform(frame)
        assert list(reduced.columns) == ["vaetransformer0", "vaetransformer1"]
        assert list(reduced.index) == list(frame.index)
        assert list(estimator.feature_names_in_) == list("abcd")
        with pytest.raises(ValueError, match="feature names"):
            estimator.transform(frame[["b", "a", "c", "d"]])

    def test_what_it_draws_looks_like_the_data(self, fitted) -> None:
        drawn = fitted.sample(2000)
        assert drawn.shape == (2000, 4)
        np.testing.assert_allclose(drawn.mean(0), IRIS.mean(0), atol=0.4)
        assert 0.5 < np.corrcoef(drawn.T)[2, 3] < 1

    def test_in_the_precision_of_the_data(self, fitted) -> None:
        single = VAETransformer(2, steps=20, random_state=0).fit(IRIS.astype(np.float32))
        assert next(single.model_.parameters()).dtype == torch.float32
        assert single.transform(IRIS.astype(np.float32)).dtype == np.float32
        assert next(fitted.model_.parameters()).dtype == torch.float64

    def test_generators_stay_as_they_were(self) -> None:
        before = random_states(torch.device("cpu"))
        with annotations_unchecked():  # whose checks draw from Python's
            VAETransformer(steps=5, random_state=0).fit(IRIS).sample(3)
        after = random_states(torch.device("cpu"))
        assert torch.equal(after["torch"], before["torch"])
        assert after["python"] == before["python"]
        assert np.array_equal(*(each["numpy"]["state"]["key"] for each in (before, after)))
        assert after["numpy"]["state"]["pos"] == before["numpy"]["state"]["pos"]

    def test_zeros_and_ones(self) -> None:
        bits = (IRIS.mean(0) < IRIS).astype(float)
        estimator = VAETransformer(1, likelihood="bernoulli", steps=300, random_state=0).fit(bits)
        decoded = estimator.inverse_transform(estimator.transform(bits))
        assert 0 <= decoded.min() <= decoded.max() <= 1
        assert ((decoded > 0.5) == bits).mean() > 0.8
        assert set(np.unique(estimator.sample(50))) <= {0, 1}
        assert estimator.score(bits) > -4 * math.log(2)  # four fair coins

    def test_a_model_of_ones_own(self) -> None:
        def build(columns: int):
            likelihood = vk.likelihoods.Gaussian(columns, learn_sigma=True)
            return vk.recipes.iwae(likelihood, 3, nets=vk.recipes.perceptrons((16,)))

        estimator = VAETransformer(build=build, steps=20, samples=5, random_state=0).fit(IRIS)
        assert estimator.transform(IRIS).shape == (150, 3)
        assert list(estimator.get_feature_names_out()) == [f"vaetransformer{i}" for i in range(3)]


class TestScores:
    def test_they_are_densities_in_the_units_of_the_data(self, fitted) -> None:
        scaled = VAETransformer(2, steps=600, random_state=0).fit(IRIS * 8 + 3)
        found = scaled.score_samples(IRIS * 8 + 3)
        expected = fitted.score_samples(IRIS) - 4 * math.log(8)
        np.testing.assert_allclose(found, expected, rtol=1e-6)

    def test_they_integrate_to_one(self) -> None:
        # Over two columns, on a grid that holds nearly all of the mass.
        rows = np.random.default_rng(0).multivariate_normal([1, -2], [[1, 0.8], [0.8, 2]], 500)
        estimator = VAETransformer(1, steps=500, samples=200, random_state=0).fit(rows)
        ends = [np.linspace(mean - 9, mean + 9, 91) for mean in (1, -2)]
        grid = np.stack(np.meshgrid(*ends), -1).reshape(-1, 2)
        mass = np.exp(estimator.score_samples(grid)).sum() * 0.2 * 0.2
        assert 0.97 < mass < 1.01

    def test_more_draws_are_tighter(self) -> None:
        # By Jensen's inequality, whatever the draws, where the same ones are taken in groups.
        estimator = VAETransformer(2, steps=100, samples=64, random_state=0).fit(IRIS)
        noise, means = estimator._noise, []
        for size in (1, 8, 64):
            scores = []
            for estimator._noise in noise.split(size):
                scores.append(estimator.score(IRIS))
            means.append(np.mean(scores))
        assert means[0] < means[1] < means[2]

    def test_a_row_by_itself_has_the_same(self, fitted) -> None:
        alone = np.concatenate([fitted.score_samples(IRIS[i : i + 1]) for i in range(5)])
        np.testing.assert_allclose(alone, fitted.score_samples(IRIS)[:5], rtol=1e-10)


class TestDetector:
    def test_it_finds_what_is_strange(self) -> None:
        random_rows = np.random.default_rng(0).uniform(IRIS.min(0), IRIS.max(0), (50, 4))
        both = np.concatenate([IRIS, random_rows])
        detector = VAEOutlierDetector(2, steps=800, contamination=0.05, random_state=0).fit(IRIS)
        strange = np.arange(200) >= 150
        assert roc_auc_score(strange, -detector.score_samples(both)) > 0.9
        assert (detector.predict(IRIS) == -1).sum() in (7, 8)
        decided = detector.decision_function(both)
        np.testing.assert_allclose(decided, detector.score_samples(both) - detector.offset_)
        assert np.array_equal(detector.predict(both), np.where(decided < 0, -1, 1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"latent_dim": 0}, "latent_dim: expected a whole number above 0"),
        ({"beta": "much"}, "beta: expected a finite number at least 0"),
        ({"beta": -1}, "beta: expected a finite number at least 0"),
        ({"likelihood": "poisson"}, "likelihood: expected one of"),
        ({"samples": 0}, "samples: expected"),
        ({"steps": 0}, "steps: expected"),
        ({"learning_rate": 0}, "learning_rate: expected"),
        ({"hidden": (0,)}, "hidden: expected"),
    ],
)
def test_parameters_that_do_not_fit(options, words: str, refuses) -> None:
    refuses(ValueError, lambda: VAETransformer(**({"steps": 2} | options)).fit(IRIS), words)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_however_far_away_are_outliers(dtype: str) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 3)).astype(dtype) * [1, 1e4, 40]
    detector = VAEOutlierDetector(2, steps=100, random_state=0).fit(rows.astype(dtype))
    far = np.concatenate([rows[:2] * scale for scale in (1.0, 1e2, 1e3, 1e5, 1e30)]).astype(dtype)
    scores = detector.score_samples(far)
    assert np.isfinite(scores).all()
    assert scores[2:].max() < scores[:2].min() - 100
    assert (detector.predict(far[2:]) == -1).all()


@pytest.mark.parametrize("far", [-1.797e308, 1e160])
def test_a_training_row_however_far_away_is_an_outlier(far: float) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 3))
    rows[3, 1] = far
    detector = VAEOutlierDetector(2, steps=100, contamination=0.01, random_state=0).fit(rows)
    assert np.isfinite(detector.scale_).all()
    assert np.isfinite(detector.offset_)
    assert detector.predict(rows)[3] == -1


def test_log_variances_beyond_all_bounds_have_one_sigma() -> None:
    class Wide(torch.nn.Module):
        def forward(self, x):
            return torch.cat([x[:, :1], 300 + 0 * x[:, :1]], 1)

    def build(columns: int) -> vk.recipes.Recipe:
        latent, likelihood = vk.GaussianLatent(1), vk.likelihoods.Gaussian(columns)
        encoder = vk.Encoder(torch.nn.Sequential(Wide(), torch.nn.Identity()), latent)
        decoder = vk.Decoder(vk.networks.mlp(1, [4], columns), likelihood)
        return vk.recipes.Recipe(vk.VAE(encoder, decoder), vk.Reconstruction() + vk.KL())

    rows = np.random.default_rng(0).normal(size=(20, 2)).astype("float32")
    scores = VAETransformer(build=build, steps=1, random_state=0).fit(rows).score_samples(rows)
    assert np.isfinite(scores).all()


def test_a_model_whose_data_are_never_zero() -> None:
    class Positive(vk.likelihoods.Likelihood):
        def __init__(self, columns: int) -> None:
            super().__init__(columns, 1)

        def forward(self, params):
            return torch.distributions.Independent(torch.distributions.LogNormal(params, 1.0), 1)

    def build(columns: int) -> vk.recipes.Recipe:
        latent = vk.GaussianLatent(1)
        encoder = vk.Encoder(vk.networks.mlp(columns, [4], 2), latent)
        decoder = vk.Decoder(vk.networks.mlp(1, [4], columns), Positive(columns))
        return vk.recipes.Recipe(vk.VAE(encoder, decoder), vk.Reconstruction() + vk.KL())

    rows = np.random.default_rng(0).lognormal(size=(20, 2))
    estimator = VAETransformer(build=build, likelihood="bernoulli", steps=2, random_state=0)
    assert np.isfinite(estimator.fit(rows).score(rows))


def test_sizes_of_numpy_are_searched() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3))
    sizes = {"batch_size": np.array([8, 16]), "latent_dim": np.array([1, 2])}
    search = GridSearchCV(VAETransformer(steps=2, random_state=0), sizes, cv=2)
    with annotations_unchecked():  # which say int
        search.fit(rows)
    assert np.isfinite(search.best_score_)


@pytest.mark.parametrize("share", [0, 0.6, -0.1, "auto"])
def test_a_share_that_does_not_fit(share, refuses) -> None:
    with annotations_unchecked():
        detector = VAEOutlierDetector(steps=2, contamination=share)
    refuses(ValueError, lambda: detector.fit(IRIS), "contamination: expected")


def test_a_number_in_words_is_one() -> None:
    with annotations_unchecked():
        one, other = (
            VAETransformer(beta=beta, steps=2, random_state=0).fit(IRIS) for beta in ("2", 2)
        )
    assert np.array_equal(one.transform(IRIS), other.transform(IRIS))


def test_another_latent(refuses) -> None:
    def build(columns: int):
        return vk.recipes.categorical_vae(vk.likelihoods.Gaussian(columns), 2, 3)

    words = "build: expected a function that returns a model with a Gaussian", "RelaxedCategorical"
    refuses(TypeError, lambda: VAETransformer(build=build, steps=2).fit(IRIS), *words)


def _of_other_columns(columns: int) -> vk.recipes.Recipe:
    encoder = vk.Encoder(vk.networks.mlp(columns, [4], 2), vk.GaussianLatent(1))
    decoder = vk.Decoder(vk.networks.mlp(1, [4], columns - 1), vk.likelihoods.Gaussian(columns - 1))
    return vk.recipes.Recipe(vk.VAE(encoder, decoder), vk.Reconstruction() + vk.KL())


def _of_a_decoder_with_labels(columns: int) -> vk.recipes.Recipe:
    model, objective = vk.recipes.vae(vk.likelihoods.Gaussian(columns), 2)
    net = vk.networks.Conditioned(vk.networks.mlp(2 + 3, [4], columns), 3)
    return vk.recipes.Recipe(
        vk.VAE(model.encoder, vk.Decoder(net, model.decoder.likelihood)), objective
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden": 8}, "hidden: expected a sequence of widths, got 8"),
        ({"hidden": "64"}, "hidden: expected a sequence of widths, got '64'"),
        ({"build": 3}, "build: expected a function from the number of columns"),
        (
            {"build": lambda columns: vk.recipes.vae(vk.likelihoods.Gaussian(columns + 1), 2)},
            "build: expected a function that returns a model of 4 columns, got one that fails",
        ),
        (
            {"build": _of_other_columns},
            "build: expected a function that returns a model of 4 columns, got one of shape (3,)",
        ),
        ({"device": "nope"}, "device: expected a device that is there, got 'nope'"),
        (
            {"build": _of_a_decoder_with_labels},
            "build: expected a function that returns a model of 4 columns, got one that fails",
        ),
        ({"build": lambda columns: None}, "build: expected a function that returns a VAE and an"),
    ],
)
def test_what_is_of_another_kind(options, words: str, refuses) -> None:
    with annotations_unchecked():
        estimator = VAETransformer(**({"steps": 2} | options))
    refuses((TypeError, ValueError), lambda: estimator.fit(IRIS), words)


def test_a_fit_that_fails_leaves_what_was_fitted(fitted) -> None:
    before = fitted.transform(IRIS)
    estimator = copy.deepcopy(fitted).set_params(learning_rate=0)
    with pytest.raises(ValueError, match="learning_rate"):
        estimator.fit(IRIS * 100)
    assert np.array_equal(estimator.transform(IRIS), before)


def test_ctrl_c_ends_a_search(monkeypatch) -> None:
    def interrupted(*_: object, **__: object) -> vk.training.History:
        return vk.training.History(stopped="interrupted")

    monkeypatch.setattr("vaekit.sklearn.fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        VAETransformer(steps=2).fit(IRIS)


def test_before_it_is_fitted(refuses) -> None:
    for call in (
        lambda: VAETransformer().transform(IRIS),
        lambda: VAETransformer().sample(),
        lambda: VAETransformer().inverse_transform(IRIS),
        lambda: VAEOutlierDetector().predict(IRIS),
    ):
        refuses(NotFittedError, call, "not fitted yet")


def test_latent_vectors_of_another_size(fitted, refuses) -> None:
    refuses(ValueError, lambda: fitted.inverse_transform(IRIS), "X: expected shape (rows, 2)")
