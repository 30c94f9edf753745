"""Trains small models, in as many processes as a launcher starts, and writes down what they become.

Noise comes with the data, so that it is the same whichever process an element goes to.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torchmetrics
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.utils.data import DataLoader, DistributedSampler

import vaekit as vk
from vaekit.storage import is_spread

DIM, DRAWS, PIXELS = 3, 4, 8
SIZES = 8, 8, 3  # of the batches: four processes have no share each of the last


class Given(vk.distributions.DiagonalGaussian):
    """A Gaussian whose draws use noise that was given."""

    def __init__(self, mu, logvar, noise=None):
        super().__init__(mu, logvar)
        self.noise = noise

    def rsample(self, sample_shape=(), generator=None):
        if self.noise is None or tuple(sample_shape) not in ((), (DRAWS,)):
            return super().rsample(sample_shape, generator)
        noise = self.noise if sample_shape else self.noise[0]
        return self.mean + noise * self.stddev


class Encoder(vk.Encoder):
    """Takes the noise of an element from behind its values."""

    def forward(self, x, context=None):
        values, noise = x[:, :PIXELS], x[:, PIXELS:]
        mu, logvar = super().forward(values, context)
        return Given(mu, logvar, noise.unflatten(1, (DRAWS, DIM)).movedim(1, 0))


class OfMaps(vk.Encoder):
    """Takes the noise of an element from its pixels."""

    def forward(self, x, context=None):
        mu, logvar = super().forward(x, context)
        noise = x.flatten(1)[:, : DRAWS * DIM].to(mu.dtype)
        return Given(mu, logvar, noise.unflatten(1, (DRAWS, DIM)).movedim(1, 0))


class Prior(torch.nn.Module):
    """A Gaussian that is learned, and that draws with a gradient."""

    def __init__(self):
        super().__init__()
        self.mu = torch.nn.Parameter(torch.linspace(-1, 1, DIM))

    def forward(self):
        return vk.distributions.DiagonalGaussian(self.mu, torch.zeros_like(self.mu))


def model() -> vk.VAE:
    torch.manual_seed(0)
    latent = vk.GaussianLatent(DIM)
    encoder = Encoder(vk.networks.mlp(PIXELS, [16], latent.num_params), latent)
    likelihood = vk.likelihoods.Gaussian(PIXELS, learn_sigma=True)
    decoder = vk.Decoder(vk.networks.mlp(DIM, [16], PIXELS), likelihood)
    return vk.VAE(encoder, decoder, Prior()).double()


def of_maps() -> vk.VAE:
    torch.manual_seed(0)
    shape, latent = (1, 8, 8), vk.GaussianLatent(DIM)
    encoder = OfMaps(vk.networks.conv(shape, [4], latent.num_params), latent)
    decoder = vk.networks.conv_transpose(DIM, [4], shape)
    return vk.VAE(encoder, vk.Decoder(decoder, vk.likelihoods.Gaussian(shape)))


def values() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = sum(SIZES), PIXELS + DRAWS * DIM
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def data() -> vk.datasets.ArrayDataset:
    x = values()
    return vk.datasets.from_tensors(x, target=x[:, :PIXELS], dtype=torch.float64)


class Adversarial(vk.objectives.AdversarialPrior):
    """Learns from the step's own draws, and from the same ones of the prior."""

    def _draws(self, out):
        generator = torch.Generator().manual_seed(5)
        return out.z.detach(), torch.randn(len(out.z), DIM, generator=generator).to(out.z)


def adversary(kind=vk.objectives.AdversarialTotalCorrelation) -> vk.objectives.Term:
    torch.manual_seed(2)
    return kind(vk.networks.mlp(DIM, [8], 1))


def tc(**options) -> vk.objectives.Objective:
    return vk.Reconstruction() + vk.KL() + 3 * vk.TotalCorrelation(**options)


def reference() -> vk.distributions.DiagonalGaussian:
    generator = torch.Generator().manual_seed(3)
    mu, logvar = torch.randn(2, 19, DIM, generator=generator, dtype=torch.float64)
    return vk.distributions.DiagonalGaussian(mu, logvar)


OBJECTIVES: dict[str, Callable[[], vk.objectives.Objective]] = {
    "elbo": lambda: vk.Reconstruction() + vk.KL(),
    "iwae": lambda: 1 * vk.objectives.ImportanceWeighted(),
    "dreg": lambda: 1 * vk.objectives.ImportanceWeighted(gradient="dreg"),
    "stl": lambda: 1 * vk.objectives.ImportanceWeighted(gradient="stl"),
    "renyi": lambda: 1 * vk.objectives.ImportanceWeighted(alpha=0.5),
    "latent l2": lambda: vk.Reconstruction() + 2 * vk.objectives.LatentL2(),
    "capacity": lambda: (
        vk.Reconstruction() + 5 * vk.objectives.Capacity(vk.schedules.Linear(0, 9, 9))
    ),
    "stratified": lambda: tc(),
    "weighted": lambda: tc(estimator="weighted"),
    "exact": lambda: tc(estimator="exact", dataset_posterior=reference()),
    "decomposed": lambda: vk.Reconstruction() + vk.objectives.DecomposedKL(2, 3, 4),
    "free bits": lambda: vk.Reconstruction() + vk.objectives.FreeBits(0.3),
    "balanced": lambda: vk.Reconstruction() + vk.objectives.BalancedKL([1, 2]),
    "mmd": lambda: vk.Reconstruction() + 10 * vk.objectives.MMD(),
    "dip": lambda: vk.Reconstruction() + vk.KL() + vk.objectives.DIP(2, 3, within=True),
    "adversarial": lambda: vk.Reconstruction() + 5 * adversary(Adversarial),
    "factor": lambda: vk.Reconstruction() + vk.KL() + 5 * adversary(),
}


def whole(made: vk.VAE) -> dict[str, torch.Tensor]:
    """Return weights that may be spread over the processes."""
    state = made.state_dict()
    return {key: v.full_tensor() if hasattr(v, "full_tensor") else v for key, v in state.items()}


def trained(name: str, accumulate: int = 1, source=None, device: str = "cpu", **options):
    """Train on three batches by plain gradient descent; return the losses and the weights."""
    made, objective = model().to(device), OBJECTIVES[name]()
    history = vk.fit(
        made,
        objective,
        data() if source is None else source,
        epochs=1,
        batch_size=max(SIZES),
        pairs=True,
        optimizer=lambda parameters: torch.optim.SGD(parameters, 1e-3),
        samples=DRAWS if name in ("iwae", "dreg", "stl", "renyi") else None,
        validate_every=1,
        accumulate=accumulate,
        seed=0,
        progress=False,
        **options,
    )
    weights = {f"objective.{key}": value for key, value in objective.state_dict().items()}
    return history.train, whole(made) | weights


def otherwise(dtype: torch.dtype = torch.float32, **options):
    """Train convolutions on maps: in another layout, precision, or compiled."""
    x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(4)).to(dtype)
    made, objective = of_maps().to(dtype), OBJECTIVES["stratified"]()
    given = {"steps": 4, "batch_size": 8, "seed": 0, "progress": False, "validate_every": 1}
    sgd = {"optimizer": lambda parameters: torch.optim.SGD(parameters, 1e-3)}
    return vk.fit(made, objective, x, **given | sgd | options).train, made.state_dict()


OTHERWISE: dict[str, dict[str, object]] = {
    "channels last": {"channels_last": True, "dtype": torch.float64},
    "recomputed": {"recompute": True, "dtype": torch.float64},
    "compiled": {"compile": True, "dtype": torch.float64},
    "bf16": {"precision": "bf16"},
}


def around():
    """Train with what goes on around the gradient: cut, averaged, measured, a rate that falls."""

    def falling(optimizer):
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=9.0)

    options = {"clip_grad_norm": 0.5, "ema": 0.5, "scheduler": falling}
    made, objective = model(), OBJECTIVES["stratified"]()
    given = {"epochs": 2, "batch_size": max(SIZES), "pairs": True, "seed": 0, "progress": False}
    sgd = {"optimizer": lambda parameters: torch.optim.SGD(parameters, 1e-2)}
    history = vk.fit(made, objective, data(), validation=data(), **given | options | sgd)
    return {**history.train, "rate": history.learning_rate}, history.validation, whole(made)


def sharing(folder: Path) -> dict[str, object]:
    """Train a model whose noise is drawn: cut off, gone on with, and left alone."""

    def plain(steps: int, last=None, **options):
        torch.manual_seed(rank)  # what a process begins with is the first one's
        net = torch.nn.Sequential(torch.nn.Linear(PIXELS, 6), torch.nn.BatchNorm1d(6))
        if last is not None:
            net.append(last)
        latent = vk.GaussianLatent(DIM)
        likelihood = vk.likelihoods.Gaussian(PIXELS)
        decoder = vk.Decoder(vk.networks.mlp(DIM, [16], PIXELS), likelihood)
        made = vk.VAE(vk.Encoder(net, latent), decoder)
        x = values()[:16, :PIXELS].float()
        objective = vk.Reconstruction() + vk.KL() + statistic
        options = {"seed": 3, "progress": False, "validation": x, "batch_size": 8} | options
        history = vk.fit(made, objective, x, steps=steps, **options)
        return history, made.state_dict()

    def loaded(steps: int, source=None, **options):
        source = source or DataLoader(data(), max(SIZES), shuffle=True)
        made, objective = model(), OBJECTIVES["stratified"]()
        options = {"seed": 5, "pairs": True, "progress": False} | options
        vk.fit(made, objective, source, steps=steps, **options)
        return made.state_dict()

    def ask(state) -> bool:
        asked.append(rank)
        return len(asked) == 2

    def press(x: torch.Tensor) -> torch.Tensor:
        pressed.append(rank)
        if rank == 1 and len(pressed) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return x

    class Own(ArithmeticError):
        """An error that no other process knows."""

    def complain(state) -> None:
        raise Own("the callback's own")

    class Sometimes(torch.nn.Module):
        """Has a layer that the first process alone goes through."""

        def __init__(self):
            super().__init__()
            self.own, self.all = torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)

        def forward(self, x):
            return self.all(self.own(x) if rank == 0 else x)

    def hold(state) -> None:
        state.optimizer.param_groups[0]["lr"] = 0.5
        next(state.model.decoder.parameters()).requires_grad_(False)

    def mse():
        return {"mse": torchmetrics.MeanSquaredError()}

    rank, asked, pressed = torch.distributed.get_rank(), [], []
    statistic = vk.objectives.MMD()
    whole, alone = plain(9)
    plain(5, checkpoint=folder / "checkpoints")
    resumed, weights = plain(9, checkpoint=folder / "checkpoints", resume=True)
    stopped, _ = plain(9, validate_every=1, callbacks=[ask])
    cut, _ = plain(9, corruption=press)
    _, averaged = plain(3, ema=0.5)
    measured, held = plain(6, callbacks=[hold], metrics={"mse": torchmetrics.MeanSquaredError()})
    _, partly = plain(3, last=Sometimes())
    only = {"validation": values()[:16, :PIXELS].float() if rank == 0 else None, "metrics": mse()}
    plain(5, checkpoint=folder / "only", **only)
    measuring, theirs = plain(9, checkpoint=folder / "only", resume=True, **only)
    patient, _ = plain(9, validate_every=1, patience=1, **only)
    statistic = vk.objectives.LatentL2()  # which draws nothing in common
    plain(9)
    noise = torch.get_rng_state()
    shuffled = [loaded(3)]
    loaded(2, checkpoint=folder / "loaded")
    shuffled.append(loaded(3, checkpoint=folder / "loaded", resume=True))
    again = DataLoader(data(), max(SIZES), shuffle=True)
    shuffled += [loaded(3, source=again), loaded(3, source=again)]
    found = {
        "shuffled": shuffled,
        "alone": alone,
        "resumed": weights,
        "averaged": averaged,
        "held": held,
        "partly": partly,
        "only": (measuring.validation, theirs, patient.stopped, patient.step),
        "metrics": measured.validation["mse"],
        "validation": (whole.validation, resumed.validation),
        "noise": noise,
        "asked": asked,
        "steps": stopped.step,
        "interrupted": (cut.stopped, cut.step[-1]),
        "errors": [],
    }
    bare = DataLoader(torch.randn(8, PIXELS), 4, sampler=torch.randperm(8, generator=None).tolist())
    torch.manual_seed(rank)
    holed = values()[:8, :PIXELS].float()
    holed[7, 3] = torch.nan
    failing = [{"callbacks": [complain]}, {"data": [torch.randn(4, PIXELS)]}, {"data": bare}]
    failing += [{"data": [holed]}, {"log_with": "paper"}]
    few = [values()[:8, :PIXELS].float()] * (2 if rank else 3)
    failing += [{"data": few}, {"data": iter(few)}]

    failing += [{"clip_grad_norm": 1.0 + rank}]

    class Unreadable(torch.utils.data.Dataset):
        """Has an element that the last process runs into."""

        def __len__(self):
            return 16

        def __getitem__(self, index):
            if index == 15:
                raise ValueError("data: element 15 cannot be read")
            return torch.zeros(PIXELS)

    unreadable = DataLoader(Unreadable(), 8)
    failing += [{"data": unreadable}, {"data": unreadable, "batched": True}]
    for options in failing:
        given = {"data": values()[:, :PIXELS].float()} | options
        latent = vk.GaussianLatent(DIM)
        decoder = vk.Decoder(torch.nn.Linear(DIM, PIXELS), vk.likelihoods.Gaussian(PIXELS))
        made = vk.VAE(vk.Encoder(torch.nn.Linear(PIXELS, 2 * DIM), latent), decoder)
        try:
            compared = given.pop("batched", False)  # where they wait for one another before
            objective = vk.KL() + vk.objectives.DIP() if compared else vk.KL()
            vk.fit(made, objective, epochs=1, progress=False, **given)
        except (ArithmeticError, ValueError, RuntimeError) as error:
            found["errors"].append(str(error))
    return found


def spread(folder: Path) -> dict[str, object]:
    """Train a model whose weights are spread over the processes."""

    def given() -> vk.VAE:
        made = model()
        made.decoder.net = vk.networks.mlp(DIM, [16] * 4, PIXELS).double()  # to be recomputed
        return made

    def run(steps: int, source=None, name="stratified", **options):
        torch.manual_seed(rank)  # what a process begins with is the first one's
        made, objective = given(), OBJECTIVES[name]()
        first, second, *_ = (e for e in made.decoder.net.modules() if isinstance(e, nn.Linear))
        second.register_forward_pre_hook(lambda *_: pieces.append(is_spread(first.weight)))
        source = data() if source is None else source
        fixed = {"pairs": True, "progress": False, "batch_size": 8, "seed": 3, "clip_grad_norm": 1}
        history = vk.fit(made, objective, source, steps=steps, **fixed | options)
        held = [parameter for parameter in made.parameters() if hasattr(parameter, "full_tensor")]
        counts = [(each.numel(), each.to_local().numel()) for each in held]
        measured = vk.training.evaluate(made, objective, data(), pairs=True, batch_size=8)
        return history, whole(made), counts, measured

    def wandering(optimizer):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < 4 else 50.0)

    def ask(state) -> None:
        asked.append(
            vk.training.evaluate(state.model, OBJECTIVES["elbo"](), data(), pairs=True)["loss"]
        )

    def together(state) -> None:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        found["together"] = get_model_state_dict(state.model, options=options)

    rank, asked, pieces = torch.distributed.get_rank(), [], []
    found = {"replicated": run(9)}
    pieces.clear()
    found["spread"] = run(9, shard=True, callbacks=[ask, together])
    found["pieces"] = [*pieces]
    found["recomputed"] = run(9, shard=True, recompute=True, accumulate=2)
    run(5, shard=True, checkpoint=folder / "spread")
    found["resumed"] = run(9, shard=True, checkpoint=folder / "spread", resume=True)
    if rank == 0:
        anew = given()
        anew.load_state_dict(found["together"])
        anew.save_pretrained(folder / "anew")
        found["anew"] = vk.VAE.from_pretrained(folder / "anew", model=given()).state_dict()
    loaded = given()
    vk.training.load_checkpoint(loaded, folder / "spread")
    found["loaded"] = loaded.state_dict()
    patient = {"validation": data(), "validate_every": 1, "patience": 3, "scheduler": wandering}
    found["patient"] = run(12, **patient), run(12, shard=True, **patient)
    found["asked"] = asked
    holed = values()[:8]
    holed[7, 3] = torch.nan
    refused = [
        {"ema": 0.9},
        {"compile": True},
        {"channels_last": True},
        {"source": [holed], "name": "elbo"},
    ]
    refused += [{"optimizer": torch.optim.SGD(given().parameters(), 0.1)}, {"shard": "paper"}]
    refused += [{"validation": data() if rank == 0 else None}]
    found["errors"] = []
    for options in refused:
        try:
            run(1, **{"shard": True, "pairs": False} | options)
        except ValueError as error:
            found["errors"].append(str(error))
    try:
        run(1, shard=True, callbacks=[lambda state: state.model.save_pretrained(folder)])
    except ValueError as error:
        found["errors"].append(str(error))
    return found


def batches() -> list[dict[str, torch.Tensor]]:
    """The first two batches, whole."""
    return [*DataLoader(data(), max(SIZES))][:2]


def dealt(rank: int, count: int) -> list[dict[str, torch.Tensor]]:
    """A process's part of them: of some the second is larger, and some have a third."""
    own, more = [], [0, rank % 2]
    for batch, larger in zip(batches(), more, strict=True):
        part = {key: value.chunk(count)[rank] for key, value in batch.items()}
        extra = {key: value.repeat(2, 1)[: len(value) + larger] for key, value in part.items()}
        own.append(extra)
    return own + own[:1] * (rank % 2)


def interleaved(count: int) -> list[int]:
    """The order in which a sampler deals elements to processes, a batch after the other."""
    rows = torch.arange(16).view(-1, count)
    return [int(row) for part in rows.split(8 // count) for row in part.T.flatten()]


def main() -> None:
    folder = Path(sys.argv[1])
    if "RANK" not in os.environ:  # no launcher's: alone, where no checker is in a compiler's way
        found = {name: otherwise(**options) for name, options in OTHERWISE.items()}
        torch.save(found, folder / "alone.pt")
        return
    results = {f"{name}, {n}": trained(name, n) for name in OBJECTIVES for n in (1, 3)}
    for workers in (0, 2):
        loader = DataLoader(data(), max(SIZES), num_workers=workers)
        results[f"loader, {workers}"] = trained("stratified", source=loader)
    whole = [*DataLoader(data(), max(SIZES))]
    results["batches"] = trained("mmd", source=whole)
    rank, count = torch.distributed.get_rank(), torch.distributed.get_world_size()
    results["dealt"] = trained("mmd", source=dealt(rank, count), divided=True)
    elements = torch.utils.data.Subset(data(), range(16))
    sampler = DistributedSampler(elements, count, rank, shuffle=False)
    loader = DataLoader(elements, 8 // count, sampler=sampler)
    results["sampled"] = trained("stratified", source=loader, divided=True)
    own = data().subset(range(rank, sum(SIZES), count))  # of which some have one more
    results["of arrays"] = trained("stratified", source=own, divided=True)
    results["around"] = around()
    if count == 2:  # of four, two cores would compile for long
        results |= {name: otherwise(**options) for name, options in OTHERWISE.items()}
    results["sharing"] = sharing(folder)
    for name in ("elbo", "iwae", "stratified", "mmd", "factor"):
        for parts in (1, 3):
            results[f"{name}, {parts}, spread"] = trained(name, parts, shard=True)
    results["spread"] = spread(folder)
    torch.save(results, folder / f"{torch.distributed.get_rank()}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
