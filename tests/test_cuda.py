"""What a GPU does; nothing of it is tested without one: pytest --device cuda tests/test_cuda.py."""

import copy
import os
import subprocess
import sys

import processes
import processes_on_a_gpu
import pytest
import torch
from models import elbo, tiny
from torch.utils.data import DataLoader, TensorDataset

import vaekit as vk
from vaekit import plots
from vaekit.training import History

X = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round()
Y = torch.arange(200) % 10


@pytest.fixture(autouse=True)
def _on_a_gpu(device) -> None:
    if device.type != "cuda":
        pytest.skip("a GPU is tested with --device cuda")


def fit(model: vk.VAE, data=X, **options) -> History:
    options = {"epochs": 2, "batch_size": 32, "seed": 0, "progress": False} | options
    return vk.fit(model, options.pop("objective", elbo()), data, **options)


def weights(model: vk.VAE) -> torch.Tensor:
    return torch.cat([each.detach().cpu().flatten() for each in model.parameters()])


def convolutional() -> vk.VAE:
    torch.manual_seed(0)
    latent, likelihood = vk.GaussianLatent(2), vk.likelihoods.Bernoulli((1, 8, 8))
    encoder = vk.Encoder(vk.networks.conv((1, 8, 8), [4, 8], latent.num_params), latent)
    return vk.VAE(encoder, vk.Decoder(vk.networks.conv_transpose(2, [8, 4], (1, 8, 8)), likelihood))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"precision": "bf16", "channels_last": True},
        {"recompute": True},
        {"accumulate": 3},
        {"ema": 0.9, "clip_grad_norm": 1.0},
    ],
    ids=str,
)
def test_training_in_every_way(options) -> None:
    plain = fit(convolutional(), epochs=3)
    history = fit(convolutional().cuda(), epochs=3, validation=X, **options)
    # The noise is another than a processor's, so that losses agree as those of two seeds do.
    assert history["loss"][-1] == pytest.approx(plain["loss"][-1], rel=0.05)
    assert history.validation["loss"][-1] == pytest.approx(plain["loss"][-1], rel=0.1)


def test_a_seed_repeats_and_a_run_goes_on(tmp_path) -> None:
    whole, again, resumed = (tiny().cuda() for _ in range(3))
    fit(whole, steps=11, epochs=None)
    fit(again, steps=11, epochs=None)
    assert torch.equal(weights(whole), weights(again))
    fit(tiny().cuda(), steps=4, epochs=None, checkpoint=tmp_path)
    fit(resumed, steps=11, epochs=None, checkpoint=tmp_path, resume=True)
    assert torch.equal(weights(whole), weights(resumed))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_pins_memory(workers: int) -> None:
    for cuda_graph in (False, True):
        loader = DataLoader(TensorDataset(X, Y), 32, num_workers=workers, pin_memory=True)
        model = tiny().cuda()
        assert len(fit(model, loader, cuda_graph=cuda_graph)) == 2


def test_models_go_from_device_to_device(tmp_path) -> None:
    model = tiny().cuda()
    fit(model)
    model.save_pretrained(tmp_path)
    back = vk.VAE.from_pretrained(tmp_path)
    assert torch.equal(weights(back), weights(model))
    assert torch.equal(weights(back.cuda()), weights(model))
    x = X[:50].cuda()
    there, here = model(x).posterior.mean.cpu(), copy.deepcopy(model).cpu()(X[:50]).posterior.mean
    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-4)


def test_draws_repeat() -> None:
    model = tiny().cuda()
    one, two, other = (
        model.sample(5, generator=torch.Generator("cuda").manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert one.device.type == "cuda"
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_what_is_measured() -> None:
    here = tiny()
    fit(here, epochs=5)
    there = copy.deepcopy(here).cuda()
    for measure in (
        lambda model: vk.metrics.negative_log_likelihood(model, X, 2000).nats.mean,
        lambda model: vk.metrics.elbo(model, X, 500).elbo.mean,
        lambda model: vk.metrics.mutual_information(model, X).nats.mean,
        lambda model: vk.metrics.active_units(model, X).number,
        lambda model: vk.metrics.annealed_importance_sampling(model, X[:20], steps=50).nats.mean,
    ):
        assert measure(there) == pytest.approx(measure(here), rel=0.05, abs=0.02)
    scores = vk.metrics.anomaly_scores(there, X[:20], samples=10, importance_samples=10)
    assert scores.negative_elbo.isfinite().all()


def test_pictures(tmp_path) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    data, model = vk.datasets.from_tensors(X, Y), tiny().cuda()
    history = fit(model, data)
    plots.reconstructions(model, data)
    plots.samples(model, 16)
    plots.manifold(model, side=5)
    plots.latent_scatter(model, data)
    plots.traversals(model, data=data, rows=2)
    plots.error_map(model, data)
    plots.kl_bars(model, data)
    plots.report(model, data, tmp_path / "report", history=history)


def test_memory_of_what_compares_all_pairs() -> None:
    mu = torch.randn(4096, 64, device="cuda", requires_grad=True)
    logvar = torch.randn(4096, 64, device="cuda", requires_grad=True)
    q = vk.distributions.DiagonalGaussian(mu, logvar)
    z, prior = q.rsample(), torch.randn(4096, 64, device="cuda")
    z.retain_grad()
    for loss in (
        lambda: vk.total_correlation(q, z, dataset_size=60_000),
        lambda: vk.losses.mmd(z, prior),
    ):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss().backward(retain_graph=True)
        assert (torch.cuda.max_memory_allocated() - before) / 1e6 < 300


def test_export(tmp_path) -> None:
    model = tiny().cuda().eval()
    program = vk.export.torch_export(model, X[:5].cuda())
    assert program


@pytest.mark.parametrize("count", [1, 2])
def test_processes_that_share_a_gpu(tmp_path, count: int) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = [processes_on_a_gpu.__file__, str(tmp_path)]
    done = subprocess.run(
        [*launcher, f"--nproc-per-node={count}", *script],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for rank in range(count):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert found.pop("backend") == ("nccl" if count == 1 else "gloo")
        refusal = found.pop("refused", None)
        assert (refusal is None) == (count == 1)
        found = {"stratified" if name == "parts" else name: each for name, each in found.items()}
        for name, (losses, others) in found.items():
            expected, mine = processes.trained(name)
            torch.testing.assert_close(others, mine, rtol=0, atol=1e-10)
            torch.testing.assert_close(losses, expected, rtol=1e-9, atol=1e-9)
