"""What a loss and its gradient do not depend on: precision, batch, order, the side of an image.

Every latent, likelihood, prior and term of `combinations` takes part. And a prior that is the
standard normal by another name makes the loss and the gradient that the standard normal makes.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import combinations
import pytest
import torch
from combinations import LATENTS, LIKELIHOODS, OWN, PRIORS, TERMS, Choice, refusals
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import vaekit as vk
from vaekit import losses, networks
from vaekit.distributions import detached
from vaekit.networks import mlp

f64 = torch.float64
#: How many elements; no other dimension of what is drawn is as large.
ALL, SOME, ORDER = range(7), (5, 0, 6, 2, 3), [6, 4, 2, 0, 1, 3, 5]

#: Statistics of the batch: their values are scalars.
STATISTICS = {
    "DIP",
    "DIP, within",
    "DecomposedKL",
    "FreeBits",
    "FreeBits, groups",
    "MMD",
    "TotalCorrelation",
}
#: One value for each element, which depends on the others in training: its weights are the batch's,
#: or its sigma is.
WEIGHED_BY_THE_BATCH = {"term BalancedKL", "likelihood Gaussian, optimal"}


def _cases() -> dict[str, Choice]:
    """One choice for each latent, likelihood, prior and term, with what it goes with."""

    def first(*choices: Choice) -> Choice:
        return next(choice for choice in choices if not refusals(choice))

    found = {}
    for name in LATENTS:
        prior = "TopDown" if name == "Ladder" else OWN
        terms = ("KL",) if LATENTS[name].measure else ("LatentL2",)
        found[f"latent {name}"] = Choice(name, prior, terms)
    for name in LIKELIHOODS:
        found[f"likelihood {name}"] = Choice("GaussianLatent", OWN, ("KL",), name)
    for name in PRIORS:
        found[f"prior {name}"] = first(*(Choice(q, name, ("KL",)) for q in LATENTS))
    for name, term in TERMS.items():
        draws = 6 if term.draws else None
        found[f"term {name}"] = first(*(Choice(q, OWN, (name,), samples=draws) for q in LATENTS))
    plain = Choice("GaussianLatent", OWN, ("KL",))
    found["several draws"] = replace(plain, samples=6)
    found["condition"] = replace(plain, conditional=True)
    found["convolutions"] = replace(plain, shape=(1, 8, 8))
    return found


CASES = _cases()


def of(cases: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases.values(), ids=cases)


def test_every_part_is_among_the_cases() -> None:
    for room, names in (
        ("latent", LATENTS),
        ("likelihood", LIKELIHOODS),
        ("prior", PRIORS),
        ("term", TERMS),
    ):
        assert all(f"{room} {name}" in CASES for name in names)
    assert not any(refusals(choice) for choice in CASES.values())
    used = {name: choice.terms[0] for name, choice in CASES.items()}
    assert {used[f"term {name}"] for name in TERMS} == set(TERMS)


class Noise(TorchDispatchMode):
    """Noise that an element has whatever the batch it is in, and whatever the precision.

    Each random operation is done for one element after the other, in float64, each time with a seed
    of the operation's and of the element's.
    """

    def __init__(self, rows: Sequence[int]) -> None:
        super().__init__()
        self.rows, self.calls = list(rows), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        self.calls += 1
        options, (first, *rest) = dict(kwargs or {}), args
        given = isinstance(first, Tensor)  # else a shape
        dtype = options.pop("dtype", None) or (first.dtype if given else torch.get_default_dtype())
        shape = list(first.shape if given else first)
        (dim,) = (dim for dim, size in enumerate(shape) if size == len(self.rows))
        if not given:
            options["dtype"] = f64
        pieces = []
        for number, row in enumerate(self.rows):
            torch.manual_seed(1_000 * self.calls + row)
            one = first.select(dim, number).double() if given else shape[:dim] + shape[dim + 1 :]
            pieces.append(func(one, *rest, **options))
        noise = torch.stack(pieces, dim).to(dtype)
        return first.copy_(noise) if func._schema.is_mutable else noise


class Run:
    """A model and an objective, and what they make of some of the elements."""

    def __init__(self, choice: Choice) -> None:
        self.choice, self.model = choice, combinations.build(choice)
        self.objective = combinations.objective(choice)
        for term in self.objective.terms:
            if hasattr(term, "run_size"):
                term.run_size = combinations.N
        self.objective.set_step(1)
        self.x, self.context = combinations.data(choice)

    def to(self, dtype: torch.dtype) -> "Run":
        other = copy.deepcopy(self)
        other.model.to(dtype)
        other.objective.to(dtype)
        other.x, other.context = self.x.to(dtype), self.context.to(dtype)
        return other

    def values(self, rows: Sequence[int] = ALL) -> dict[str, Tensor]:
        """The values of each term, by element where they are."""
        x, context = self.x[list(rows)], self.context[list(rows)]
        model = copy.deepcopy(self.model)  # a codebook follows its data
        self.parameters = dict(model.named_parameters())
        out = model(x, self.choice.samples, context if model.takes_context else None)
        found: dict[str, Tensor] = {}
        for term in self.objective.terms:
            found |= term.values(out, x)
        return found

    def gradient(self, value: Tensor) -> dict[str, Tensor]:
        """The gradient to every parameter that it depends on."""
        learned = {name: p for name, p in self.parameters.items() if p.requires_grad}
        found = torch.autograd.grad(
            value, [*learned.values()], retain_graph=True, allow_unused=True
        )
        return {
            name: gradient
            for name, gradient in zip(learned, found, strict=True)
            if gradient is not None
        }


class TestPrecision:
    @of(CASES)
    def test_float32_agrees_with_float64(self, case: Choice) -> None:
        results = []
        for dtype in (torch.float32, f64):
            run = Run(case).to(dtype)
            with Noise(ALL):
                values = run.values()
                total = torch.stack([value.mean() for value in values.values()]).sum()
                gradient = run.gradient(total)
            assert all(value.dtype == dtype for value in (*values.values(), *gradient.values()))
            results.append((values, gradient))
        (values, gradient), (exact, exact_gradient) = results
        assert set(gradient) == set(exact_gradient)
        for mine, true in ((values, exact), (gradient, exact_gradient)):
            sizes = {name: float(value.detach().norm()) for name, value in true.items()}
            for name, value in true.items():
                error = float((mine[name] - value).detach().norm())
                assert error < 1e-5 * max(sizes[name], 0.1 * max(sizes.values())), name
        assert any(not torch.equal(values[name].double(), exact[name]) for name in exact)

    @of(CASES)
    def test_autocast_to_bfloat16_stays_finite(self, case: Choice) -> None:
        run = Run(case)
        torch.manual_seed(1)
        plain = run.values()
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            values = run.values()
        total = torch.stack([value.float().mean() for value in values.values()]).sum()
        gradient = run.gradient(total)
        assert gradient
        for name, value in {**values, **gradient}.items():
            assert value.isfinite().all(), name
        assert any(not torch.equal(values[name], plain[name]) for name in plain)  # it did something


class TestBatch:
    """In float64, to 1e-10: each element has the noise that is its own."""

    @of({name: case for name, case in CASES.items() if name not in WEIGHED_BY_THE_BATCH})
    def test_an_elements_loss_and_gradient_are_its_own(self, case: Choice) -> None:
        self.check(Run(case).to(f64))

    def test_so_they_are_once_an_optimal_sigma_is_remembered(self) -> None:
        run = Run(CASES["likelihood Gaussian, optimal"]).to(f64)
        run.model.eval()
        self.check(run)

    @staticmethod
    def check(run: Run) -> None:
        with Noise(ALL):
            whole = run.values(ALL)
            gradients = {
                name: [run.gradient(one) for one in value]
                for name, value in whole.items()
                if value.ndim
            }
        assert "reconstruction" in gradients
        with Noise(SOME):
            part = run.values(SOME)
            for name, each in gradients.items():
                expected = whole[name][list(SOME)]
                torch.testing.assert_close(part[name], expected, rtol=1e-10, atol=1e-10)
                for one, row in zip(part[name], SOME, strict=True):
                    found, own = run.gradient(one), each[row]
                    assert set(found) == set(own)
                    for parameter, value in own.items():
                        torch.testing.assert_close(found[parameter], value, rtol=1e-10, atol=1e-10)

    @of({name: CASES[f"term {name}"] for name in TERMS})
    def test_only_what_says_so_depends_on_the_batch(self, case: Choice, request) -> None:
        # Nothing else can hide among those left out: each is a scalar, or has the batch's weights.
        term = request.node.callspec.id
        run = Run(case).to(f64)
        made = run.objective.terms[-1]
        values = [run.values(rows) for rows in (ALL, SOME)]
        own = {name: value for name, value in values[0].items() if name in made.names}
        scalar = {value.ndim == 0 for value in own.values()}
        assert scalar == {term in STATISTICS}
        assert term in STATISTICS or not made.compares
        for name in own:
            assert values[1][name].shape == (() if scalar == {True} else (len(SOME),))

    @of({name: CASES[name] for name in sorted(WEIGHED_BY_THE_BATCH)})
    def test_what_the_batch_weighs_depends_on_it(self, case: Choice) -> None:
        run = Run(case).to(f64)
        own = "balanced_kl" if "BalancedKL" in case.terms else "reconstruction"
        found = []
        for rows in (ALL, SOME, ORDER):
            with Noise(rows):
                found.append(run.values(rows)[own])
        whole, part, other = found
        assert not torch.allclose(whole[list(SOME)], part, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(other, whole[ORDER], rtol=1e-10, atol=1e-10)

    @of({name: CASES[f"term {name}"] for name in sorted(STATISTICS - {"MMD"})})
    def test_a_statistic_does_not_depend_on_the_order(self, case: Choice) -> None:
        run = Run(case).to(f64)
        results = []
        for rows in (ALL, ORDER):
            with Noise(rows):
                values = run.values(rows)
                total = torch.stack([value.mean() for value in values.values()]).sum()
                results.append((values, run.gradient(total)))
        (values, gradient), (others, other_gradient) = results
        for name, value in values.items():
            expected = value if value.ndim == 0 else value[ORDER]
            torch.testing.assert_close(others[name], expected, rtol=1e-10, atol=1e-10)
        for name, value in gradient.items():
            torch.testing.assert_close(other_gradient[name], value, rtol=1e-10, atol=1e-10)


SIDES = (8, 9, 28, 33)
sides = pytest.mark.parametrize("side", SIDES)

#: The columns of a table, which are no pictures.
NO_PICTURES = {"Mixed"}


class TestSides:
    """Nothing depends on the side of an image, be it odd or even."""

    @staticmethod
    def parts(name: str, side: int, training: bool = False) -> tuple[Tensor, Tensor]:
        """The loss of each picture, and that of its four unequal quarters, each by itself."""
        make, to_support = LIKELIHOODS[name]
        torch.manual_seed(side)
        likelihood = make((2, side, side)).double().train(training)
        x = to_support(torch.rand(3, 2, side, side, dtype=f64))
        params = torch.randn(3, likelihood.num_params, dtype=f64).unflatten(1, (-1, side, side))
        whole = vk.reconstruction(likelihood(params), x)
        cut = side // 2 - 1
        total = torch.zeros_like(whole)
        for rows in (slice(cut), slice(cut, None)):
            for columns in (slice(cut), slice(cut, None)):
                quarter = x[..., rows, columns]
                other = make(tuple(quarter.shape[1:])).double().train(training)
                other.load_state_dict(likelihood.state_dict())
                total += vk.reconstruction(other(params[..., rows, columns]), quarter)
        return whole, total

    @sides
    @pytest.mark.parametrize("name", sorted(set(LIKELIHOODS) - NO_PICTURES))
    def test_the_loss_of_an_image_is_that_of_its_quarters(self, name: str, side: int) -> None:
        whole, total = self.parts(name, side)
        torch.testing.assert_close(whole, total, rtol=1e-10, atol=1e-10)

    def test_a_sigma_made_of_all_values_hangs_them_together(self) -> None:
        whole, total = self.parts("Gaussian, optimal", 8, training=True)
        assert not torch.allclose(whole, total, rtol=1e-3, atol=1e-3)

    @sides
    @pytest.mark.parametrize("maps", [False, True], ids=["vector", "maps"])
    def test_convolutions_there_and_back(self, side: int, maps: bool) -> None:
        torch.manual_seed(0)
        shape, smooth = (1, side, side), {"activation": nn.Tanh}
        if maps:
            into = networks.conv_maps(shape, [2, 3], 4, **smooth)
            latent = vk.GaussianLatent(into.out_shape.numel() // 2)
            back: nn.Module = networks.conv_transpose_maps(2, [3, 2], shape, **smooth)
        else:
            latent = vk.GaussianLatent(3)
            into = networks.conv(shape, [2, 3], latent.num_params, **smooth)
            back = networks.conv_transpose(3, [3, 2], shape, **smooth)
        likelihood = vk.likelihoods.Bernoulli(shape)
        model = vk.VAE(vk.Encoder(into, latent), vk.Decoder(back, likelihood)).double()
        x = torch.rand(5, *shape, dtype=f64).round()
        out = model(x)
        loss = vk.reconstruction(out.likelihood, x) + vk.kl_divergence(out.posterior, out.prior)
        assert (model.reconstruct(x).shape, loss.shape) == (x.shape, (5,))
        # Every pixel of the image has a part in the code, and every pixel is made of it.
        x.requires_grad_()
        (reached,) = torch.autograd.grad(model.encode(x).mean.square().sum(), x)
        assert (reached.abs().sum((0, 1)) > 0).all()
        assert (out.x_hat.std(0) > 0).all()
        loss.mean().backward()
        assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def plain(prior: Callable[[nn.Module], nn.Module] | None = None) -> vk.VAE:
    """A model whose encoder infers N(0, I) of what is zero everywhere."""
    torch.manual_seed(0)
    latent = vk.GaussianLatent(2)
    net = mlp(8, [16], latent.num_params, activation=nn.Tanh)
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    encoder = vk.Encoder(net, latent)
    decoder = vk.Decoder(mlp(2, [16], 8), vk.likelihoods.Bernoulli((2, 4)))
    return vk.VAE(encoder, decoder, prior and prior(encoder)).double()


#: Priors that are the standard normal, for now.
STANDARD = {
    "VampPrior": lambda encoder: vk.priors.VampPrior(encoder, torch.zeros(1, 2, 4), None),
    "MixtureOfGaussians": lambda encoder: vk.priors.MixtureOfGaussians(2, 1),
    "Fixed": lambda encoder: vk.priors.Fixed(
        torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
    ),
}
OBJECTIVES = {
    "ELBO": (lambda: vk.Reconstruction() + vk.KL(), None),
    "estimated": (lambda: vk.Reconstruction() + vk.KL("monte_carlo"), 5),
    "IWAE": (lambda: 1 * vk.objectives.ImportanceWeighted(), 5),
    "STL": (lambda: 1 * vk.objectives.ImportanceWeighted(gradient="stl"), 5),
    "DReG": (lambda: 1 * vk.objectives.ImportanceWeighted(gradient="dreg"), 5),
}


class TestCollapse:
    """A prior that stands for the standard normal makes its loss and its gradient, to 1e-10."""

    @of(STANDARD)
    @pytest.mark.parametrize(("make", "samples"), OBJECTIVES.values(), ids=OBJECTIVES)
    def test_loss_and_gradient(self, case, make, samples) -> None:
        x = torch.rand(6, 2, 4, dtype=f64).round()
        model, other = plain(), plain(case)
        results = []
        for each in (model, other):
            torch.manual_seed(1)
            out = each(x, samples)
            if each is other:  # what the prior learns is looked at below
                out = replace(out, prior=detached(out.prior))
            total = make()(out, x).total
            shared = [*each.encoder.parameters(), *each.decoder.parameters()]
            results.append([total, *torch.autograd.grad(total, shared)])
        for mine, exact in zip(*results, strict=True):
            torch.testing.assert_close(mine, exact, rtol=1e-10, atol=1e-10)
        assert all(value.any() for value in results[0])

    @of({name: STANDARD[name] for name in ("VampPrior", "MixtureOfGaussians")})
    def test_whole_the_gradient_has_that_of_the_prior_besides(self, case) -> None:
        # The prior's own gradient, of KL(q || N(mu, s^2)) at N(0, I): the moments of q in excess.
        x = torch.rand(6, 2, 4, dtype=f64).round()
        model, other = plain(), plain(case)
        objective = vk.Reconstruction() + vk.KL()
        for each in (model, other):
            torch.manual_seed(1)
            objective(each(x), x).total.backward()
        mu, logvar = model.encode(x)
        slopes = -mu.mean(0).detach(), -0.5 * (mu**2 + logvar.exp() - 1).mean(0).detach()
        prior = other.prior()
        prior = prior.mu.flatten(), prior.logvar.flatten()
        parameters = [p for p in other.parameters() if p.requires_grad]
        through = torch.autograd.grad(prior, parameters, slopes, allow_unused=True)
        own = {id(p): g for p, g in zip(parameters, through, strict=True) if g is not None}
        assert own
        parts = [*model.encoder.parameters(), *model.decoder.parameters()]
        others = [*other.encoder.parameters(), *other.decoder.parameters()]
        pairs = [(two, one.grad) for one, two in zip(parts, others, strict=True)]
        pairs += [(p, torch.zeros_like(p)) for p in other.prior.parameters() if p.requires_grad]
        for parameter, exact in pairs:
            expected = exact + own.get(id(parameter), 0)
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-10, atol=1e-10)
        assert losses.kl_method(other.encode(x), other.prior()) == "analytic"

    @of(STANDARD)
    def test_another_prior_does_not(self, case) -> None:
        x = torch.rand(6, 2, 4, dtype=f64).round()
        moved = plain(lambda encoder: vk.priors.MixtureOfGaussians(2, 1))
        nn.init.constant_(moved.prior.means, 1e-6)
        found = []
        for each in (plain(case), moved):
            torch.manual_seed(1)
            found.append(float((vk.Reconstruction() + vk.KL())(each(x), x).total.detach()))
        assert abs(found[0] - found[1]) > 1e-9
