import copy
import math

import numpy as np
import pytest
import torch
from models import elbo, tiny
from test_conformance import LATENTS, POINTS
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import vaekit as vk
from vaekit.distributions import DiagonalGaussian


@pytest.fixture
def x(device: torch.device) -> torch.Tensor:
    return torch.rand(8, 1, 8, 8, device=device).round()


class TestWholeNumbers:
    """Counts and classes, in the dtypes that they come in."""

    LIKELIHOODS = (
        vk.likelihoods.Poisson(4),
        vk.likelihoods.NegativeBinomial(4),
        vk.likelihoods.Categorical(4, 9),
    )

    def model(self, likelihood: vk.likelihoods.Likelihood, net: nn.Module | None = None) -> vk.VAE:
        torch.manual_seed(0)
        latent = vk.GaussianLatent(2)
        net = net or vk.networks.mlp(4, [8], latent.num_params)
        decoder = vk.Decoder(vk.networks.mlp(2, [8], likelihood.num_params), likelihood)
        return vk.VAE(vk.Encoder(net, latent), decoder)

    @pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
    def test_they_train_as_floats_do(self, likelihood) -> None:
        counts = torch.randint(9, (32, 4))
        losses = [
            vk.fit(self.model(likelihood), elbo(), data, steps=2, seed=0, progress=False).train
            for data in (
                counts.float(),
                counts,
                counts.int().numpy(),
                vk.datasets.from_tensors(counts),
                vk.datasets.from_tensors(counts.to(torch.uint8), scale=1),
            )
        ]
        for loss in losses[1:]:
            assert loss == losses[0]

    @pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
    def test_bytes_that_were_scaled_are_told_from_other_faults(self, likelihood, refuses) -> None:
        model, counts = self.model(likelihood), torch.randint(9, (32, 4))

        def fit(data) -> vk.training.History:
            return vk.fit(model, elbo(), data, steps=1, progress=False)

        refuses(ValueError, lambda: fit(counts.to(torch.uint8)), "whole numbers", "scale=1")
        error = refuses(ValueError, lambda: fit(counts + 0.3), "whole numbers")
        assert "scale=1" not in str(error)

    def test_a_network_that_takes_none_is_named(self, refuses) -> None:
        model = self.model(vk.likelihoods.Poisson(4), nn.Linear(4, 4))
        counts = torch.randint(9, (3, 4))
        refuses(TypeError, lambda: model(counts), "x: expected", "int64", "Linear", "x.float()")
        with pytest.raises(RuntimeError, match="shape"):  # of floats the network's own errors
            model(torch.zeros(3, 5))

    def test_a_network_of_embeddings_is_given_the_numbers(self) -> None:
        net = nn.Sequential(nn.Embedding(9, 1), nn.Flatten(), nn.Linear(4, 4))
        model = self.model(vk.likelihoods.Categorical(4, 9), net)
        vk.fit(model, elbo(), torch.randint(9, (32, 4)), steps=1, progress=False)


class TestShapes:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("shape", [(7,), (5, 3), (1, 8, 8), (3, 9, 11), (2, 4, 4, 4)])
    def test_any_event_on_any_device_and_dtype(self, shape, dtype, device) -> None:
        model = tiny(shape, dim=3).to(device, dtype)
        x = torch.rand(6, *shape, device=device, dtype=dtype).round()
        mu, logvar = model.encode(x)
        out = model(x)
        for tensor, expected in (
            (mu, (6, 3)),
            (logvar, (6, 3)),
            (model.reparameterize(mu, logvar), (6, 3)),
            (model.encode_to_latent(x), (6, 3)),
            (model.encode_to_latent(x, samples=5), (5, 6, 3)),
            (model.decode(mu), (6, *shape)),
            (model.decode(mu.expand(2, 5, 6, 3)), (2, 5, 6, *shape)),
            (out.z, (6, 3)),
            (out.x_hat, (6, *shape)),
            (model(x, samples=5).z, (5, 6, 3)),
            (model(x, samples=5).x_hat, (5, 6, *shape)),
            (model.reconstruct(x), (6, *shape)),
            (model.sample(4), (4, *shape)),
        ):
            assert tensor.shape == expected
            assert tensor.dtype == dtype
            assert tensor.device.type == device.type

    def test_convolutions(self, device) -> None:
        latent = vk.GaussianLatent(4)
        model = vk.VAE(
            vk.Encoder(vk.networks.conv((3, 17, 8), [8, 16], latent.num_params), latent),
            vk.Decoder(
                vk.networks.conv_transpose(4, [16, 8], (3, 17, 8)),
                vk.likelihoods.Gaussian((3, 17, 8)),
            ),
        ).to(device)
        x = torch.randn(6, 3, 17, 8, device=device)
        assert model(x, samples=2).x_hat.shape == (2, 6, 3, 17, 8)

    def test_any_module_is_a_network(self) -> None:
        class TwoHeads(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.mu, self.logvar = nn.Linear(5, 2), nn.Linear(5, 2)

            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                return self.mu(x), self.logvar(x)

        net = TwoHeads()
        model = vk.VAE(
            vk.Encoder(net, vk.GaussianLatent(2)),
            vk.Decoder(nn.Sequential(nn.Linear(2, 5)), vk.likelihoods.Gaussian(5)),
        )
        x = torch.randn(6, 5)
        mu, logvar = model.encode(x)
        assert torch.equal(mu, net.mu(x))
        assert torch.equal(logvar, net.logvar(x))
        assert model(x).x_hat.shape == (6, 5)

    def test_a_subclassed_encoder(self) -> None:
        class Counts(vk.Encoder):
            def forward(self, x: torch.Tensor) -> DiagonalGaussian:
                return self.latent(self.net(torch.log1p(x.float())))

        latent = vk.GaussianLatent(2)
        encoder = Counts(vk.networks.mlp(5, [8], latent.num_params), latent)
        model = vk.VAE(encoder, vk.Decoder(vk.networks.mlp(2, [8], 5), vk.likelihoods.Gaussian(5)))
        x = torch.randint(0, 9, (6, 5))
        assert model(x).z.shape == (6, 2)
        vk.fit(model, elbo(), vk.datasets.from_tensors(x), steps=2, progress=False)


class TestMeaning:
    def test_forward_is_encode_draw_decode(self, x, device) -> None:
        model = tiny().to(device)
        out = model(x)
        posterior = model.encode(x)
        assert torch.equal(out.posterior.mu, posterior.mu)
        torch.testing.assert_close(out.x_hat, model.decode(out.z))
        torch.testing.assert_close(model.reconstruct(x), model.decode(posterior.mean))
        assert torch.equal(model.reconstruct(x), model.reconstruct(x))

    def test_the_mean_of_a_bernoulli_is_the_sigmoid(self, x) -> None:
        model = tiny()
        z = torch.randn(4, 2)
        logits = model.decoder.net(z).reshape(4, 1, 8, 8)
        torch.testing.assert_close(model.decode(z), logits.sigmoid())

    def test_samples_follow_the_generator_and_the_temperature(self, device) -> None:
        model = tiny().to(device)

        def sample(seed: int, **options: float) -> torch.Tensor:
            generator = torch.Generator(device).manual_seed(seed)
            return model.sample(5, generator=generator, **options)

        assert torch.equal(sample(0), sample(0))
        assert not torch.equal(sample(0), sample(1))
        z = torch.randn(5, 2, generator=torch.Generator(device).manual_seed(0), device=device)
        torch.testing.assert_close(sample(0), model.decode(z))
        torch.testing.assert_close(sample(0, temperature=0.5), model.decode(0.5 * z))
        assert not model.sample(1).requires_grad

    def test_draws_have_the_noise_that_means_lack(self, device) -> None:
        model = tiny(likelihood=vk.likelihoods.Gaussian((1, 8, 8), sigma=3.0)).to(device)

        def sample(n: int, draw: bool) -> torch.Tensor:
            generator = torch.Generator(device).manual_seed(0)
            return model.sample(n, generator=generator, draw=draw)

        means, draws = sample(500, draw=False), sample(500, draw=True)
        assert torch.equal(sample(500, draw=True), draws)
        noise = (draws - means).std().item()  # of 32,000 values, of one z each
        assert abs(noise - 3) < 4 * 3 / (2 * draws.numel()) ** 0.5
        ones = tiny().to(device).sample(5, draw=True)
        assert set(ones.unique().tolist()) == {0, 1}

    def test_a_single_element_is_told_how_to_be_a_batch(self, refuses) -> None:
        one, likelihood = torch.rand(3, 8, 8), vk.likelihoods.Gaussian((3, 8, 8))
        for name in ("perceptrons", "convolutions"):
            model, _ = vk.recipes.vae(likelihood, 2, nets=getattr(vk.recipes, name)())
            for ask in (model.encode, model.reconstruct, model):
                refuses(ValueError, lambda ask=ask: ask(one), ": expected", "x[None]")

    def test_gradients_reach_every_parameter(self, x, device) -> None:
        model = tiny(likelihood=vk.likelihoods.Gaussian((1, 8, 8), learn_sigma=True)).to(device)
        elbo()(model(x), x).total.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name

    def test_batches_do_not_mix(self, x) -> None:
        model = tiny().double()
        x = x.double()
        whole = model.encode(x)
        for row in range(len(x)):
            alone = model.encode(x[row : row + 1])
            torch.testing.assert_close(alone.mu, whole.mu[row : row + 1], rtol=1e-12, atol=1e-12)

    def test_another_prior(self, x) -> None:
        class Shifted(nn.Module):
            dim = 2

            def forward(self) -> DiagonalGaussian:
                return DiagonalGaussian(torch.full((2,), 100.0), torch.zeros(2))

        model = tiny()
        model = vk.VAE(model.encoder, model.decoder, Shifted())
        assert torch.equal(model(x).prior.mean, torch.full((2,), 100.0))
        assert not torch.equal(model.sample(3), tiny().sample(3))

    def test_repr_state_dict_and_copies(self, x) -> None:
        model = tiny()
        for part in ("GaussianLatent(dim=2)", "Bernoulli(shape=(1, 8, 8))", "StandardNormal(dim=2"):
            assert part in repr(model)
        other = tiny()
        for parameter in other.parameters():
            nn.init.zeros_(parameter)
        other.load_state_dict(model.state_dict())
        assert torch.equal(other.reconstruct(x), model.reconstruct(x))
        assert torch.equal(copy.deepcopy(model).reconstruct(x), model.reconstruct(x))


class TestData:
    def test_a_batch_in_every_form(self, x) -> None:
        model = tiny()
        y = torch.arange(8)
        expected = model.encode(x).mu
        for form in (x, (x, y), [x, y], {"x": x, "y": y}, (x.numpy(), y.numpy())):
            torch.testing.assert_close(model.encode(form).mu, expected)
            assert model(form).z.shape == (8, 2)

    def test_a_whole_data_set_in_every_form(self) -> None:
        model = tiny()
        data = torch.rand(700, 1, 8, 8).round()
        expected = model.encode(data)
        loader = DataLoader(TensorDataset(data, torch.arange(700)), 64)
        for form in (
            vk.datasets.from_tensors(data),
            TensorDataset(data),
            loader,
            list(loader),
            ((part, 0) for part in data.split(100)),
        ):
            posterior = model.encode(form)
            torch.testing.assert_close(posterior.mu, expected.mu)
            torch.testing.assert_close(posterior.logvar, expected.logvar)
            assert not posterior.mu.requires_grad
        torch.testing.assert_close(
            model.reconstruct(vk.datasets.from_tensors(data)), model.reconstruct(data)
        )
        assert model.encode_to_latent(vk.datasets.from_tensors(data), samples=3).shape == (
            3,
            700,
            2,
        )


class TestErrors:
    def test_sizes_that_do_not_fit_are_found_at_once(self, refuses) -> None:
        latent, mlp = vk.GaussianLatent(2), vk.networks.mlp
        refuses(ValueError, lambda: vk.Encoder(mlp(5, [], 3), latent), "net", "4 outputs", "3")
        bernoulli = vk.likelihoods.Bernoulli(5)
        refuses(ValueError, lambda: vk.Decoder(mlp(2, [], 4), bernoulli), "net", "5 outputs", "4")
        encoder = vk.Encoder(mlp(5, [], 4), latent)
        decoder = vk.Decoder(mlp(3, [], 5), bernoulli)
        refuses(ValueError, lambda: vk.VAE(encoder, decoder), "decoder", "2 latent", "3")
        decoder = vk.Decoder(mlp(2, [], 5), bernoulli)
        prior = vk.priors.StandardNormal(7)
        refuses(ValueError, lambda: vk.VAE(encoder, decoder, prior), "prior", "2 latent", "7")
        refuses(ValueError, lambda: vk.GaussianLatent(0), "dim", "above 0", "0")
        refuses(ValueError, lambda: vk.GaussianLatent(2.5), "dim", "whole number", "2.5")

    def test_of_a_foreign_network_at_the_first_call(self, refuses) -> None:
        encoder = vk.Encoder(nn.Linear(5, 3), vk.GaussianLatent(2))
        refuses(ValueError, lambda: encoder(torch.randn(6, 5)), "net", "(batch, 4)", "(6, 3)")
        decoder = vk.Decoder(nn.Linear(2, 4), vk.likelihoods.Bernoulli((1, 5)))
        refuses(ValueError, lambda: decoder(torch.randn(6, 2)), "params", "(..., 5)", "(6, 4)")

    def test_shapes(self, refuses) -> None:
        model = tiny()
        wrong = torch.zeros(4, 1, 9, 9)
        refuses(ValueError, lambda: model(wrong), "x", "64 values", "(4, 1, 9, 9)")
        refuses(ValueError, lambda: model.decode(torch.zeros(4, 3)), "z", "(..., 2)", "(4, 3)")
        params = torch.zeros(4, 3)
        refuses(ValueError, lambda: model.encoder.latent(params), "params", "(..., 4)", "(4, 3)")
        flat = torch.zeros(4, 64)
        out = model(flat)  # the encoder flattens anyway
        call = lambda: vk.reconstruction(out.likelihood, flat)  # noqa: E731
        refuses(ValueError, call, "x", "(..., 1, 8, 8)", "(4, 64)")

    def test_types(self, refuses) -> None:
        model = tiny()
        bytes_ = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
        refuses(TypeError, lambda: model(bytes_), "x", "floating-point", "uint8")
        data = vk.datasets.digits()[0]
        refuses(TypeError, lambda: model(data), "x", "a batch", "ArrayDataset")
        refuses(TypeError, lambda: model.encode(3), "data", "Dataset", "int")
        refuses(ValueError, lambda: model.encode({"image": bytes_}), "batch", "'x'", "image")

    def test_counts(self, refuses) -> None:
        model, x = tiny(), torch.zeros(4, 1, 8, 8)
        refuses(ValueError, lambda: model.sample(0), "n", "above 0", "0")
        refuses(ValueError, lambda: model.sample(3, temperature=0), "temperature", "above 0", "0")
        refuses(ValueError, lambda: model(x, samples=0), "samples", "above 0", "0")
        refuses(ValueError, lambda: model.encode_to_latent(x, samples=-1), "samples", "-1")

    def test_nan_is_reported_with_the_name_of_what_held_it(self, refuses) -> None:
        model, x = tiny(), torch.zeros(4, 1, 8, 8)
        x[1, 0, 2, 3] = math.nan
        refuses(ValueError, lambda: model(x), "x", "no NaN", "1 NaN among 256")
        z = torch.tensor([[0.0, math.nan]])
        refuses(ValueError, lambda: model.decode(z), "z", "no NaN")
        infinite = torch.zeros(4, 1, 8, 8)
        infinite[0, 0, 0, 0] = math.inf
        refuses(ValueError, lambda: model(infinite), "x", "finite", "1 infinite among 256")
        nn.init.constant_(model.encoder.net.layers[-1].bias, math.nan)
        refuses(ValueError, lambda: model(torch.zeros(4, 1, 8, 8)), "mu", "no NaN")

    def test_a_prior_that_cannot_be_tempered(self, refuses) -> None:
        class Laplace(nn.Module):
            def forward(self) -> torch.distributions.Distribution:
                base = torch.distributions.Laplace(torch.zeros(2), 1.0)
                return torch.distributions.Independent(base, 1)

        model = tiny()
        model = vk.VAE(model.encoder, model.decoder, Laplace())
        assert model.sample(3).shape == (3, 1, 8, 8)
        refuses(TypeError, lambda: model.sample(3, temperature=0.5), "temperature")
        seeds = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
        state = torch.get_rng_state()
        one, same, other = (model.sample(3, generator=generator) for generator in seeds)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
        assert not torch.equal(one, model.sample(3, generator=seeds[0]))  # it went on


@pytest.mark.parametrize("sigma", [0.1, 1.0, 3])
@pytest.mark.parametrize("learn", [False, True])
def test_gaussian_likelihood(sigma: float, learn: bool) -> None:
    likelihood = vk.likelihoods.Gaussian((2, 3), sigma, learn_sigma=learn).double()
    mean, x = torch.randn(2, 5, 2, 3, dtype=torch.float64)
    p = likelihood(mean.flatten(1))
    exact = torch.distributions.Normal(mean, sigma).log_prob(x).sum((-1, -2))
    # A learned sigma starts from a float32.
    tolerance = 1e-5 if learn else 1e-10
    torch.testing.assert_close(p.log_prob(x), exact, rtol=tolerance, atol=tolerance)
    assert torch.equal(p.mean, mean)
    assert len(list(likelihood.parameters())) == learn
    assert math.isclose(likelihood.sigma, sigma, rel_tol=1e-6)
    assert f"sigma={sigma:g}" in repr(likelihood)


def test_likelihoods_bad_input(refuses) -> None:
    refuses(ValueError, lambda: vk.likelihoods.Gaussian(5, sigma=0), "sigma", "above 0", "0")
    refuses(ValueError, lambda: vk.likelihoods.Gaussian(5, sigma=math.nan), "sigma", "nan")
    refuses(ValueError, lambda: vk.likelihoods.Bernoulli(()), "shape", "one dimension")
    refuses(ValueError, lambda: vk.likelihoods.Bernoulli((1, 0)), "shape", "above 0", "0")
    assert np.isclose(vk.likelihoods.Bernoulli((1, 4)).num_params, 4)


def test_what_looks_like_two_things_is_refused(refuses) -> None:
    model, x = tiny(), torch.zeros(4, 1, 8, 8)
    refuses(ValueError, lambda: model.encode([x, x]), "x", "tuple", "iter(x)")
    assert model.encode(iter([x, x])).mu.shape == (8, 2)
    refuses(TypeError, lambda: vk.VAE(model.encoder.net, model.decoder), "encoder", "Network")
    refuses(TypeError, lambda: vk.Encoder(model.encoder.net, 2), "latent", "2")
    deep = torch.zeros(4, 5, 64)
    refuses(ValueError, lambda: model(deep), "net", "(batch, 4)", "(4, 5, 4)")
    assert model.encode(x.numpy().astype("float64")).mu.dtype == torch.float32


def test_parts_that_return_something_else_are_named(refuses) -> None:
    class Pair(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return z, z

    likelihood = vk.likelihoods.Bernoulli(2)
    refuses(TypeError, lambda: vk.Decoder(Pair(), likelihood)(torch.zeros(3, 2)), "net", "tuple")

    class Parameters(vk.Encoder):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

    encoder = Parameters(vk.networks.mlp(2, [], 4), vk.GaussianLatent(2))
    model = vk.VAE(encoder, vk.Decoder(vk.networks.mlp(2, [], 2), likelihood))
    refuses(TypeError, lambda: model(torch.zeros(3, 2)), "encoder", "self.latent", "Tensor")


def _hierarchy(ladder: bool) -> nn.Module:
    mlp, sizes = vk.networks.mlp, [2, 1]
    if ladder:
        return vk.hierarchy.Ladder(vk.hierarchy.TopDown(sizes, [mlp(1, [5], 4)]))
    return vk.hierarchy.BottomUp(sizes, [mlp(2, [5], 2)])


class TestWholeDataSets:
    LATENTS = (
        LATENTS
        | POINTS
        | {
            "BottomUp": lambda: _hierarchy(False),
            "Ladder": lambda: _hierarchy(True),
        }
    )
    latents = pytest.mark.parametrize("make", LATENTS.values(), ids=LATENTS)

    @latents
    def test_every_latent_encodes_one_as_batch_by_batch(self, make, device) -> None:
        latent = make()
        net = vk.networks.mlp(8, [5], latent.num_params)
        likelihood = vk.likelihoods.Bernoulli(8)
        decoder = vk.Decoder(vk.networks.mlp(latent.dim, [5], 8), likelihood)
        model = vk.VAE(vk.Encoder(net, latent), decoder).to(device).eval()
        x = torch.rand(1100, 8, device=device).round()
        with torch.no_grad():
            whole = model.encode(vk.datasets.from_tensors(x))
            parts = [model.encode(batch) for batch in x.split(512)]
        assert (whole.batch_shape, whole.event_shape) == ((1100,), (latent.dim,))
        assert type(whole) is type(parts[0])
        assert not whole.mean.requires_grad
        torch.testing.assert_close(whole.mean, torch.cat([part.mean for part in parts]))
        z = whole.sample()
        if not isinstance(whole, vk.distributions.PointMass):
            pairs = zip(parts, z.split(512), strict=True)
            each = torch.cat([part.log_prob(piece) for part, piece in pairs])
            torch.testing.assert_close(whole.log_prob(z), each, rtol=1e-4, atol=1e-4)

    def test_encoders_of_ones_own(self, refuses) -> None:
        class Logarithmic(vk.Encoder):
            def forward(self, x: torch.Tensor, context: torch.Tensor | None = None):
                return super().forward(x.log1p(), context)

        class Odd(vk.Encoder):
            def forward(self, x: torch.Tensor):
                self.latent(self.net(x) + 1)
                return torch.distributions.Independent(torch.distributions.Laplace(x, 1.0), 1)

        def model(encoder: type[vk.Encoder]) -> vk.VAE:
            decoder = vk.Decoder(vk.networks.mlp(3, [], 3), vk.likelihoods.Gaussian(3))
            latent = vk.latents.LaplaceLatent(3)
            return vk.VAE(encoder(vk.networks.mlp(3, [], 6), latent), decoder)

        x, own = torch.rand(700, 3), model(Logarithmic)
        torch.testing.assert_close(own.encode(iter(x.split(100))).mean, own.encode(x).mean)
        assert not own.encoder.latent._forward_hooks
        # Of what its latent did not return, nobody knows how to put it together.
        data = vk.datasets.from_tensors(x)
        refuses(TypeError, lambda: model(Odd).encode(data), "encoder: expected a post", "Laplace")


class TestContext:
    def model(self, **parts) -> vk.VAE:
        latent, Conditioned = vk.GaussianLatent(2), vk.networks.Conditioned
        options = {
            "encoder": Conditioned(vk.networks.mlp(64 + 3, [8], 4), 3),
            "decoder": Conditioned(vk.networks.mlp(2 + 3, [8], 64), 3),
        } | parts
        likelihood = vk.likelihoods.Bernoulli((1, 8, 8))
        return vk.VAE(
            vk.Encoder(options["encoder"], latent), vk.Decoder(options["decoder"], likelihood)
        )

    def test_each_part_is_given_it(self) -> None:
        model, x, y = self.model(), torch.rand(6, 1, 8, 8).round(), torch.arange(6) % 3
        assert model.takes_context
        other = (y + 1) % 3
        assert not torch.equal(model.encode(x, y).mean, model.encode(x, other).mean)
        z = torch.randn(6, 2)
        assert not torch.equal(model.decode(z, y), model.decode(z, other))
        out = model(x, samples=4, context=y)
        assert out.z.shape == (4, 6, 2)
        for k in range(4):  # every draw is decoded under its own element's context
            torch.testing.assert_close(out.x_hat[k], model.decode(out.z[k], y))

    def test_labels_and_attributes_are_one(self) -> None:
        model, x, y = self.model(), torch.rand(6, 1, 8, 8), torch.arange(6) % 3
        attributes = torch.nn.functional.one_hot(y).float()
        assert torch.equal(model.encode(x, y).mean, model.encode(x, attributes).mean)

    def test_batches_and_data_sets_bring_it(self) -> None:
        model, x, y = self.model().eval(), torch.rand(6, 1, 8, 8).round(), torch.arange(6) % 3
        data = vk.datasets.from_tensors(x, y)
        expected = model.reconstruct(x, y)
        torch.testing.assert_close(model.reconstruct((x, y)), expected)
        torch.testing.assert_close(model.reconstruct(data), expected)
        torch.testing.assert_close(model.encode(data).mean, model.encode(x, y).mean)
        assert model.encode_to_latent(data, samples=2).shape == (2, 6, 2)
        assert model.sample(6, context=y).shape == x.shape

    def test_a_decoder_alone_may_take_it(self) -> None:
        model = self.model(encoder=vk.networks.mlp(64, [8], 4))
        assert model(torch.rand(6, 1, 8, 8), context=torch.arange(6) % 3).x_hat.shape[0] == 6

    def test_what_does_not_fit_is_named(self, refuses) -> None:
        model, x = self.model(), torch.rand(6, 1, 8, 8)
        refuses(TypeError, lambda: model(x), "context", "each element", "None")
        refuses(ValueError, lambda: model(x, context=torch.full((6,), 3)), "context", "0 to 2")
        refuses(ValueError, lambda: model(x, context=torch.zeros(6, 2)), "context", "(6, 3)")
        refuses(ValueError, lambda: model.sample(5, context=torch.zeros(6).long()), "context", "5")
        refuses(TypeError, lambda: tiny()(x, context=torch.zeros(6)), "context", "Conditioned")

    def test_it_comes_in_many_forms(self) -> None:
        model, x = self.model().eval(), torch.rand(4, 1, 8, 8).round()
        y, z, generator = torch.tensor([2, 0, 1, 2]), torch.randn(4, 2), torch.Generator()
        attributes = torch.nn.functional.one_hot(y)
        for same in (y.tolist(), y.numpy(), attributes, attributes.double().numpy()):
            assert torch.equal(model.encode(x, same).mean, model.encode(x, y).mean)
            assert torch.equal(model.encode((x, same)).mean, model.encode(x, y).mean)
            assert torch.equal(model.decode(z, same), model.decode(z, y))
            assert torch.equal(model.reconstruct(x, same), model.reconstruct(x, y))
            assert model(x, samples=3, context=same).z.shape == (3, 4, 2)
            assert model.encode_to_latent(x, context=same).shape == (4, 2)
            drawn = [model.sample(4, 1.0, generator.manual_seed(0), each) for each in (same, y)]
            assert torch.equal(*drawn)

    @pytest.mark.parametrize("context", [7, {"y": [1, 2]}, "ab"])
    def test_other_forms_are_refused(self, context, refuses) -> None:
        model, x = self.model(), torch.rand(4, 1, 8, 8)
        words = "context: expected a tensor, an array or a sequence", repr(context)
        for call in (
            lambda: model.encode(x, context),
            lambda: model.decode(torch.rand(4, 2), context),
            lambda: model.sample(4, context=context),
            lambda: model(x, context=context),
            lambda: model.reconstruct(x, context),
        ):
            refuses(TypeError, call, *words)
        data = vk.datasets.from_tensors(x)
        refuses(TypeError, lambda: model.encode(data, context), "context: expected none for a data")

    def test_a_conditional_prior_takes_labels(self) -> None:
        model = self.model()
        prior = vk.priors.ConditionalPrior(vk.networks.mlp(3, [8], 4), 2)
        model = vk.VAE(model.encoder, model.decoder, prior)
        data = vk.datasets.from_tensors(torch.rand(8, 1, 8, 8).round(), torch.arange(8) % 3)
        vk.fit(model, elbo(), data, steps=2, progress=False)
        assert model.sample(2, context=[0, 2]).shape == (2, 1, 8, 8)

    def test_pseudo_inputs_have_none(self, refuses) -> None:
        encoder, x = self.model().encoder, torch.rand(4, 1, 8, 8)
        words = "encoder: expected one that takes no context", "ConditionalPrior"
        refuses(TypeError, lambda: vk.priors.VampPrior(encoder, x), *words)


def test_spatial_latents_are_maps_laid_flat() -> None:
    down = vk.networks.conv_maps((3, 16, 16), [4, 8], 2 * 5)
    up = vk.networks.conv_transpose_maps(5, [8, 4], (3, 16, 16))
    latent = vk.GaussianLatent(up.in_shape.numel())
    model = vk.VAE(
        vk.Encoder(down, latent), vk.Decoder(up, vk.likelihoods.Gaussian((3, 16, 16)))
    ).eval()
    x = torch.rand(6, 3, 16, 16)
    mu, logvar = model.encode(x)
    maps = down(x)  # the first half of the channels is the means
    torch.testing.assert_close(mu.unflatten(-1, up.in_shape), maps[:, :5])
    torch.testing.assert_close(logvar.unflatten(-1, up.in_shape), maps[:, 5:])
    out = model(x, samples=2)
    assert out.x_hat.shape == (2, 6, 3, 16, 16)
    torch.testing.assert_close(out.x_hat[1], up(out.z[1].unflatten(-1, up.in_shape)))
    assert model.sample(4).shape == (4, 3, 16, 16)


class TestWhatASecondReviewFound:
    def test_heads_of_maps_are_not_interleaved(self) -> None:
        class Heads(nn.Module):
            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                maps = torch.zeros(len(x), 2, 3, 3)
                return maps, maps - 3

        mu, logvar = vk.Encoder(Heads(), vk.GaussianLatent(18))(torch.zeros(4, 1, 8, 8))
        assert mu.unique().tolist() == [0]
        assert logvar.unique().tolist() == [-3]

    def test_a_subclass_may_say_that_it_takes_a_context(self) -> None:
        heard = []

        class Listening(vk.Encoder):
            takes_context = True

            def forward(self, x, context=None):
                heard.append(context)
                return super().forward(x)

        base = tiny()
        model = vk.VAE(Listening(base.encoder.net, base.encoder.latent), base.decoder)
        model(torch.zeros(2, 1, 8, 8), context=torch.tensor([4, 5]))
        assert heard[0].tolist() == [4, 5]

    def test_a_prior_given_later_may_take_a_context(self, refuses) -> None:
        model, x = tiny(), torch.zeros(3, 1, 8, 8)
        model.prior = vk.priors.ConditionalPrior(vk.networks.mlp(4, [], 4), 2)
        assert model.takes_context
        assert model(x, context=torch.rand(3, 4)).prior.batch_shape == (3,)
        refuses(TypeError, lambda: model(x), "context", "ConditionalPrior")
        assert model.sample(5, context=torch.rand(5, 4)).shape == (5, 1, 8, 8)

    def test_a_data_set_brings_its_own_context(self, refuses) -> None:
        model = TestContext().model()
        x, y = torch.rand(6, 1, 8, 8).round(), torch.arange(6) % 3
        data = vk.datasets.from_tensors(x, y)
        for method in (model.encode, model.reconstruct):
            refuses(TypeError, lambda m=method: m(data, context=y), "context", "data set")
        expected = model.encode(x, y).mean
        torch.testing.assert_close(model.encode((x, y.numpy())).mean, expected)
        torch.testing.assert_close(model.encode([(x, y.numpy())]).mean, expected)

    def test_a_vamp_prior_follows_when_the_encoder_is_replaced(self, refuses) -> None:
        model, other = tiny(), tiny()
        nn.init.normal_(other.encoder.net.layers[0].weight)
        model.prior = vk.priors.VampPrior(model.encoder, torch.rand(5, 1, 8, 8))
        before = model.prior().mean
        model.encoder = other.encoder
        assert model.prior.encoder is model.encoder
        assert not torch.equal(model.prior().mean, before)
        assert [name for name, _ in model.named_parameters() if "prior" in name] == ["prior.raw"]
        twin = copy.deepcopy(model)
        assert twin.prior.encoder is twin.encoder
        foreign = vk.priors.VampPrior(tiny().encoder, torch.rand(5, 1, 8, 8))
        refuses(ValueError, lambda: setattr(model, "prior", foreign), "prior", "own encoder")

    def test_a_vamp_prior_mixes_the_models_own_posteriors(self, refuses) -> None:
        model, other = tiny(), tiny()
        prior = vk.priors.VampPrior(other.encoder, torch.rand(5, 1, 8, 8))
        refuses(
            ValueError, lambda: vk.VAE(model.encoder, model.decoder, prior), "prior", "own encoder"
        )


class TestOneDistributionForEachElement:
    """A likelihood or a posterior over single values would be averaged, not summed."""

    def test_a_likelihood_without_an_event(self, refuses) -> None:
        class Pixels(vk.likelihoods.Likelihood):
            def forward(self, params):
                return torch.distributions.Normal(self._shaped(params), 1.0)

        model, x = tiny(likelihood=Pixels((1, 8, 8))), torch.zeros(4, 1, 8, 8)
        words = (
            "decoder: expected a distribution of batch (4,)",
            "batch (4, 1, 8, 8)",
            "Independent",
        )
        refuses(ValueError, lambda: model(x), *words)
        refuses(ValueError, lambda: model.sample(4), *words)
        refuses(ValueError, lambda: vk.fit(model, elbo(), x, steps=1, progress=False), *words)

    def test_a_posterior_without_an_event(self, refuses) -> None:
        class Encoder(vk.Encoder):
            def forward(self, x):
                mu, logvar = super().forward(x)
                return torch.distributions.Normal(mu, logvar.exp())

        model = tiny()
        model = vk.VAE(Encoder(model.encoder.net, model.encoder.latent), model.decoder)
        words = "encoder: expected a distribution of batch (4,)", "batch (4, 2)", "Independent"
        refuses(ValueError, lambda: model.encode(torch.zeros(4, 1, 8, 8)), *words)

    def test_a_posterior_that_does_not_draw_with_a_gradient(self, refuses) -> None:
        class Encoder(vk.Encoder):
            def forward(self, x):
                bernoulli = torch.distributions.Bernoulli(logits=super().forward(x).mean)
                return torch.distributions.Independent(bernoulli, 1)

        model = tiny()
        model = vk.VAE(Encoder(model.encoder.net, model.encoder.latent), model.decoder)
        refuses(TypeError, lambda: model(torch.zeros(4, 1, 8, 8)), "encoder", "has_rsample")

    def test_a_prior_of_a_batch_of_one(self, refuses) -> None:
        class Learned(nn.Module):
            def __init__(self, count: int) -> None:
                super().__init__()
                self.mu = nn.Parameter(torch.zeros(count, 2))

            def forward(self) -> torch.distributions.Distribution:
                base = torch.distributions.Normal(self.mu, 1.0)
                return torch.distributions.Independent(base, 1)

        model = tiny()
        one, three = (vk.VAE(model.encoder, model.decoder, Learned(count)) for count in (1, 3))
        drawn = one.sample(5)
        assert drawn.shape == (5, 1, 8, 8)
        assert not torch.equal(drawn[0], drawn[1])
        assert one.sample(1).shape == (1, 1, 8, 8)
        refuses(ValueError, lambda: three.sample(5), "prior", "batch (5,)", "batch (3,)")


def test_arrays_come_in_the_models_precision() -> None:
    model, x = tiny().double(), np.random.default_rng(0).random((4, 1, 8, 8)).round()
    found = model.reconstruct(torch.from_numpy(x))
    for given in (x, (x, np.arange(4)), iter([x[:2], x[2:]])):
        torch.testing.assert_close(model.reconstruct(given), found)
    vk.fit(model, elbo(), [x, x], steps=2, progress=False)
    vk.metrics.elbo(model, [x])
