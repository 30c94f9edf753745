"""Models of many kinds, and what they tell of data: written down by one version, read by the next.

    python tests/saved.py tests/saved_0_1

writes those of the version in use. A version that has been released is never written anew.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from test_recipes import MAKERS
from torch import Tensor, nn

import vaekit as vk
from vaekit import storage

RECIPES = [
    *("cvae", "ladder_vae", "two_layer_vae", "vamp_vae", "joint_vae", "categorical_vae", "vq_vae"),
    *("flow_posterior_vae", "hyperspherical_vae", "sigma_vae"),
]


def convolutions() -> vk.VAE:
    """Convolutions with statistics of batches, and a prior that is a mixture."""
    latent, shape = vk.GaussianLatent(3), (1, 8, 8)
    down = nn.Sequential(vk.networks.conv(shape, [4], latent.num_params), nn.BatchNorm1d(6))
    decoder = vk.Decoder(vk.networks.conv_transpose(3, [4], shape), vk.likelihoods.Bernoulli(shape))
    prior = vk.priors.MixtureOfGaussians(3, components=4)
    return vk.VAE(vk.Encoder(down, latent), decoder, prior)


def table() -> vk.VAE:
    """A table of mixed columns, and a posterior whose dimensions are correlated."""
    likelihood = vk.likelihoods.Mixed(
        [
            ([0, 3], vk.likelihoods.Gaussian(2, learn_sigma=True)),
            ([1], vk.likelihoods.Bernoulli(1)),
            ([2], vk.likelihoods.Categorical(1, classes=5)),
        ]
    )
    latent = vk.latents.FullGaussianLatent(2)
    encoder = vk.Encoder(vk.networks.mlp(4, [8], latent.num_params, dropout=0.1), latent)
    return vk.VAE(encoder, vk.Decoder(vk.networks.mlp(2, [8], likelihood.num_params), likelihood))


MODELS: dict[str, Callable[[], vk.VAE]] = {
    **{name: lambda make=MAKERS[name][0]: make()[0] for name in RECIPES},
    "convolutions": convolutions,
    "table": table,
}


def inputs(name: str) -> dict[str, Tensor]:
    """Return data for a model, and what it is conditioned on."""
    generator = torch.Generator().manual_seed(1)
    if name == "table":
        x = torch.randn(5, 4, generator=generator)
        x[:, 1], x[:, 2] = x[:, 1].sign().relu(), torch.arange(5)
        return {"x": x}
    x = torch.rand(5, 1, 8, 8, generator=generator).round()
    return {"x": x} | ({"context": torch.arange(5)} if name == "cvae" else {})


@torch.no_grad()
def told(
    model: vk.VAE, x: Tensor, context: Tensor | None = None, z: Tensor | None = None
) -> dict[str, Tensor]:
    """Return what a model tells of data, and of z, drawn where there is none."""
    out = model(x, None, context)
    z = out.z if z is None else z
    found = {"z": z, "x_hat": model.decode(z, context), "again": model.reconstruct(x, context)}
    if not isinstance(out.posterior, vk.distributions.PointMass):
        found |= {"log_q": out.posterior.log_prob(z), "log_p": out.prior.log_prob(z)}
    return found


def main() -> None:
    """Write the models, trained for some steps, with what they tell."""
    for name, make in MODELS.items():
        torch.manual_seed(0)
        folder, model, given = Path(sys.argv[1]) / name, make(), inputs(name)
        data = [(given["x"], given["context"])] if "context" in given else given["x"]
        objective = vk.Reconstruction() + vk.KL()
        if name == "vq_vae":  # which has no KL
            objective = vk.Reconstruction() + vk.objectives.Commitment()
        vk.fit(model, objective, data, steps=3, seed=0, progress=False)
        model.eval().save_pretrained(folder)
        storage.write_tensors(folder / "expected.safetensors", given | told(model, **given), {})


if __name__ == "__main__":
    main()
