"""The training loop, on accelerate."""

import math
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from vaekit import _checks, datasets
from vaekit.datasets.batches import element_shape
from vaekit.objectives import Objective, Term
from vaekit.training.checkpoints import Checkpoints, Position, Writer
from vaekit.training.history import History, NonFiniteLossError, versions
from vaekit.training.measures import (
    How,
    check_parts,
    check_samples,
    context_of,
    dataset_size,
    device_of,
    dtype_of,
    evaluate,
    fork_seed,
    read_numbers,
)
from vaekit.training.rows import Callback, Rows
from vaekit.vae import VAE, VAEOutput

__all__ = ["fit"]

_Forward = Callable[[Tensor, Tensor, Tensor | None], "_Passed"]
_Passed = tuple[dict[str, Tensor], VAEOutput | None]  # the named terms, and what they are made of


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
    learning_rate: float = 1e-3,
    scheduler: LRScheduler | ReduceLROnPlateau | Callable[[Optimizer], Any] | None = None,
    clip_grad_norm: float | None = None,
    samples: int | None = None,
    corruption: Callable[[Tensor], Tensor] | None = None,
    patience: int | None = None,
    seed: int | None = None,
    compile: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | PathLike[str] | Checkpoints | None = None,
    resume: bool = False,
) -> History:
    """Train a model on the device that holds it, and leave it there in evaluation mode.

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
        validation: Data to evaluate on at the end of each row of the history.
        validate_every: How many steps make a row of the history; an epoch if None.
        optimizer: One over the parameters of ``model`` and ``objective``, or a function that makes
            one of them. If None, Adam with ``learning_rate``, fused where that exists.
        learning_rate: Of that Adam.
        scheduler: A learning-rate scheduler, or a function that makes one of the optimiser. It
            advances with every step; ``ReduceLROnPlateau`` with every row, on the validation loss
            (the training loss without validation).
        clip_grad_norm: What the gradient's norm is cut to.
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
        compile: Whether to run the forward pass and the losses through ``torch.compile``. A graph
            looks at no values, so the data are then checked in the first batch alone. Its noise is
            not that of the same seed without it. Terms made of gradients (DReG, the gradient
            penalty) take a torch that traces them, and a model that can be traced in one piece.
            Validation, and what terms train by themselves, is not compiled.
        progress: Whether to show a bar.
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
            Callbacks and a corruption that have a ``state_dict`` are written down too. Not written
            are what others of them keep, flags (``requires_grad``) that a callback sets, and the
            random states of workers that live on between epochs.

    Returns:
        The history, in nats.

    Raises:
        DamagedFileError: If every checkpoint to go on from is damaged.
        NonFiniteLossError: If the loss, the data or the parameters are infinite or NaN, naming
            what, the step and the batch; the parameters are left as they were before that step.
        NotImplementedError: If started by a launcher in several processes.
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
    from accelerate import PartialState
    from accelerate.utils import set_seed

    objective = check_parts(model, objective)
    _check_length(epochs, steps, data)
    for callback in callbacks if isinstance(callbacks, Sequence) else [None]:
        if not callable(callback):
            what = "a sequence of functions"
            raise TypeError(_checks.expected("callbacks", what, repr(callbacks)))
    if patience is not None:
        _checks.positive_int("patience", patience)
        if validation is None:
            raise ValueError(_checks.expected("validation", "data, where patience is set", None))
    if validate_every is not None:
        _checks.positive_int("validate_every", validate_every)
    how = How(check_samples(objective, samples), corruption)
    if clip_grad_norm is not None:
        _checks.number("clip_grad_norm", clip_grad_norm, above=0)
    _checks.number("learning_rate", learning_rate, above=0)
    checkpoints = _as_checkpoints(checkpoint, resume)
    order = None
    if seed is not None:
        set_seed(fork_seed(seed, "noise"))
        order = torch.Generator().manual_seed(fork_seed(seed, "data"))
    if isinstance(validation, Iterator):
        what = "data that can be gone through again"
        raise TypeError(_checks.expected("validation", what, type(validation).__name__))
    dtype = dtype_of(model)
    if validation is not None:
        datasets.loader(validation, batch_size, argument="validation")
        _check_same_shape(data, validation)
        _check_last_batch(objective, "validation", validation, batch_size)
    loader = datasets.loader(data, batch_size, shuffle=True, generator=order, dtype=dtype)
    _check_last_batch(objective, "data", data, batch_size)

    # In one process of full precision accelerate's wrappers do nothing but divide by 1 and look for
    # packages at every step, and its Accelerator would fix the precision of all that come later.
    if PartialState().num_processes > 1:
        raise NotImplementedError("fit trains in one process; start the script without a launcher.")
    device = device_of(model)
    objective.to(device, dtype)
    inner = _Inner(objective)
    parameters = [*model.parameters(), *inner.without(objective.parameters())]
    optimizer = _make_optimizer(optimizer, parameters, learning_rate)
    scheduler = scheduler(optimizer) if callable(scheduler) else scheduler
    if scheduler is not None and getattr(scheduler, "optimizer", optimizer) is not optimizer:
        what = "one over the optimiser in use, or a function that makes one of it"
        raise ValueError(_checks.expected("scheduler", what, "one over another optimiser"))
    plateau = scheduler if isinstance(scheduler, ReduceLROnPlateau) else None
    by_step = None if plateau else scheduler
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    cleared = list({id(parameter): parameter for parameter in [*parameters, *trained]}.values())
    support = data.support if isinstance(data, datasets.ArrayDataset) else constraints.real
    conditional = model.takes_context

    def measure(step: int) -> dict[str, float] | None:
        if validation is None:
            return None
        return evaluate(
            model,
            objective,
            validation,
            batch_size=batch_size,
            pairs=pairs,
            samples=samples,
            corruption=corruption,
            step=step,
        )

    history = History(seed=seed, versions=versions())
    rows = Rows(model, objective, optimizer, history, measure, plateau, patience, callbacks)
    parts = {"model": model, "objective": objective, "optimizer": optimizer}
    parts |= {} if scheduler is None else {"scheduler": scheduler}
    parts |= {f"optimizer of {term.name}": its for term, its in inner.terms}
    size = datasets.size(data)
    for index, given in enumerate([corruption, *callbacks]):
        if hasattr(given, "state_dict") and not isinstance(given, type):
            parts[f"callback {index}" if index else "corruption"] = given
    settings = {
        "batch_size": batch_size,
        "data": None if size is None else f"{size} elements",
        "samples": samples,
        "seed": seed,
        "objective": re.sub(" at 0x[0-9a-f]+", "", repr(objective)),
        "validation": validation is not None,
        "validate_every": validate_every,
        "clip_grad_norm": clip_grad_norm,
        "learning_rate": learning_rate,
        "optimizer": type(optimizer).__name__,
        "scheduler": None if scheduler is None else type(scheduler).__name__,
    }
    writer = Writer(checkpoints, device, parts, rows, settings, [loader, validation])
    step, epoch, _ = writer.start(resume)
    checked = step > 0  # by the run that this one goes on with
    forward = _forward(model, objective, how, support, bool(inner.terms), compile, checked)
    total_steps = steps if steps is not None else _total_steps(loader, epochs)

    def ends() -> bool:
        return step >= (steps or math.inf) or epoch >= (epochs or math.inf)

    done = ends() or history.stopped == "early"

    model.train()
    try:
        with (
            dataset_size(objective, size),
            _interruptible() as interrupted,
            _Bar(total_steps, progress, step) as bar,
        ):
            while not done:
                epoch += 1
                batch_index = writer.passed - 1
                for batch_index, raw in writer.batches(loader):
                    batch = datasets.unpack(raw, pairs=pairs)
                    x = batch.x.to(device, non_blocking=True)
                    target = x
                    if batch.target is not batch.x:
                        target = batch.target.to(device, non_blocking=True)
                        _checks.no_nan("target", target)
                    context = context_of(batch, device) if conditional else None
                    try:
                        objective.set_step(step)
                        values, out = forward(x, target, context)
                        total = objective.total(values, step)
                        names, numbers = ["loss", *values], read_numbers([total, *values.values()])
                        if not all(map(math.isfinite, numbers)):
                            _explain(model, x, target, names, numbers)
                    except _checks.NotFiniteError as error:
                        what = str(error)
                        name = what.split(":")[0]
                        raise NonFiniteLossError(step, name, batch_index, what) from error
                    for parameter in cleared:
                        parameter.grad = None
                    total.backward()
                    if clip_grad_norm is not None:
                        nn.utils.clip_grad_norm_(trained, clip_grad_norm)
                    optimizer.step()
                    if out is not None:
                        inner.step(out, target)
                    if by_step is not None:
                        by_step.step()
                    rows.add(names, numbers, len(x))
                    step += 1
                    bar.update(names, numbers)
                    done, ended = steps is not None and step >= steps, False
                    if validate_every is not None and step % validate_every == 0:
                        done = rows.close(step, epoch, _part(batch_index, loader)) or done
                        ended = True
                    if interrupted():
                        # As the run now is, for the row that is closed would not have been.
                        writer.write(Position(step, epoch - 1, batch_index + 1))
                        history.stopped, done = "interrupted", True
                    if done:
                        break
                    if ended or writer.due(step):
                        writer.write(Position(step, epoch - 1, batch_index + 1))
                if batch_index < 0:
                    _say_empty(epoch)
                    break
                at = Position(step, epoch - 1, batch_index + 1) if done else Position(step, epoch)
                part = _part(batch_index, loader) if done else 1.0
                done = done or ends()
                if done or validate_every is None:
                    done = rows.close(step, epoch, part) or done
                    if history.stopped != "interrupted":
                        writer.write(at)
    except BaseException as error:
        error.history = history  # type: ignore[attr-defined]
        raise
    finally:
        model.eval()
        if rows.best is not None and history.stopped in ("early", "finished"):
            model.load_state_dict(rows.best)
    return history


class _Bar:
    """A progress bar that words its numbers only when it is drawn."""

    def __init__(self, total: int | None, shown: bool, step: int) -> None:
        from tqdm.auto import tqdm

        shape = {"total": total, "initial": step, "unit": "step", "dynamic_ncols": True}
        self._bar = tqdm(disable=not shown, **shape)
        self._drawn = time.monotonic()
        self._waiting = 0

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.update(self._waiting)
        self._bar.close()

    def update(self, names: Sequence[str], numbers: Sequence[float]) -> None:
        self._waiting += 1
        if self._bar.disable or time.monotonic() - self._drawn < 0.2:
            return
        shown = {name: f"{value:.2f}" for name, value in zip(names, numbers, strict=True)}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(self._waiting)
        self._drawn, self._waiting = time.monotonic(), 0


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a flag, where signals can be handled; the second acts at once."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = signal.getsignal(signal.SIGINT)

    def note(*_: object) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _as_checkpoints(
    given: str | PathLike[str] | Checkpoints | None, resume: bool
) -> Checkpoints | None:
    if resume and given is None:
        raise ValueError(_checks.expected("checkpoint", "a folder, where resume=True", None))
    if isinstance(given, str | PathLike):
        return Checkpoints(given)
    if not isinstance(given, Checkpoints | None):
        what = "a folder, or Checkpoints"
        raise TypeError(_checks.expected("checkpoint", what, repr(given)))
    return given


def _check_length(epochs: int | None, steps: int | None, data: Any) -> None:
    if (epochs is None) == (steps is None):
        got = "neither" if epochs is None else "both"
        raise ValueError(_checks.expected("epochs", "either epochs= or steps=", got))
    _checks.positive_int(*(("epochs", epochs) if steps is None else ("steps", steps)))
    if epochs is not None and epochs > 1 and isinstance(data, Iterator):
        what = "data that can be gone through again, where epochs is above 1"
        hint = "Give steps= instead, or an object with __iter__."
        raise ValueError(_checks.expected("data", what, type(data).__name__, hint))


def _check_same_shape(data: Any, validation: Any) -> None:
    """Refuse validation data of another shape, where both tell theirs."""
    one, other = element_shape(data), element_shape(validation)
    if one is not None and other is not None and one != other:
        what = f"elements of shape {tuple(one)}, as data has"
        raise ValueError(_checks.expected("validation", what, tuple(other)))


def _check_last_batch(objective: Objective, argument: str, data: Any, batch_size: int) -> None:
    """Refuse a last batch of one element where a term compares the elements of a batch."""
    comparing = [term for term, _ in objective.pairs if term.compares]
    size = None if isinstance(data, torch.utils.data.DataLoader) else datasets.size(data)
    single = size is not None and size > 1 and (batch_size == 1 or size % batch_size == 1)
    if comparing and single:
        what = f"a size that leaves no batch of one element, for {comparing[0]!r}"
        got = f"{batch_size} for the {size} elements of {argument}"
        raise ValueError(_checks.expected("batch_size", what, got))


def _make_optimizer(
    given: Optimizer | Callable[[Iterable[nn.Parameter]], Optimizer] | None,
    parameters: Sequence[nn.Parameter],
    learning_rate: float,
) -> Optimizer:
    if isinstance(given, Optimizer):
        held = {id(p) for group in given.param_groups for p in group["params"]}
        if held.isdisjoint(map(id, parameters)):
            what = "an optimiser over the model's parameters"
            raise ValueError(_checks.expected("optimizer", what, "one over others"))
        return given
    if not parameters:
        raise ValueError(_checks.expected("model", "at least one parameter to train", "none"))
    if given is not None:
        if not callable(given):
            what = "an optimiser, or a function that makes one of the parameters"
            raise TypeError(_checks.expected("optimizer", what, repr(given)))
        return given(parameters)
    try:
        return torch.optim.Adam(parameters, learning_rate, fused=True)
    except RuntimeError:  # no fused kernel for this device or dtype
        return torch.optim.Adam(parameters, learning_rate)


class _Inner:
    """Trains the parameters that terms own, each by what it minimises itself."""

    def __init__(self, objective: Objective) -> None:
        made = [(term, term.inner_optimizer()) for term, _ in objective.pairs]
        self.terms = [(term, optimizer) for term, optimizer in made if optimizer is not None]

    def without(self, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """Leave out the parameters trained here."""
        own = {id(parameter) for term, _ in self.terms for parameter in term.parameters()}
        return [parameter for parameter in parameters if id(parameter) not in own]

    def step(self, out: VAEOutput, x: Tensor) -> None:
        """Take a step of each, on draws of their own and without a gradient to the model.

        They are drawn from the posteriors of the step's own pass, so that nothing which moves as
        the model is called (statistics of batches, a codebook) moves twice.
        """
        for term, optimizer in self.terms:
            optimizer.zero_grad()
            loss = term.inner_loss(out, x)
            if loss is not None:
                loss.backward()
                optimizer.step()


def _forward(
    model: VAE,
    objective: Objective,
    how: How,
    support: constraints.Constraint,
    keeping: bool,
    compiled: bool,
    checked: bool,
) -> _Forward:
    """Make the function from a batch to the named terms, and what they were made of if kept."""
    known = False

    def forward(x: Tensor, target: Tensor, context: Tensor | None) -> _Passed:
        out = how(model, x, context)
        return objective.values(out, target), out if keeping else None

    def looking_once(x: Tensor, target: Tensor, context: Tensor | None) -> _Passed:
        nonlocal known
        out = how(model, x, context)
        if known:
            out.likelihood._validate_args = False
        values = objective.values(out, target)
        known = known or _inside(support, out.likelihood)
        return values, out if keeping else None

    if not compiled:
        return looking_once
    fast = _tracing(objective)(torch.compile(forward))

    def checked_first(x: Tensor, target: Tensor, context: Tensor | None) -> _Passed:
        # A compiled graph looks at no values, so the first batch goes through unhurried.
        nonlocal checked
        if not checked:
            forward(x, target, context)
            checked = True
        return fast(x, target, context)

    return checked_first


def _tracing(objective: Objective) -> Callable[[_Forward], _Forward]:
    """Have a compiled function take the gradients into its graph that terms are made of."""
    differentiating = [term for term, _ in objective.pairs if term.differentiates]
    if not differentiating:
        return lambda fast: fast
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        what = f"False for {differentiating[0]!r}, whose gradients this torch does not trace"
        raise ValueError(_checks.expected("compile", what, True))
    traced: Callable[[_Forward], _Forward] = torch._dynamo.config.patch(trace_autograd_ops=True)
    return traced


def _inside(support: constraints.Constraint, likelihood: Distribution) -> bool:
    """Tell whether data of a support need no look, since it lies in the likelihood's."""
    try:
        wanted = getattr(likelihood.support, "base_constraint", None)
    except NotImplementedError:  # not every distribution tells
        return False
    if support is constraints.boolean:
        return wanted in (constraints.boolean, constraints.unit_interval)
    return support is wanted is constraints.unit_interval


def _total_steps(loader: Any, epochs: int | None) -> int | None:
    try:
        return len(loader) * (epochs or 1)
    except TypeError:
        return None


def _part(batch_index: int, loader: Any) -> float:
    try:
        return (batch_index + 1) / len(loader)
    except TypeError:
        return 1.0


def _say_empty(epoch: int) -> None:
    if epoch == 1:
        raise ValueError(_checks.expected("data", "at least one batch", "none"))
    warnings.warn(f"data: nothing came in epoch {epoch}; training ended.", stacklevel=3)


def _explain(
    model: nn.Module, x: Tensor, target: Tensor, names: Sequence[str], numbers: Sequence[float]
) -> None:
    """Name what is not finite: the data, the weights, or else the term."""
    for argument, value in (("x", x), ("target", target), *model.named_parameters()):
        if value.is_floating_point():
            _checks.finite(argument, value)
    terms = [*zip(names, numbers, strict=True)]
    for name, number in [*terms[1:], terms[0]]:  # the total only if every term is finite
        if not math.isfinite(number):
            raise _checks.NotFiniteError(_checks.expected(name, "a finite value", number))
