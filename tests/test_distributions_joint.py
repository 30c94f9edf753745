import math

import pytest
import torch
import torch.distributions as td
from gaussians import batches, draw, seeds, z_score
from hypothesis import given

import vaekit as vk
from vaekit.distributions import DiagonalGaussian, StandardGaussian, log_prob_by_dimension
from vaekit.distributions.delta import PointMass
from vaekit.distributions.discrete import RelaxedCategorical
from vaekit.distributions.joint import Joint

f64 = torch.float64


def mixed(seed: int, batch: int) -> Joint:
    logits = torch.randn(batch, 1, 3, generator=torch.Generator().manual_seed(seed), dtype=f64)
    return Joint([draw(seed, batch, 2), RelaxedCategorical(logits, hard=True)])


class TestJoint:
    @given(seed=seeds, batch=batches)
    def test_of_gaussians_it_is_the_gaussian(self, seed: int, batch: int) -> None:
        q, p = draw(seed, batch, 5), draw(seed + 1, batch, 5)
        joint_q, joint_p = (
            Joint([DiagonalGaussian(d.mu[:, :2], d.logvar[:, :2]),
                   DiagonalGaussian(d.mu[:, 2:], d.logvar[:, 2:])])
            for d in (q, p)
        )  # fmt: skip
        z = torch.randn(batch, 5, dtype=f64)
        for mine, other in (
            (joint_q.log_prob(z), q.log_prob(z)),
            (log_prob_by_dimension(joint_q, z), q.log_prob_by_dimension(z)),
            (joint_q.entropy(), q.entropy()),
            (joint_q.mean, q.mean),
            (joint_q.mode, q.mode),
            (joint_q.variance, q.variance),
            (vk.kl_divergence(joint_q, joint_p, method="analytic"), vk.kl_divergence(q, p)),
            (vk.kl_divergence(joint_q, p, method="analytic"), vk.kl_divergence(q, p)),
            (vk.kl_divergence(joint_q), vk.kl_divergence(q)),
        ):
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)

    @given(seed=seeds, batch=batches)
    def test_discrete_beside_continuous(self, seed: int, batch: int) -> None:
        q, p = mixed(seed, batch), mixed(seed + 1, batch)
        z = q.sample()
        gaussian, categorical = q.parts
        total = gaussian.log_prob(z[:, :2]) + categorical.log_prob(z[:, 2:])
        torch.testing.assert_close(q.log_prob(z), total, rtol=1e-10, atol=1e-10)
        parts = [vk.kl_divergence(*pair) for pair in zip(q.parts, p.parts, strict=True)]
        kl = vk.kl_divergence(q, p, method="analytic")
        torch.testing.assert_close(kl, parts[0] + parts[1], rtol=1e-10, atol=1e-10)
        assert (vk.kl_divergence(q, q).abs() < 1e-12).all()
        assert q.support.check(z).all()
        assert not q.support.check(z + 0.5).any()

    def test_kl_agrees_with_draws(self) -> None:
        q, p = mixed(0, 1), mixed(1, 1)
        z = q.sample((50_000,))
        estimate = q.log_prob(z) - p.log_prob(z)
        assert z_score(estimate, vk.kl_divergence(q, p)).abs().max() < 5

    def test_gradients_reach_every_part(self) -> None:
        mu, logits = torch.zeros(3, 2, requires_grad=True), torch.zeros(3, 1, 4, requires_grad=True)
        q = Joint([DiagonalGaussian(mu, torch.zeros(3, 2)), RelaxedCategorical(logits, hard=True)])
        z = q.rsample((7,))
        assert z.shape == (7, 3, 6)
        for gradient in torch.autograd.grad((z * torch.randn(6)).sum(), (mu, logits)):
            assert (gradient != 0).all()

    def test_expand(self) -> None:
        q = mixed(0, 1)
        z = q.sample()
        torch.testing.assert_close(q.expand((4,)).log_prob(z), q.log_prob(z).expand(4))

    def test_bad_values(self, refuses) -> None:
        normal = StandardGaussian(torch.zeros(4, 2))
        refuses(ValueError, lambda: Joint([]), "parts", "[]")
        other = StandardGaussian(torch.zeros(3, 2))
        refuses(ValueError, lambda: Joint([normal, other]), "parts", "batch", "(4, ", "(3, ")
        scalar = td.Normal(torch.zeros(4), 1.0)
        refuses(ValueError, lambda: Joint([normal, scalar]), "parts", "one dimension")
        q = Joint([normal, normal])
        refuses(ValueError, lambda: q.log_prob(torch.zeros(4, 3)), "x", "(..., 4)", "(4, 3)")
        with_categorical = mixed(0, 4)
        z = with_categorical.sample()
        refuses(
            TypeError,
            lambda: with_categorical.log_prob_by_dimension(z),
            "distribution",
            "independent",
        )
        gaussian = StandardGaussian(torch.zeros(5))
        refuses(
            TypeError, lambda: vk.kl_divergence(with_categorical, gaussian), "prior", "categorical"
        )
        uneven = Joint([StandardGaussian(torch.zeros(1)), StandardGaussian(torch.zeros(3))])
        assert vk.losses.kl_method(q, uneven) == "monte_carlo"
        point = Joint([normal, PointMass(torch.zeros(4, 2))])
        refuses(TypeError, lambda: vk.kl_divergence(point, q), "posterior", "density")


class TestPointMass:
    def test_every_draw_is_the_point_with_a_gradient_to_it(self) -> None:
        point = torch.randn(4, 2, requires_grad=True)
        q = PointMass(point)
        z = q.rsample((3,))
        assert torch.equal(z, point.expand(3, 4, 2))
        (gradient,) = torch.autograd.grad(z.sum(), point)
        assert torch.equal(gradient, torch.full((4, 2), 3.0))
        assert not q.sample().requires_grad
        assert torch.equal(q.mean, point)
        assert torch.equal(q.mode, point)
        assert torch.equal(q.variance, torch.zeros(4, 2))

    def test_expand_keeps_what_it_carries(self) -> None:
        q = PointMass(torch.ones(1, 2), torch.tensor([3.0]), torch.tensor([[5]])).expand((4,))
        assert q.rsample().shape == (4, 2)
        assert torch.equal(q.commitment, torch.full((4,), 3.0))
        assert torch.equal(q.indices, torch.full((4, 1), 5))
        assert PointMass(torch.ones(1, 2)).expand((4,)).commitment is None

    @pytest.mark.parametrize("method", [None, "analytic", "monte_carlo"])
    def test_density_and_divergence_are_refused_by_name(self, refuses, method) -> None:
        q = PointMass(torch.zeros(4, 2))
        words = ("posterior", "density", "PointMass", "leave that term out")
        refuses(TypeError, lambda: q.log_prob(torch.zeros(4, 2)), *words)
        refuses(TypeError, lambda: vk.kl_divergence(q, method=method), *words)
        refuses(ValueError, lambda: PointMass(torch.full((4, 2), math.nan)), "point", "NaN")


class TestColumns:
    @given(seed=seeds, batch=batches)
    def test_of_gaussians_it_is_the_gaussian(self, seed: int, batch: int) -> None:
        q, p = draw(seed, batch, 5), draw(seed + 1, batch, 5)
        columns = [[3, 0], [1, 4, 2]]

        def parted(d: DiagonalGaussian) -> Joint:
            return Joint([DiagonalGaussian(d.mu[:, c], d.logvar[:, c]) for c in columns], columns)

        joint, z = parted(q), torch.randn(batch, 5, dtype=f64)
        for mine, other in (
            (joint.log_prob(z), q.log_prob(z)),
            (joint.expand((2, batch)).log_prob(z), q.log_prob(z).expand(2, batch)),
            (log_prob_by_dimension(joint, z), q.log_prob_by_dimension(z)),
            (joint.mean, q.mean),
            (joint.mode, q.mode),
            (joint.variance, q.variance),
            (torch.cat(joint.split(z), -1), z[:, [3, 0, 1, 4, 2]]),
            (vk.kl_divergence(joint, parted(p), method="analytic"), vk.kl_divergence(q, p)),
            (vk.kl_divergence(joint, p, method="analytic"), vk.kl_divergence(q, p)),
        ):
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)
        assert joint.rsample((3,)).shape == (3, batch, 5)

    def test_draws_lie_in_their_places(self) -> None:
        joint = Joint(
            [
                RelaxedCategorical(torch.randn(8, 1, 3), hard=True),
                StandardGaussian(torch.zeros(8, 2)),
            ],
            [[1, 4, 2], [0, 3]],
        )
        z = joint.sample((5,))
        assert joint.support.check(z).all()
        assert torch.equal(z[..., [1, 4, 2]].sum(-1), torch.ones(5, 8))
        end_to_end = Joint(joint.parts)
        assert not end_to_end.support.check(z).any()
        with pytest.raises(NotImplementedError, match="no closed form"):
            vk.kl_divergence(joint, end_to_end, method="analytic")
        # With respect to what a density is goes by the places.
        with pytest.raises(TypeError, match="prior: expected a density of the same kind"):
            vk.kl_divergence(joint, end_to_end, method="monte_carlo")

    def test_places_that_do_not_fit_are_refused(self, refuses) -> None:
        parts = [StandardGaussian(torch.zeros(2)), StandardGaussian(torch.zeros(1))]
        for columns in ([[0, 1], [1]], [[0], [1, 2]], [[0, 1]], [[0, 1], [3]]):
            refuses(
                ValueError, lambda c=columns: Joint(parts, c), "columns", "0 to 2", str(columns)
            )
        joint = Joint([DiagonalGaussian(*part) for part in parts], [[0, 2], [1]])
        refuses(ValueError, lambda: joint.log_prob(torch.tensor([0.0, torch.nan, 0.0])), "[1] of x")
