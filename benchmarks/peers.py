"""The same training by others: pythae's trainer, and the script of pytorch/examples.

pythae is installed by its name; the script is loaded from a clone of its repository, and its own
`train` is called. Neither is changed: their models have the sizes of ours, and their data are those
they make themselves of the same images.
"""

import contextlib
import importlib.util
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

Epoch = Callable[[int], object]
Loss = Callable[[Tensor], Tensor]  # the mean negative ELBO of pictures in [0, 1]


def versions() -> dict[str, str]:
    """Return the version of pythae, where it is installed."""
    try:
        return {"pythae": version("pythae")}
    except PackageNotFoundError:
        return {}


def pythae(
    parts: list[Tensor], sizes: tuple[int, int, int], batch: int, device: str
) -> tuple[Epoch, Loss]:
    """Return an epoch by pythae's own trainer, and the loss of its VAE.

    What is timed is the trainer's `train_step`, which is an epoch; what `train` does around it,
    copying the best model and writing the last, is left out in its favour.
    """
    with _quiet():
        from pythae.data.datasets import BaseDataset
        from pythae.models import VAE, VAEConfig
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder
        from pythae.trainers import BaseTrainer, BaseTrainerConfig
    pixels, hidden, latent = sizes

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden), nn.ReLU())
            self.mu, self.log_var = nn.Linear(hidden, latent), nn.Linear(hidden, latent)

        def forward(self, x: Tensor) -> Any:
            h = self.hidden(x)
            return ModelOutput(embedding=self.mu(h), log_covariance=self.log_var(h))

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            layers = [nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, pixels), nn.Sigmoid()]
            self.layers = nn.Sequential(*layers)

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.layers(z))

    config = VAEConfig(input_dim=(pixels,), latent_dim=latent, reconstruction_loss="bce")
    model = VAE(config, Encoder(), Decoder())
    data = [BaseDataset(part / 255, torch.zeros(len(part))) for part in parts]
    settings = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=batch,
        num_epochs=1,
        learning_rate=1e-3,
        seed=int(torch.randint(2**31, ())),
        no_cuda="cuda" not in device,
    )
    with _quiet():
        trainer = BaseTrainer(model, data[0], training_config=settings)
        trainer.prepare_training()
    loaders = [trainer.get_train_dataloader(part) for part in data]

    def epoch(part: int) -> None:
        trainer.train_loader = loaders[part]
        with _quiet():
            trainer.train_step(1)

    return epoch, lambda x: model({"data": x.to(device)}).loss


def pytorch_examples(clone: Path, parts: int, batch: int, device: str) -> tuple[Epoch, Loss]:
    """Return an epoch by the script's own `train`, and its own loss."""
    script = _load(clone / "vae" / "main.py", batch, device)
    whole = script.train_loader.dataset
    size = len(whole) // parts
    loaders = [
        DataLoader(Subset(whole, range(first, first + size)), batch, shuffle=True, **script.kwargs)
        for first in range(0, len(whole), size)
    ]

    def epoch(part: int) -> None:
        script.train_loader = loaders[part]  # type: ignore[attr-defined]  # of the script
        with _quiet():
            script.train(1)

    def loss(x: Tensor) -> Tensor:
        x = x.to(script.device)
        reconstruction, mu, logvar = script.model(x)
        total: Tensor = script.loss_function(reconstruction, x, mu, logvar)
        return total / len(x)

    return epoch, loss


def _load(path: Path, batch: int, device: str) -> ModuleType:
    """Import the script where its data, ``../data``, are those of ``VAEKIT_DATA``."""
    spec = importlib.util.spec_from_file_location("pytorch_examples_vae", path)
    if spec is None or spec.loader is None or not path.exists():
        raise FileNotFoundError(f"{path}: there is no such script")
    script = importlib.util.module_from_spec(spec)
    options = ["--batch-size", str(batch), "--seed", str(int(torch.randint(2**31, ())))]
    options += [] if "cuda" in device else ["--no-accel"]
    argv, here = sys.argv, Path.cwd()
    with tempfile.TemporaryDirectory() as folder, _quiet():
        (Path(folder) / "vae").mkdir()
        (Path(folder) / "data").symlink_to(Path(os.environ["VAEKIT_DATA"]).resolve())
        try:
            sys.argv = [str(path), *options]
            os.chdir(Path(folder) / "vae")
            spec.loader.exec_module(script)
        finally:
            sys.argv = argv
            os.chdir(here)
    return script


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what others print out of the table."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
