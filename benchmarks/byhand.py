"""What anybody would write in a script: the model, and the loop over a tensor in memory."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HandWritten(nn.Module):
    """A VAE with a Gaussian posterior and the cross-entropy, of two networks."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        """Hold the networks."""
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def loss(self, x: Tensor) -> Tensor:
        """Return the mean negative ELBO."""
        mu, logvar = self.encoder(x).chunk(2, dim=-1)
        z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
        cross_entropy = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        kl = -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum()
        return (cross_entropy + kl) / len(x)


class InHalf(HandWritten):
    """The same, whose networks compute in bf16."""

    def loss(self, x: Tensor) -> Tensor:
        """Return the mean negative ELBO."""
        with torch.autocast(x.device.type, torch.bfloat16):
            return super().loss(x)


def perceptrons(
    pixels: int, hidden: int, latent: int, kind: type[HandWritten] = HandWritten
) -> HandWritten:
    """Make the model of the examples: one hidden layer each way."""
    return kind(
        nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent)),
        nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, pixels)),
    )


def loop(model: HandWritten, parts: Sequence[Tensor], batch: int) -> Callable[[int], None]:
    """Return an epoch over each part, bytes in memory, with fused Adam."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    def epoch(part: int) -> None:
        total, data = 0.0, parts[part]
        for rows in torch.randperm(len(data), device=data.device).split(batch):
            x = data[rows].float().div_(255)
            optimizer.zero_grad(set_to_none=True)
            loss = model.loss(x)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)

    return epoch
