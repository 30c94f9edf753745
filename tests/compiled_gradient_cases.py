"""Cases that `test_compile_dreg.py` runs in a process of their own: terms made of gradients."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from models import tiny
from packaging.version import Version
from torch import Tensor

import vaekit as vk
from vaekit.networks import mlp

pytestmark = pytest.mark.filterwarnings("ignore")
traces = pytest.mark.skipif(
    not hasattr(torch._dynamo.config, "trace_autograd_ops"),
    reason="this torch does not trace gradients",
)
x = torch.rand(48, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round()

#: Objectives with a term made of gradients, and how many draws they take.
CASES = {
    "dreg": (lambda: 1 * vk.objectives.ImportanceWeighted(gradient="dreg"), 4),
    "dreg, groups": (lambda: 1 * vk.objectives.ImportanceWeighted(groups=2, gradient="dreg"), 4),
    "rae": (lambda: vk.Reconstruction() + 0.1 * vk.objectives.GradientPenalty(), None),
}
of_cases = pytest.mark.parametrize(("make", "samples"), CASES.values(), ids=CASES)

#: Whether this torch traces a posterior that is held fixed, as that of DReG.
HOLDS = Version(torch.__version__) >= Version("2.12")
whole = [name for name in CASES if HOLDS or "dreg" not in name]
of_whole = pytest.mark.parametrize(("make", "samples"), [CASES[name] for name in whole], ids=whole)


@pytest.fixture(autouse=True)
def _afresh() -> None:
    torch._dynamo.reset()


def gradients(run, model: vk.VAE) -> list[Tensor]:
    torch.manual_seed(1)
    model.zero_grad()
    run(x).backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@traces
@of_whole
def test_compiled_gradients_are_the_eager_ones(make, samples) -> None:
    model, objective = tiny(), make()

    def run(x: Tensor) -> Tensor:
        return objective(model(x, samples), x).total

    expected = gradients(run, model)
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        found = gradients(torch.compile(run, fullgraph=True, backend="aot_eager"), model)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@of_cases
def test_where_gradients_are_not_traced_it_says_so(make, samples) -> None:
    model, objective = tiny(), make()

    @partial(torch.compile, backend="aot_eager")
    def run(x: Tensor) -> Tensor:
        return objective(model(x, samples), x).total

    with pytest.raises(ValueError, match=r"(gradient|x_hat): expected .*trace_autograd_ops"):
        run(x)
    if samples is not None:
        with torch.no_grad():  # the value alone is made of no gradients
            assert run(x).isfinite()


@traces
@of_whole
def test_fit(make, samples, monkeypatch) -> None:
    compiled = partial(torch.compile, backend="aot_eager")  # whose noise is that of eager steps

    def trained(compile) -> list[Tensor]:
        monkeypatch.setattr(torch, "compile", compile)
        model = tiny()
        data = torch.cat([x, x])
        vk.fit(
            model,
            make(),
            data,
            steps=12,
            batch_size=32,
            samples=samples,
            seed=0,
            compile=True,
            progress=False,
        )
        return list(model.parameters())

    for one, other in zip(trained(compiled), trained(lambda run, **options: run), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert not torch._dynamo.config.trace_autograd_ops


def over_a_flow() -> vk.VAE:
    latent = vk.latents.FlowLatent(3, 4)
    encoder = vk.Encoder(mlp(64, [16], latent.num_params), latent)
    return vk.VAE(encoder, vk.Decoder(mlp(3, [16], 64), vk.likelihoods.Bernoulli((1, 8, 8))))


@traces
@pytest.mark.parametrize("make", [over_a_flow] if HOLDS else [over_a_flow, tiny])
def test_fit_takes_no_gradients_across_a_break(make) -> None:
    objective = 1 * vk.objectives.ImportanceWeighted(gradient="dreg")
    model = make()
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(ValueError, match=r"compile: expected False for Importance.* in one piece"):
        vk.fit(model, objective, x, steps=1, samples=4, compile=True, progress=False)
    assert all(map(torch.equal, model.parameters(), before))
    assert not torch._dynamo.config.trace_autograd_ops


@of_cases
def test_fit_with_a_torch_that_does_not_trace_them(make, samples, monkeypatch) -> None:
    monkeypatch.setattr(torch._dynamo, "config", SimpleNamespace())
    with pytest.raises(ValueError, match="compile: expected False for"):
        vk.fit(tiny(), make(), x, steps=1, samples=samples, compile=True, progress=False)
