"""Cases that `test_compile.py` runs in a process of their own."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from models import elbo, tiny
from test_conformance import LATENTS, LIKELIHOODS, PRIORS, TERMS, build, of
from torch import Tensor

import vaekit as vk

pytestmark = pytest.mark.filterwarnings("ignore")


def agrees(
    model: vk.VAE, objective: vk.objectives.Objective, x: Tensor, samples: int | None = None
) -> None:
    torch._dynamo.reset()

    def run(x: Tensor) -> Tensor:
        return objective(model(x, samples), x).total

    # Traced whole, differentiated, and run operation by operation: the noise is the same.
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.manual_seed(1)
    expected = run(x)
    torch.manual_seed(1)
    torch.testing.assert_close(compiled(x), expected)


@of(TERMS)
def test_terms(case, device) -> None:
    x, term = torch.rand(6, 2, 4, device=device).round(), case().to(device)
    samples = 6 if term.needs_draws else None
    gradient = term.needs_graph or getattr(term, "gradient", "") == "dreg"
    traced = torch._dynamo.config.patch(trace_autograd_ops=True) if gradient else nullcontext()
    with traced:
        agrees(build().to(device), vk.Reconstruction("other") + term, x, samples)


@of(LIKELIHOODS)
def test_likelihoods(case, device) -> None:
    make, to_support = case
    likelihood = make()
    x = to_support(torch.rand(6, *likelihood.shape, device=device))
    agrees(build(likelihood=likelihood).to(device), elbo(), x)


@of(LATENTS)
def test_latents(case, device) -> None:
    x = torch.rand(6, 2, 4, device=device).round()
    agrees(build(case()).to(device), elbo(), x)


@of(PRIORS)
def test_priors(case, device) -> None:
    x = torch.rand(6, 2, 4, device=device).round()
    agrees(build(prior=case()).to(device), elbo(), x)


def test_convolutions(device) -> None:
    latent = vk.GaussianLatent(3)
    model = vk.VAE(
        vk.Encoder(vk.networks.conv((1, 9, 9), [4, 8], latent.num_params), latent),
        vk.Decoder(
            vk.networks.conv_transpose(3, [8, 4], (1, 9, 9)), vk.likelihoods.Gaussian((1, 9, 9))
        ),
    )
    agrees(model.to(device), elbo(), torch.rand(6, 1, 9, 9, device=device))


def test_fit(device) -> None:
    data = torch.rand(100, 1, 8, 8).round()
    objective = vk.Reconstruction() + vk.schedules.Linear(0, 1, steps=9) * vk.KL()
    losses = [
        vk.fit(
            tiny().to(device),
            objective,
            data,
            epochs=3,
            batch_size=32,
            seed=0,
            compile=compile,
            progress=False,
        )["loss"]
        for compile in (False, True)
    ]
    # The noise of a compiled graph is another, so that losses agree as those of two seeds do.
    np.testing.assert_allclose(*losses, rtol=0.05)
