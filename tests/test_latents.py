import copy
import math
import sys

import pytest
import torch
import torch.distributions as td
from gaussians import batches, dims, seeds, z_score
from hypothesis import given
from torch import Tensor

import vaekit as vk
from vaekit.distributions.detach import detached
from vaekit.latents import (
    BernoulliLatent,
    CategoricalLatent,
    DeterministicLatent,
    FullGaussianLatent,
    GaussianLatent,
    LaplaceLatent,
    Latent,
    PowerSphericalLatent,
    ProductLatent,
    VectorQuantizedLatent,
)

f64 = torch.float64

ALL = {
    "gaussian": lambda: GaussianLatent(3),
    "full": lambda: FullGaussianLatent(3),
    "laplace": lambda: LaplaceLatent(3),
    "deterministic": lambda: DeterministicLatent(3),
    "categorical": lambda: CategoricalLatent(2, 3),
    "categorical, hard": lambda: CategoricalLatent(2, 3, hard=True),
    "bernoulli": lambda: BernoulliLatent(3),
    "bernoulli, hard": lambda: BernoulliLatent(3, hard=True),
    "spherical": lambda: PowerSphericalLatent(3),
    "product": lambda: ProductLatent(GaussianLatent(2), CategoricalLatent(1, 3, hard=True)),
}
with_densities = {name: make for name, make in ALL.items() if name != "deterministic"}


def of(cases: dict) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("make", list(cases.values()), ids=list(cases))


def quantizing(*args, **kwargs) -> VectorQuantizedLatent:
    pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    return VectorQuantizedLatent(*args, **kwargs)


@of(ALL)
def test_the_default_prior_fits(make) -> None:
    latent = make()
    prior = latent.default_prior()
    assert (prior.batch_shape, prior.event_shape) == ((), (latent.dim,))
    assert prior.log_prob(prior.sample((5,))).shape == (5,)
    model = vk.VAE(
        vk.Encoder(vk.networks.mlp(4, [8], latent.num_params), latent),
        vk.Decoder(vk.networks.mlp(latent.dim, [8], 4), vk.likelihoods.Bernoulli(4)),
    )
    x = torch.rand(6, 4).round()
    for samples in (None, 3):
        out = model(x, samples)
        vk.reconstruction(out.likelihood, x).mean().backward()
        assert all(p.grad.isfinite().all() for p in model.encoder.parameters())


@of(with_densities)
def test_the_divergence_from_the_default_prior_is_exact_and_agrees_with_draws(make) -> None:
    latent = make()
    q, p = latent(torch.randn(latent.num_params, dtype=f64)), latent.default_prior()
    kl = vk.kl_divergence(q, p, method="analytic")
    assert kl > 0
    if not getattr(latent, "hard", True):  # a relaxed draw has another density
        latent.hard = True
        q, p = latent(torch.randn(latent.num_params, dtype=f64)), latent.default_prior()
        kl = vk.kl_divergence(q, p)
    z = q.sample((50_000,))
    assert abs(z_score(q.log_prob(z) - p.log_prob(z), kl)) < 5


@of(with_densities)
def test_the_divergence_is_zero_where_posterior_and_prior_are_the_same(make) -> None:
    latent = make()
    params = torch.zeros(latent.num_params, dtype=f64)
    if isinstance(latent, PowerSphericalLatent):
        params[0], params[-1] = 1.0, -1e4  # some direction, and no concentration
    prior = vk.priors.Fixed(latent.default_prior()).double()
    assert abs(vk.kl_divergence(latent(params), prior())) < 1e-10


@of(with_densities)
def test_a_detached_copy_has_the_same_density_and_no_gradient_to_the_parameters(make) -> None:
    latent = make()
    params = torch.randn(4, latent.num_params, requires_grad=True)
    q = latent(params)
    z = q.rsample().detach()
    assert q.log_prob(z).requires_grad
    assert not detached(q).log_prob(z).requires_grad
    assert torch.equal(detached(q).log_prob(z), q.log_prob(z))


@pytest.mark.parametrize(
    "make", [lambda **k: CategoricalLatent(2, 3, **k), lambda **k: BernoulliLatent(4, **k)]
)
def test_an_annealed_temperature_is_saved(make) -> None:
    annealed, other = make(temperature=0.9), make()
    annealed.temperature = 0.1
    state = annealed.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    other.load_state_dict(state)
    assert other.temperature == 0.1
    assert other.default_prior().temperature == 0.1


def test_autoencoders_encode_whole_data_sets() -> None:
    train, _ = vk.datasets.digits()
    x = train[:][0]
    for latent in (DeterministicLatent(4), quantizing(4, 8, 2)):
        model = vk.VAE(
            vk.Encoder(vk.networks.mlp(64, [8], 4), latent),
            vk.Decoder(vk.networks.mlp(4, [8], 64), vk.likelihoods.Gaussian((1, 8, 8))),
        ).eval()
        whole, batch = model.encode(train), model.encode(x)
        torch.testing.assert_close(whole.point, batch.point)
        for one, other in zip(whole, batch, strict=True):
            torch.testing.assert_close(one, other)
        assert len(list(whole)) == (1 if isinstance(latent, DeterministicLatent) else 3)


@of(ALL)
def test_bad_parameters_are_named(make, refuses) -> None:
    latent = make()
    n = latent.num_params
    bad = torch.ones(4, n)
    bad[1, n - 1] = math.nan
    name = "logvar" if isinstance(latent, GaussianLatent) else "params"
    refuses(ValueError, lambda: latent(bad), f"{name}: expected no NaN, got 1 NaN")
    refuses(ValueError, lambda: latent(torch.ones(4, n + 1)), "params", f"(..., {n})", f"{n + 1}")
    assert repr(latent)


@of(ALL)
def test_a_copy_and_a_round_trip_draw_the_same(make) -> None:
    latent = make()
    other = make()
    other.load_state_dict(latent.state_dict())
    params = torch.randn(4, latent.num_params)
    draws = []
    for each in (latent, copy.deepcopy(latent), other):
        torch.manual_seed(0)
        draws.append(each(params).rsample((2,)))
    assert draws[0].shape == (2, 4, latent.dim)
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2])


@of(ALL)
def test_extreme_parameters_draw_finite_values(make) -> None:
    latent = make()
    for value in (-1e4, 1e4):
        params = torch.full((50, latent.num_params), value, requires_grad=True)
        q = latent(params)
        z = q.rsample()
        assert z.isfinite().all()
        assert torch.autograd.grad(z.sum(), params)[0].isfinite().all()
        if not isinstance(latent, DeterministicLatent):
            assert vk.kl_divergence(q, latent.default_prior()).isfinite().all()


@of(ALL)
def test_autocast_to_bfloat16_stays_finite(make) -> None:
    latent = make()
    net = torch.nn.Linear(5, latent.num_params)
    with torch.autocast("cpu", torch.bfloat16):
        q = latent(net(torch.randn(500, 5)))
        loss = q.rsample().sum()
        if not isinstance(latent, DeterministicLatent):
            z = q.rsample()
            loss = loss + q.log_prob(z).sum()
            loss = loss + vk.kl_divergence(q, latent.default_prior()).sum()
    loss.backward()
    assert loss.isfinite()
    assert net.weight.grad.isfinite().all()


class TestFullGaussian:
    @given(seed=seeds, batch=batches, dim=dims)
    def test_without_correlations_it_is_the_gaussian_latent(
        self, seed: int, batch: int, dim: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        params = torch.randn(batch, 2 * dim, generator=generator, dtype=f64)
        latent = FullGaussianLatent(dim)
        below = params.new_zeros(batch, latent.num_params - 2 * dim)
        q, p = latent(torch.cat([params, below], -1)), GaussianLatent(dim)(params)
        z = torch.randn(batch, dim, dtype=f64)
        for mine, other in (
            (q.log_prob(z), p.log_prob(z)),
            (q.mean, p.mean),
            (q.variance, p.variance),
            (q.entropy(), p.entropy()),
            (vk.kl_divergence(q, method="analytic"), vk.kl_divergence(p)),
        ):
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)

    def test_the_covariance_is_that_of_the_cholesky_factor(self) -> None:
        params = torch.tensor([0.0, 0, 0, 0, 0, 2 * math.log(2), 0.1, 0.2, 0.3], dtype=f64)
        factor = torch.tensor([[1, 0, 0], [0.1, 1, 0], [0.2, 0.3, 2]], dtype=f64)
        covariance = FullGaussianLatent(3)(params).covariance_matrix
        torch.testing.assert_close(covariance, factor @ factor.T)

    def test_every_parameter_has_a_gradient(self) -> None:
        params = torch.randn(4, 9, dtype=f64, requires_grad=True)
        q = FullGaussianLatent(3)(params)
        for loss in (q.rsample().square().sum(), vk.kl_divergence(q).sum()):
            (gradient,) = torch.autograd.grad(loss, params, retain_graph=True)
            assert (gradient != 0).all()


class TestLaplace:
    @given(seed=seeds, batch=batches, dim=dims)
    def test_it_is_torchs(self, seed: int, batch: int, dim: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        mu, log_scale, z = torch.randn(3, batch, dim, generator=generator, dtype=f64)
        q = LaplaceLatent(dim)(torch.cat([mu, log_scale], -1))
        p = td.Laplace(mu, log_scale.exp())
        torch.testing.assert_close(q.log_prob(z), p.log_prob(z).sum(-1), rtol=1e-10, atol=1e-10)
        by_dimension = vk.distributions.log_prob_by_dimension(q, z)
        torch.testing.assert_close(by_dimension, p.log_prob(z), rtol=1e-10, atol=1e-10)


def test_a_temperature_that_is_assigned_is_looked_at(refuses) -> None:
    for latent in (CategoricalLatent(1, 3), BernoulliLatent(3)):
        latent.temperature = 0.1
        assert latent(torch.zeros(3)).temperature == 0.1
        assert "0.1" in repr(latent)
        latent.temperature = 0.0
        refuses(ValueError, lambda latent=latent: latent(torch.zeros(3)), "temperature", "above 0")


def test_bad_arguments(refuses) -> None:
    for make in (GaussianLatent, FullGaussianLatent, LaplaceLatent, DeterministicLatent):
        refuses(ValueError, lambda make=make: make(0), "dim", "above 0", "0")
    refuses(ValueError, lambda: BernoulliLatent(0), "dim", "above 0", "0")
    refuses(ValueError, lambda: BernoulliLatent(3, 0.0), "temperature", "above 0", "0.0")
    refuses(ValueError, lambda: CategoricalLatent(0, 3), "variables", "above 0", "0")
    refuses(ValueError, lambda: CategoricalLatent(2, 1), "classes", "above 1", "1")
    refuses(ValueError, lambda: CategoricalLatent(2, 3, math.inf), "temperature", "finite", "inf")
    refuses(ValueError, lambda: PowerSphericalLatent(1), "dim", "above 1", "1")
    zeros = torch.zeros(2, 4)
    refuses(ValueError, lambda: PowerSphericalLatent(3)(zeros), "direction", "length 1", "0")
    refuses(ValueError, ProductLatent, "latents", "at least one")
    refuses(TypeError, lambda: ProductLatent(3), "latents", "3")
    refuses(ValueError, lambda: VectorQuantizedLatent(6, 8, variables=4), "variables", "6", "4")
    refuses(ValueError, lambda: VectorQuantizedLatent(6, 0), "codebook", "above 0", "0")


class TestProduct:
    def test_parameters_and_draws_are_divided_in_order(self) -> None:
        latent = ProductLatent(GaussianLatent(2), BernoulliLatent(3, hard=True))
        params = torch.randn(4, 7)
        torch.manual_seed(0)
        z = latent(params).rsample()
        torch.manual_seed(0)
        parts = [GaussianLatent(2)(params[:, :4]), BernoulliLatent(3, hard=True)(params[:, 4:])]
        assert torch.equal(z, torch.cat([part.rsample() for part in parts], -1))

    def test_products_nest(self) -> None:
        inner = ProductLatent(GaussianLatent(1), PowerSphericalLatent(2))
        latent = ProductLatent(inner, LaplaceLatent(2))
        assert (latent.dim, latent.num_params) == (5, 9)
        q = latent(torch.randn(4, 9))
        assert vk.kl_divergence(q, latent.default_prior(), method="analytic").shape == (4,)


class TestVectorQuantized:
    def test_the_posterior_is_at_the_nearest_codes(self) -> None:
        latent = quantizing(6, 8, variables=2).eval()
        params = torch.randn(5, 6)
        q = latent(params)
        codes = latent.quantizer.codebook
        sites = params.unflatten(-1, (3, 2)).mT  # maps of 3 channels and 2 sites
        nearest = torch.cdist(sites, codes).argmin(-1)
        assert torch.equal(q.indices, nearest)
        torch.testing.assert_close(q.mean.unflatten(-1, (3, 2)).mT, codes[nearest])
        distance = (sites - codes[nearest]).square().sum((-2, -1))
        torch.testing.assert_close(q.commitment, distance)
        with pytest.raises(TypeError, match="density"):
            vk.kl_divergence(q)

    @pytest.mark.parametrize("training", [True, False])
    def test_the_gradient_passes_straight_through(self, training: bool) -> None:
        latent = quantizing(6, 8, variables=2).train(training)
        params = torch.randn(5, 6, requires_grad=True)
        q, weight = latent(params), torch.randn(5, 6)
        (gradient,) = torch.autograd.grad((q.rsample() * weight).sum(), params, retain_graph=True)
        torch.testing.assert_close(gradient, weight)
        (gradient,) = torch.autograd.grad(q.commitment.sum(), params)
        torch.testing.assert_close(gradient, 2 * (params - q.mean).detach())

    def test_b6_the_commitment_does_not_depend_on_the_batch(self) -> None:
        latent = quantizing(6, 8).eval()
        params = torch.randn(512, 6)
        whole = latent(params).commitment
        for size in (1, 8, 64):
            assert latent(params[:size]).commitment.shape == (size,)
            torch.testing.assert_close(latent(params[:size]).commitment, whole[:size])
        # The faulty form is summed over the batch beside a term averaged over it.
        faulty = [latent(params[:n]).commitment.sum() for n in (8, 64)]
        assert faulty[1] > 4 * faulty[0]

    def test_the_codes_follow_the_parameters_in_training_alone(self) -> None:
        latent = quantizing(2, 4)
        points = torch.randn(64, 2) + 5
        before = latent.quantizer.codebook.clone()
        latent.eval()(points)
        assert torch.equal(latent.quantizer.codebook, before)
        first = latent(points).commitment.mean()
        latent.train()
        for _ in range(500):
            latent(points)
        assert latent.eval()(points).commitment.mean() < 0.1 * first

    def test_another_quantizer_of_the_library_and_another_dtype(self) -> None:
        library = pytest.importorskip("vector_quantize_pytorch")
        latent = VectorQuantizedLatent(4, library.FSQ(levels=[5, 5]), variables=2)
        q = latent(torch.randn(3, 4, requires_grad=True))
        assert q.indices.shape == (3, 2)
        assert q.rsample().requires_grad
        assert quantizing(6, 8)(torch.randn(3, 6, dtype=f64)).mean.dtype == f64
        assert quantizing(6, 8)(torch.randn(2, 3, 6)).indices.shape == (2, 3, 1)

    def test_without_the_library_it_says_what_to_install(self, refuses, monkeypatch) -> None:
        monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
        refuses(ImportError, lambda: VectorQuantizedLatent(6, 8), 'pip install "vaekit[vq]"')


def test_a_user_may_write_a_latent_of_his_own() -> None:
    class Fixed(Latent):
        def forward(self, params: Tensor) -> td.Distribution:
            return vk.distributions.DiagonalGaussian(params, torch.zeros_like(params))

    latent = Fixed(3, 3)
    assert isinstance(latent.default_prior(), vk.distributions.StandardGaussian)
