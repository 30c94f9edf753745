import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import elbo, tiny

import vaekit as vk
from vaekit.schedules import Constant, Linear

x = torch.ones(8, 1, 8, 8)


class TestObjective:
    def test_it_is_the_weighted_sum_of_the_means(self) -> None:
        out = tiny()(x)
        total, terms = (2 * vk.Reconstruction() + 3 * vk.KL())(out, x)
        reconstruction = vk.reconstruction(out.likelihood, x).mean()
        kl = vk.kl_divergence(out.posterior, out.prior).mean()
        torch.testing.assert_close(total, 2 * reconstruction + 3 * kl)
        assert list(terms) == ["reconstruction", "kl"]
        torch.testing.assert_close(terms["kl"], kl)  # without its weight

    @given(a=st.floats(0, 100), b=st.floats(0, 100), c=st.floats(0, 100))
    def test_weights_distribute(self, a: float, b: float, c: float) -> None:
        left = a * (b * vk.Reconstruction() + c * vk.KL())
        right = (vk.Reconstruction() * b) * a + vk.KL() * c * a
        for name, weight in left.weights().items():
            assert math.isclose(weight, right.weights()[name], rel_tol=1e-12)

    def test_schedules_weigh_terms(self) -> None:
        objective = vk.Reconstruction() + 2 * (Linear(0, 1, steps=10) * vk.KL())
        assert [objective.weights(step)["kl"] for step in (0, 5, 10, 99)] == [0, 1, 2, 2]
        assert (vk.Reconstruction() + (lambda step: step**2) * vk.KL()).weights(3)["kl"] == 9
        assert (Constant(3) * (Constant(2) * vk.KL())).weights(0) == {"kl": 6}

    def test_sum_of_a_list(self) -> None:
        assert repr(sum([vk.Reconstruction(), vk.KL()])) == "Reconstruction() + KL()"
        assert repr(sum([elbo(), vk.TotalCorrelation()])).endswith("+ TotalCorrelation()")

    @pytest.mark.parametrize(
        "written",
        [
            "Reconstruction() + 4 * KL()",
            "0.5 * Reconstruction() + Linear(start=0, end=4, steps=10) * KL()",
            "Reconstruction() + KL(method='monte_carlo') + 5 * TotalCorrelation(dataset_size=9)",
            "KL() + 2 * KL(method='analytic', name='other')",
            "Reconstruction() + DecomposedKL(total_correlation=6, estimator='weighted')",
        ],
    )
    def test_repr_is_what_was_written(self, written: str) -> None:
        names = {**vars(vk), "Linear": Linear}
        assert repr(eval(written, names)) == written

    def test_deepcopy(self) -> None:
        objective = vk.Reconstruction() + Linear(0, 1, steps=10) * vk.KL()
        assert repr(copy.deepcopy(objective)) == repr(objective)

    def test_bad_input(self, refuses) -> None:
        twice = "terms", "one term of each name", "kl"
        refuses(ValueError, lambda: vk.KL() + vk.KL(), *twice)
        named = vk.KL() + vk.KL(name="other")
        assert list(named.weights()) == ["kl", "other"]
        both = lambda: vk.TotalCorrelation() + vk.DecomposedKL()  # noqa: E731
        refuses(ValueError, both, "terms", "total_correlation")
        refuses(ValueError, lambda: -1 * vk.KL(), "weight of KL()", "at least 0", "-1")
        refuses(ValueError, lambda: math.nan * vk.KL(), "weight of KL()", "finite", "nan")
        refuses(TypeError, lambda: "four" * vk.KL(), "weight", "number", "four")
        refuses(TypeError, lambda: torch.ones(()) * vk.KL(), "weight", "number")
        refuses(TypeError, lambda: vk.KL() + 3)
        falling = (lambda step: -float(step)) * vk.KL()
        refuses(ValueError, lambda: falling.weights(1), "weight of KL() at step 1", "-1")
        refuses(ValueError, lambda: vk.KL(method="exact"), "method", "'analytic'", "exact")
        refuses(ValueError, lambda: vk.TotalCorrelation("mss"), "estimator", "mss")
        refuses(ValueError, lambda: vk.TotalCorrelation("exact"), "dataset_posterior", "None")
        refuses(ValueError, lambda: vk.TotalCorrelation(dataset_size=0), "dataset_size", "0")
        refuses(ValueError, lambda: vk.DecomposedKL(-1), "mutual_information", "-1")


class TestTerms:
    def test_several_draws_are_averaged(self) -> None:
        out = tiny()(x, samples=5)
        value = vk.Reconstruction()(out, x)
        torch.testing.assert_close(value, vk.reconstruction(out.likelihood, x).mean(0))
        estimate = vk.KL(method="monte_carlo")(out, x)
        by_draw = out.posterior.log_prob(out.z) - out.prior.log_prob(out.z)
        torch.testing.assert_close(estimate, by_draw.mean(0))

    def test_total_correlation_is_the_function(self) -> None:
        out = tiny()(x.double().round().float())
        value = vk.TotalCorrelation(dataset_size=100)(out, x)
        expected = vk.total_correlation(out.posterior, out.z, dataset_size=100)
        torch.testing.assert_close(value, expected)

    @pytest.mark.parametrize(
        "latent",
        [
            vk.latents.LaplaceLatent(3),
            vk.latents.BernoulliLatent(3, hard=True),
            vk.latents.ProductLatent(vk.GaussianLatent(1), vk.latents.LaplaceLatent(2)),
        ],
        ids=lambda latent: type(latent).__name__,
    )
    def test_the_exact_estimator_takes_any_posterior_of_the_data(self, latent) -> None:
        params = torch.randn(8, latent.num_params).requires_grad_()
        q = latent(params)
        out = vk.vae.VAEOutput(q, q.rsample(), q, latent.default_prior())
        parts = vk.DecomposedKL(estimator="exact", dataset_posterior=q)
        terms = vk.TotalCorrelation("exact", dataset_posterior=q), parts
        exact = vk.total_correlation(q, out.z, estimator="exact", dataset_posterior=q)
        torch.testing.assert_close(terms[0](out, x), exact)
        whole = vk.kl_divergence(q, out.prior, z=out.z, method="monte_carlo").mean()
        torch.testing.assert_close(terms[1](out, x), whole)
        for term in terms:  # a snapshot
            density = vk.distributions.log_prob_by_dimension(term.dataset_posterior, out.z.detach())
            assert not density.requires_grad

    def test_decomposed_kl_at_one_is_the_monte_carlo_kl(self) -> None:
        out = tiny()(x)
        parts = vk.DecomposedKL(dataset_size=100)
        kl = (0 * vk.Reconstruction() + vk.KL(method="monte_carlo"))(out, x).total
        torch.testing.assert_close((0 * vk.Reconstruction() + parts)(out, x).total, kl)
        torch.testing.assert_close(parts(out, x), kl)

    def test_decomposed_kl_weighs_its_parts(self) -> None:
        out = tiny()(x)
        term = vk.DecomposedKL(2, Linear(0, 10, steps=10), 0.5, dataset_size=100)
        total, terms = (3 * term)(out, x, step=4)
        weights = {"mutual_information": 6, "total_correlation": 12, "dimension_wise_kl": 1.5}
        assert (3 * term).weights(4) == weights
        torch.testing.assert_close(total, sum(weights[name] * terms[name] for name in weights))

    def test_several_draws_for_a_batch_statistic_are_refused(self, refuses) -> None:
        out = tiny()(x, samples=5)
        call = lambda: vk.TotalCorrelation(dataset_size=100)(out, x)  # noqa: E731
        refuses(ValueError, call, "z", "one draw for each element", "(5, 8, 2)")


class TestValuesOfOneElement:
    """A mean over what belongs to one element would weigh it by the size of an event."""

    def test_a_value_for_each_dimension(self, refuses) -> None:
        class Squares(vk.objectives.Term):
            def forward(self, out, x):
                return out.z.square()

        x = torch.zeros(4, 1, 8, 8)
        words = "squares: expected a value for each of the 4 elements", "shape (4, 2)"
        refuses(ValueError, lambda: (elbo() + Squares())(tiny()(x), x), *words)
        fit = {"steps": 1, "progress": False, "batch_size": 4, "accumulate": 2}
        refuses(
            ValueError, lambda: vk.fit(tiny(), elbo() + Squares(), x, **fit), "squares", "(2, 2)"
        )

    def test_no_tensor(self, refuses) -> None:
        class Number(vk.objectives.Term):
            def forward(self, out, x):
                return 1.0

        x = torch.zeros(4, 1, 8, 8)
        words = "number: expected a tensor", "got a float"
        refuses(TypeError, lambda: (elbo() + Number())(tiny()(x), x), *words)

    def test_of_several_draws_the_mean(self) -> None:
        class Length(vk.objectives.Term):
            def forward(self, out, x):
                return out.z.square().sum(-1)

        x = torch.zeros(4, 1, 8, 8)
        out = tiny()(x, samples=3)
        _, terms = (elbo() + Length())(out, x)
        torch.testing.assert_close(terms["length"], out.z.square().sum(-1).mean())


def test_schedules_are_found_wherever_they_are() -> None:
    rising, falling = Linear(0, 1, steps=10), Linear(1, 0, steps=10)
    objective = falling * (rising * vk.Reconstruction() + vk.KL())
    objective += vk.DecomposedKL(total_correlation=rising) + vk.objectives.Capacity(rising)
    assert objective.schedules() == {
        "term 1: weight 1": falling,
        "term 1: weight 2": rising,
        "term 2: weight 1": falling,
        "term 3: total_correlation": rising,
        "term 4: capacity": rising,
    }
