"""All compared with all, piece by piece: the same values and gradients, in bounded memory."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Laplace

import vaekit as vk
from vaekit import losses
from vaekit.losses import rows

f64 = torch.double
N, DIM = 23, 3


def gaussian(mu: Tensor, spread: Tensor) -> Distribution:
    return vk.distributions.DiagonalGaussian(mu, spread)


def laplace(mu: Tensor, spread: Tensor) -> Distribution:
    return Independent(Laplace(mu, spread.exp()), 1)


def product(mu: Tensor, spread: Tensor) -> Distribution:
    parts = gaussian(mu[:, :1], spread[:, :1]), laplace(mu[:, 1:], spread[:, 1:])
    return vk.distributions.Joint(parts)


def correlation(estimator: losses.Estimator) -> Callable[[Distribution, Tensor], Tensor]:
    def loss(q: Distribution, z: Tensor) -> Tensor:
        whole = q if estimator == "exact" else None
        return losses.total_correlation(
            q, z, estimator=estimator, dataset_size=100, dataset_posterior=whole
        )

    return loss


def discrepancy(_: Distribution, z: Tensor) -> Tensor:
    reference = torch.linspace(-2, 2, 11 * DIM, dtype=f64).view(11, DIM)
    return losses.mmd(z, reference) + losses.mmd(z, z.detach() + 1, losses.RBF(0.5, 2.0))


def parts(q: Distribution, z: Tensor) -> Tensor:
    prior = vk.priors.StandardNormal(DIM).double()()
    information, joint, single = losses.decompose_kl(q, prior, z, dataset_size=N)
    return information + 2 * joint + 3 * single


LOSSES = {
    "stratified": correlation("stratified"),
    "weighted": correlation("weighted"),
    "exact": correlation("exact"),
    "parts": parts,
    "mmd": discrepancy,
}


@pytest.mark.parametrize("posterior", [gaussian, laplace, product], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("piece", [1, 200, 10**6], ids=lambda n: f"{n} values")
def test_pieces_add_up_to_the_whole(name, posterior, piece, monkeypatch) -> None:
    torch.manual_seed(0)
    mu, spread = torch.randn(2, N, DIM, dtype=f64)
    noise = torch.rand(N, DIM, dtype=f64)

    def value_and_slopes() -> list[Tensor]:
        leaves = [each.clone().requires_grad_() for each in (mu, 0.1 * spread)]
        inputs = [2 * each for each in leaves]  # no leaves: they have a history of their own
        z = inputs[0] + inputs[1].exp() * noise
        loss = LOSSES[name](posterior(*inputs), z)
        return [loss, *torch.autograd.grad(loss, leaves)]

    monkeypatch.setattr(rows, "_FITS", 10**9)
    whole = value_and_slopes()
    monkeypatch.setattr(rows, "_FITS", 0)
    monkeypatch.setattr(rows, "_PIECE", piece)
    assert whole[1].abs().max() > 1e-3
    for found, expected in zip(value_and_slopes(), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_what_needs_no_gradient_gets_none(monkeypatch) -> None:
    monkeypatch.setattr(rows, "_FITS", 0)
    monkeypatch.setattr(rows, "_PIECE", 50)
    mu = torch.randn(N, DIM, dtype=f64, requires_grad=True)
    q = gaussian(mu, torch.zeros(N, DIM, dtype=f64))
    losses.total_correlation(q, q.rsample(), dataset_size=N).backward()
    assert mu.grad is not None
    with torch.no_grad():
        assert not losses.mmd(mu, mu + 1).requires_grad
    assert not losses.mmd(mu.detach(), mu.detach() + 1).requires_grad
    assert losses.mmd(mu.detach(), mu).requires_grad


MEMORY = """
import resource, sys, torch, vaekit as vk
from vaekit import losses

def peak():
    kilobyte = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / kilobyte

def run(size):
    mu = torch.randn(size, 64, requires_grad=True)
    q = vk.distributions.DiagonalGaussian(mu, torch.zeros(size, 64))
    z = q.rsample()
    if sys.argv[1] == "mmd":
        loss = losses.mmd(z, torch.randn(size, 64))
    else:
        size = {} if sys.argv[1] == "exact" else {"dataset_size": 60_000}
        whole = q if sys.argv[1] == "exact" else None
        options = {"estimator": sys.argv[1], "dataset_posterior": whole} | size
        loss = losses.total_correlation(q, z, **options)
    loss.backward()

run(64)  # what is imported and allocated once
before = peak()
run(int(sys.argv[2]))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell a peak")
@pytest.mark.parametrize("name", ["stratified", "weighted", "exact", "mmd"])
def test_memory_does_not_grow_with_the_number_of_pairs(name: str) -> None:
    code = [sys.executable, "-c", MEMORY, name, "4096"]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    # One tensor of all pairs and dimensions would have 4.3 GB.
    assert float(done.stdout) < 300e6 / 2**20
