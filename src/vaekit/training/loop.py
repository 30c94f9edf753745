"""The training loop, on accelerate."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vaekit import _checks, datasets, storage
from vaekit.datasets.batches import ArrayBatches
from vaekit.objectives import Objective, Term
from vaekit.training import arguments, sharding
from vaekit.training.checkpoints import Checkpoints, Writer
from vaekit.training.graphs import Graphs
from vaekit.training.history import History, versions
from vaekit.training.how import How, Precision, check_precision
from vaekit.training.measures import (
    check_parts,
    check_samples,
    dataset_size,
    device_of,
)
from vaekit.training.optimizers import Inner, make_optimizer, make_scheduler
from vaekit.training.passes import Passes
from vaekit.training.randomness import fork_seed
from vaekit.training.rows import Callback, Rows
from vaekit.training.run import Run, total_steps
from vaekit.training.settings import of_model, of_optimizer, of_scheduler, said
from vaekit.training.shares import dealt
from vaekit.training.steps import Steps
from vaekit.training.terminal import Bar, interruptible
from vaekit.training.trackers import trackers, tracking
from vaekit.training.validation import Validation
from vaekit.training.world import World
from vaekit.vae import VAE, dtype_of

__all__ = ["fit"]


#: Settings that the first process alone goes by, which measures for all.
_OF_THE_FIRST = ("validation", "elements of validation", "metrics")

_LEARNING_RATE = 1e-3  # of Adam, where none is given


def fit(
    model: VAE,
    objective: Objective | Term,
    data: Any,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 128,
    pairs: bool | None = None,
    validation: Any = None,
    validate_every: int | None = None,
    optimizer: Optimizer | Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
    learning_rate: float | None = None,
    scheduler: LRScheduler | ReduceLROnPlateau | Callable[[Optimizer], Any] | None = None,
    clip_grad_norm: float | None = None,
    accumulate: int = 1,
    ema: float | None = None,
    precision: Precision | None = None,
    channels_last: bool = False,
    recompute: bool = False,
    shard: bool | str = False,
    divided: bool = False,
    samples: int | None = None,
    corruption: Callable[[Tensor], Tensor] | None = None,
    patience: int | None = None,
    seed: int | None = None,
    compile: bool = False,
    cuda_graph: bool = False,
    progress: bool = True,
    metrics: Mapping[str, Any] | None = None,
    log_with: Any = None,
    log_dir: str | PathLike[str] = "runs",
    callbacks: Sequence[Callback] = (),
    checkpoint: str | PathLike[str] | Checkpoints | None = None,
    resume: bool = False,
) -> History:
    """Train a model on the device that holds it, and leave it there in evaluation mode.

    Started by a launcher (``torchrun``, ``accelerate launch``), the processes train one model
    together, each on its part of every batch, and all end with the same weights. Gradients are
    those of one process with the whole batch: what compares its elements (TC, MMD, DIP) is computed
    over those of all. The first process shows the bar, asks the callbacks, measures the validation
    data and writes checkpoints.

    Ctrl-C ends training after the step under way, with the model and the history as they then are;
    pressed twice, it interrupts at once. Whatever error ends training carries what was measured
    until then as its ``history``.

    Args:
        model: What is trained.
        objective: What is minimised: ``vk.Reconstruction() + 4 * vk.KL()``.
        data: A data set, a loader, an array, or any iterable of batches ``x``, ``(x, y)`` or of
            mappings with ``x`` (and ``target``, where that differs). A model that takes a context
            is given ``y``. Values are held against the likelihood's support at every batch; once,
            where a `vaekit.datasets.ArrayDataset` of bytes or of binarised values tells by itself
            that they lie in it.
        epochs: How often to go through the data; give this or ``steps``.
        steps: How many steps to take.
        batch_size: How many elements a batch has, where the data come unbatched.
        pairs: Whether a batch is ``(input, target)``, the second to be reconstructed from the
            first, or ``(x, label)``. None takes the second for a label, and refuses where it could
            be either.
        validation: Data to evaluate on at the end of each row of the history. Of several processes
            the first alone needs them, but with ``shard`` each does.
        validate_every: How many steps make a row of the history; an epoch if None.
        optimizer: One over the parameters of ``model`` and ``objective``, or a function that makes
            one of them; any whose step needs no closure. If None, Adam with ``learning_rate``,
            fused where that exists.
        learning_rate: Of that Adam, 1e-3 if None; an optimiser that is given has its own.
        scheduler: A learning-rate scheduler, or a function that makes one of the optimiser. It
            advances with every step; ``ReduceLROnPlateau`` with every row, on the validation loss
            (the training loss without validation).
        clip_grad_norm: What the gradient's norm is cut to.
        accumulate: In how many parts a batch goes through the model, one after the other, so that
            memory holds the values of one alone. The gradient is that of the whole batch: terms
            that compare its elements are given all of them, for which the batch goes through the
            model once more, without gradients.
        ema: The decay of an exponential moving average of the weights, such as 0.999: what is
            validated, given to callbacks, and left in the model at the end.
        precision: ``"bf16"`` or ``"fp16"`` lets networks compute in half precision, under torch's
            autocast; gradients of the latter are scaled. Weights, distributions and losses stay in
            single precision, but for what a posterior computes by matrix products as it is drawn
            from (`latents.FullGaussianLatent`, flows).
        channels_last: Whether images and convolutions are laid out with the channels last, as
            convolutions are often faster. The weights stay so.
        recompute: Whether every ``nn.Sequential`` of four layers or more, those of
            `vaekit.networks` among them, keeps but a few of the values between its layers and
            computes the others again in the backward pass: less memory, for a third more work.
        shard: Whether each of several processes holds a piece alone of the weights, the gradients
            and the optimiser's state of the encoder's and the decoder's networks, for models that
            outgrow a device: torch's ``fully_shard``, layer by layer of a ``Sequential`` or a
            ``ModuleList``. The name of a kind of device (``"cuda"``) spreads a model over those
            that is too large for one, and held by the processor. The model stays spread, and
            whatever is asked of it has to be asked in every process; callbacks are called in all.
            Checkpoints hold it whole.
        divided: Whether each of several processes is given a part of the data alone, as where a
            library deals out the shards of a stream (webdataset's ``nodesplitter``, Hugging Face's
            ``split_dataset_by_node``) or a ``DistributedSampler`` the elements. A batch is then
            that of every process put together, each cut to the smallest, and an epoch ends where
            one process has no more; ``batch_size`` is that of each. Otherwise all are given the
            same data, and take their part of every batch by themselves.
        samples: How many draws of z each element has, for objectives that take several.
        corruption: What is done to the input of the encoder, a function of the batch ``x``; what is
            to be reconstructed stays as it was. Validation data are corrupted likewise.
        patience: After how many rows without a lower validation loss to stop. While schedules
            still change the objective, every row counts as the best. At the end, whether it stopped
            early or finished, the parameters of the best row are put back.
        seed: Of everything that is random, for a run that repeats. It is forked: the order of the
            data and their binarisation have a generator of their own, whatever the model draws,
            where the data come unbatched; torch's, numpy's and Python's global ones are seeded for
            the rest. See `fork_seed`.
        compile: Whether to run the forward pass and the losses through ``torch.compile``; the
            forward pass alone where a batch comes in parts or to several processes. A graph
            looks at no values, so the data are then checked in the first batch alone. Its noise is
            not that of the same seed without it. Terms made of gradients (DReG, the gradient
            penalty) are refused where torch cannot trace the model in one piece, as 2.11 never can
            for DReG. Validation, and what terms train by themselves, is not compiled.
        cuda_graph: Whether to capture whole steps (forward, backward, clipping, the optimiser, the
            average of the weights) in CUDA graphs and repeat those, one for each shape of batch
            from its second time on. A step of a small model takes a GPU less time than it takes a
            processor to ask for: such a model trains several times faster. It draws the same noise,
            and ends with the same weights to rounding. The data are checked where a shape first
            comes; the numbers are read some steps at a time, and the parameters are still left
            as they were before a step whose loss is not finite. The optimiser is Adam or AdamW with
            ``fused=True``; its learning rate and the weights of terms may change at each step, and
            so may what ``Term.set_step`` writes into a tensor, but what else the model does in
            Python is done as it is captured and not again. Goes with ``compile``, and not with
            several processes, ``accumulate``, ``recompute``, ``precision="fp16"`` or terms that
            train parameters of their own.
        progress: Whether to show a bar.
        metrics: By name, metrics of torchmetrics (or whatever has ``update``, ``compute`` and
            ``reset``) of ``(x_hat, target)``, taken over the validation data beside the terms.
            Those that compare two sets (FID, KID), by ``update(images, real=)``, are shown the
            targets and the reconstructions.
        log_with: The name of a tracker that accelerate knows (``"tensorboard"``, ``"wandb"``,
            ``"mlflow"``, ...), a tracker of its making, or several: given each row of the history.
        log_dir: Where trackers write that keep their logs in files; a folder for each run keeps
            them apart.
        callbacks: Functions of a `TrainingState`, called at the end of each row; one that returns
            True ends training.
        checkpoint: A folder to write training down in, at the end of each row; `Checkpoints` says
            more. A run that was killed at any step, and is started again with ``resume=True`` and
            all else as it was, ends with the same weights as one that was not, bit for bit where
            the operations repeat exactly, as they do on a processor.
        resume: Whether to go on from the newest whole checkpoint of the folder; from the beginning
            if it has none at all. A damaged one is laid aside with a warning. Data that come as
            batches are gone through again up to where the run was, so they must come in the same
            order: by torch's, numpy's or Python's global generators, or by a ``DataLoader``'s own.
            Where the last of them is another, a warning says so.
            Callbacks and a corruption that have a ``state_dict`` are written down too. Not written
            are what others of them keep, flags (``requires_grad``) that a callback sets, and the
            random states of workers that live on between epochs. Resume with parts made anew: an
            option that was changed since, such as a rate of dropout, makes the model another. A run
            that a callback ended goes on.

    Returns:
        The history, in nats.

    Raises:
        ImportError: If the package of a tracker is not installed.
        DamagedFileError: If every checkpoint to go on from is damaged.
        NonFiniteLossError: If the loss, the data or the parameters are infinite or NaN, naming
            what, the step and the batch; the parameters are left as they were before that step.
        OSError: If a checkpoint cannot be written; those before it are untouched.
        TypeError: If the data are none that can be gone through.
        ValueError: If an argument does not fit, the data are empty, they lie outside the
            likelihood's support, or the run to go on with is another.

    Example:
        >>> latent = vk.GaussianLatent(2)
        >>> encoder = vk.Encoder(vk.networks.mlp(64, [32], latent.num_params), latent)
        >>> decoder = vk.Decoder(vk.networks.mlp(2, [32], 64), vk.likelihoods.Bernoulli((1, 8, 8)))
        >>> model = vk.VAE(encoder, decoder)
        >>> train, test = vk.datasets.digits(binarize="dynamic")
        >>> objective = vk.Reconstruction() + vk.KL()
        >>> history = fit(model, objective, train, epochs=2, validation=test, progress=False)
        >>> history["loss"].shape
        (2,)
    """
    from accelerate.utils import set_seed

    objective = check_parts(model, objective)
    home = _checks.device("shard", shard) if isinstance(shard, str) else device_of(model)
    world = World.joined(home)
    arguments.say_ignored(precision, accumulate, shard)
    spread = world.size > 1 and (bool(shard) or any(map(storage.is_spread, model.parameters())))
    if spread:
        arguments.check_spread(objective, optimizer, ema, precision, channels_last, compile)
    arguments.check_length(epochs, steps, data)
    arguments.check_options(
        callbacks=callbacks,
        patience=patience,
        validation=validation,
        measures=world.leads or spread,
        metrics=metrics,
        validate_every=validate_every,
        accumulate=accumulate,
        ema=ema,
        clip_grad_norm=clip_grad_norm,
        learning_rate=learning_rate,
        optimizer=optimizer,
        scheduler=scheduler,
        corruption=corruption,
        objective=objective,
        shard=shard,
        channels_last=channels_last,
        recompute=recompute,
        divided=divided,
        compile=compile,
        cuda_graph=cuda_graph,
        resume=resume,
        **{} if pairs is None else {"pairs": pairs},
    )
    dtype = dtype_of(model)
    check_precision(precision, dtype)
    samples = check_samples(objective, samples)
    if cuda_graph:
        arguments.check_captured(objective, home, world, accumulate, precision, recompute)
    divided = divided and world.size > 1
    seed = None if seed is None else _checks.seed("seed", seed)
    checkpoints = arguments.as_checkpoints(checkpoint, resume)
    how = How(samples, corruption, precision, channels_last, recompute)
    # Before its layers are spread, which changes their classes.
    made_of = {} if checkpoints is None else of_model(model)
    # Before anything is drawn or written, whatever is wrong with them.
    order = torch.Generator() if seed is not None or world.size > 1 else None
    loader = datasets.loader(data, batch_size, shuffle=True, generator=order, dtype=dtype)
    if isinstance(loader, ArrayBatches) and not (pairs or model.takes_context):
        loader.without_classes()
    arguments.check_data(model, objective, data, validation, batch_size, divided)
    made = world.together(lambda: trackers(log_with, log_dir), world.device_for(home))
    if order is not None:
        shared = world.agreed(lambda: int(torch.randint(2**32, ()))) if seed is None else seed
        set_seed(fork_seed(shared, " ".join(["noise", *[str(world.rank)] * (world.rank > 0)])))
        own = [str(world.rank)] * (divided and world.rank > 0)
        order.manual_seed(fork_seed(shared, " ".join(["data", *own])))

    device = world.device_for(home)
    if not spread:
        model.to(device)
    objective.to(device, dtype)
    world.level(model, objective, device=device, weights=True)
    if spread:
        sharding.shard(model, world, device)
        model.to(device)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    inner = Inner(objective)
    # Each once, where a term holds the model.
    parameters = [*dict.fromkeys([*model.parameters(), *inner.without(objective.parameters())])]
    optimizer = make_optimizer(optimizer, parameters, learning_rate or _LEARNING_RATE)
    if spread:
        sharding.apart(optimizer)
    scheduler = make_scheduler(scheduler, optimizer)
    plateau = scheduler if isinstance(scheduler, ReduceLROnPlateau) else None
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    cleared = [*dict.fromkeys([*parameters, *trained])]
    averaged = None if ema is None else AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema))
    shown: Any = model if averaged is None else averaged.module
    scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None

    history = History(seed=seed, versions=versions())
    measure = Validation(shown, objective, validation, batch_size, pairs, how, metrics)
    asked: list[Callback] = [*callbacks]
    rows = Rows(
        model=shown,
        trained=model,
        objective=objective,
        optimizer=optimizer,
        history=history,
        measure=measure,
        plateau=plateau,
        patience=patience,
        callbacks=asked,
        world=world,
        device=device,
        spread=spread,
    )
    parts = {"model": model, "objective": objective, "optimizer": optimizer}
    parts |= {} if averaged is None else {"averaged": averaged}
    parts |= {} if scheduler is None else {"scheduler": scheduler}
    parts |= {} if scaler is None else {"scaler": scaler}
    parts |= {f"optimizer of {term.name}": its for term, its in inner.terms}
    asides = {"corruption": corruption} | {f"callback {i}": c for i, c in enumerate(callbacks, 1)}
    for name, given in (asides | objective.schedules()).items():
        if hasattr(given, "state_dict") and not isinstance(given, type):
            parts[name] = given
    sizes = world.collected(datasets.size(data)) if divided else [datasets.size(data)]
    size = None if None in sizes else sum(each or 0 for each in sizes)
    settings = {
        "batch_size": batch_size,
        "data": None if size is None else f"{size} elements",
        "kind of data": type(loader).__name__,
        "batches of data": None if divided else total_steps(loader, 1),
        "binarize": getattr(data, "binarize", None),
        "elements of validation": datasets.size(validation),
        "samples": samples,
        "seed": seed,
        "objective": re.sub(" at 0x[0-9a-f]+", "", repr(objective)),
        "validation": validation is not None,
        "validate_every": validate_every,
        "patience": None if patience is None else "a number of rows",
        "clip_grad_norm": clip_grad_norm,
        "accumulate": accumulate,
        "ema": ema,
        "precision": precision,
        "channels_last": channels_last,
        "shard": spread,
        "divided": divided,
        "processes": world.size,
        "learning_rate": None if learning_rate == _LEARNING_RATE else learning_rate,
        "pairs": pairs,
        "corruption": corruption is not None,
        "compile": compile,
        "metrics": ", ".join(metrics or ()),
        "model": f"one of {str(dtype).removeprefix('torch.')}",
        "optimizer": of_optimizer(optimizer),
        "scheduler": of_scheduler(scheduler),
    }
    apart = () if spread else _OF_THE_FIRST  # whose pieces every process is asked for
    alike = {name: value for name, value in settings.items() if name not in apart}
    world.check_alike(alike)
    logged = {k: said(each) if isinstance(each, dict) else each for k, each in settings.items()}
    draws = 0 if order is None else order.initial_seed()
    unpack = partial(datasets.unpack, pairs=pairs, dtype=dtype)
    shares = dealt(loader, world, unpack, draws, divided)
    loaders = [getattr(shares, "source", loader), validation]
    known = settings if world.leads else alike
    writer = Writer(checkpoints, device, parts, rows, known | made_of, loaders, world)
    step, epoch, _ = writer.start(resume)
    passes = Passes(
        model,
        objective,
        how,
        world,
        trained=cleared,
        parts=accumulate,
        scaler=scaler,
        support=data.support if isinstance(data, datasets.ArrayDataset) else constraints.real,
        keeping=bool(inner.terms),
        compiled=compile,
        checked=step > 0,  # by the run that this one goes on with
    )
    graphs = None
    if cuda_graph:
        graphs = Graphs(
            passes.values,
            model,
            objective,
            optimizer,
            cleared=cleared,
            clip=clip_grad_norm,
            averaged=averaged,
            device=device,
        )
    expected = steps if steps is not None else total_steps(loader, epochs)

    def note(names: Sequence[str], numbers: Sequence[float], count: int) -> None:
        """Take note of a step's numbers."""
        rows.add(names, numbers, count)
        bar.update(names, numbers)

    stepper = Steps(
        model=model,
        passes=passes,
        graphs=graphs,
        optimizer=optimizer,
        inner=inner,
        cleared=cleared,
        clip=clip_grad_norm,
        scaler=scaler,
        averaged=averaged,
        by_step=None if plateau else scheduler,
        device=device,
        world=world,
        note=note,
    )

    run = Run(
        loader=loader,
        shares=shares,
        unpack=unpack,
        stepper=stepper,
        rows=rows,
        writer=writer,
        world=world,
        epochs=epochs,
        steps=steps,
        validate_every=validate_every,
        step=step,
        epoch=epoch,
    )
    failed = True

    model.train()
    try:
        with (
            dataset_size(objective, size),
            tracking(made, logged, world) as loggers,
            interruptible() as interrupted,
            Bar(expected, progress and world.leads, step) as bar,
        ):
            asked[:0] = loggers
            if not step and not spread:  # whose pieces every process would have to ask
                world.agreed(lambda: measure.look(device))
            run.go(interrupted)
        failed = False
    except BaseException as error:
        error.history = history  # type: ignore[attr-defined]
        raise
    finally:
        model.eval()
        if rows.best is not None and history.stopped in ("early", "finished"):
            model.load_state_dict(sharding.loadable(model, rows.best))
            if rows.best_of_terms is not None:
                objective.load_state_dict(rows.best_of_terms)
        elif averaged is not None and averaged.n_averaged > 0 and not failed:
            model.load_state_dict(shown.state_dict())
    return history
