"""The training loop, on accelerate."""

import copy
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from vaekit import _checks, datasets
from vaekit.datasets.batches import element_shape
from vaekit.objectives import Objective, Term
from vaekit.vae import VAE, VAEOutput, evaluating

__all__ = ["History", "NonFiniteLossError", "TrainingState", "evaluate", "fit"]

Stopped = Literal["finished", "interrupted", "early", "callback"]
Callback = Callable[["TrainingState"], bool | None]
_Forward = Callable[[Tensor, Tensor, Tensor | None], "_Passed"]
_Passed = tuple[dict[str, Tensor], VAEOutput | None]  # the named terms, and what they are made of


class NonFiniteLossError(ArithmeticError, ValueError):
    """The loss, or what it is made of, became infinite or NaN.

    The model's parameters are as they were before that step.

    Attributes:
        step: The step, counted from 0.
        term: What is not finite: the first such term, ``"loss"`` if only their sum is not, or what
            holds the values: ``"x"``, ``"mu"``, a parameter's name.
        batch_index: The batch's index in its epoch, counted from 0.
        history: What was measured until then.
    """

    history: "History"

    def __init__(self, step: int, term: str, batch_index: int, what: str) -> None:
        super().__init__(
            f"{what} This was at step {step}, the batch of index {batch_index} in its epoch; the "
            "model's parameters are as they were before it. Where the data are sound, a lower "
            "learning rate or clip_grad_norm= often helps."
        )
        self.step, self.term, self.batch_index = step, term, batch_index
        self._what = what

    def __reduce__(self) -> tuple[Any, ...]:
        made_of = (self.step, self.term, self.batch_index, self._what)
        return type(self), made_of, {"history": getattr(self, "history", None)}


@dataclass
class History:
    """What training measured: a row for each epoch, or for every ``validate_every`` steps.

    Attributes:
        step: How many steps had been taken at the end of each row.
        epoch: How many epochs, in parts of one.
        seconds: How long each row took, validation included.
        train: For ``"loss"`` and each named term the mean over the row's training data, in nats.
        validation: The same over the validation data, where there are any.
        weights: The weight of each named term at the end of each row.
        learning_rate: The learning rate at the end of each row.
        stopped: ``"finished"``, ``"interrupted"``, ``"early"`` or ``"callback"``.
        best: The row of the lowest validation loss since the weights last changed, for losses under
            different weights are not to be compared; None without validation.
        seed: The seed that was given.

    Example:
        >>> history = History()
        >>> history.add(step=10, epoch=1.0, seconds=0.1, train={"loss": 5.0, "kl": 1.0})
        >>> history["kl"]
        array([1.])
    """

    step: list[int] = field(default_factory=list)
    epoch: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    train: dict[str, list[float]] = field(default_factory=dict)
    validation: dict[str, list[float]] = field(default_factory=dict)
    weights: dict[str, list[float]] = field(default_factory=dict)
    learning_rate: list[float] = field(default_factory=list)
    stopped: Stopped = "finished"
    best: int | None = None
    seed: int | None = None

    def __getitem__(self, term: str) -> npt.NDArray[np.float64]:
        """Return the training values of a term, one for each row, in nats."""
        if term not in self.train:
            hint = "What was measured on validation data is in history.validation."
            raise KeyError(_checks.expected("term", f"one of {list(self.train)}", repr(term), hint))
        return np.asarray(self.train[term])

    def __len__(self) -> int:
        return len(self.step)

    def __repr__(self) -> str:
        rows = f"{len(self)} rows, {self.step[-1] if self.step else 0} steps"
        last = {f"train {k}": v[-1:] for k, v in self.train.items() if k == "loss"}
        last |= {f"validation {k}": v[-1:] for k, v in self.validation.items() if k == "loss"}
        losses = "".join(f", {name} {value[0]:.2f}" for name, value in last.items() if value)
        return f"History({rows}{losses}, {self.stopped})"

    def add(
        self,
        *,
        step: int,
        epoch: float,
        seconds: float,
        train: dict[str, float],
        validation: dict[str, float] | None = None,
        weights: dict[str, float] | None = None,
        learning_rate: float = math.nan,
    ) -> None:
        """Add a row."""
        self.step.append(step)
        self.epoch.append(epoch)
        self.seconds.append(seconds)
        self.learning_rate.append(learning_rate)
        for table, row in (
            (self.train, train),
            (self.validation, validation or {}),
            (self.weights, weights or {}),
        ):
            for name, value in row.items():
                table.setdefault(name, []).append(value)
        if validation and (self.best is None or self._better_than(self.best)):
            self.best = len(self) - 1

    def _better_than(self, row: int) -> bool:
        """Tell whether the newest row has a lower loss than another, or other weights."""
        if any(weights[-1] != weights[row] for weights in self.weights.values()):
            return True
        return self.validation["loss"][-1] < self.validation["loss"][row]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, lists and dictionaries, ready for JSON."""
        return copy.deepcopy(vars(self))


@dataclass(frozen=True)
class TrainingState:
    """What a callback is given at the end of each row of the history.

    Attributes:
        model: The model in training.
        objective: The objective.
        optimizer: The optimiser.
        history: All rows, the newest included.
        step: How many steps were taken.
        epoch: How many epochs were begun.
    """

    model: VAE
    objective: Objective
    optimizer: Optimizer
    history: History
    step: int
    epoch: int


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
        seed: Of everything that is random, for a run that repeats. Sets torch's, numpy's and
            Python's global generators.
        compile: Whether to run the forward pass and the losses through ``torch.compile``. A graph
            looks at no values, so the data are then checked in the first batch alone. Its noise is
            not that of the same seed without it. Terms made of gradients (DReG, the gradient
            penalty) take a torch that traces them, and a model that can be traced in one piece.
            Validation, and what terms train by themselves, is not compiled.
        progress: Whether to show a bar.
        callbacks: Functions of a `TrainingState`, called at the end of each row; one that returns
            True ends training.

    Returns:
        The history, in nats.

    Raises:
        NonFiniteLossError: If the loss, the data or the parameters are infinite or NaN, naming
            what, the step and the batch; the parameters are left as they were before that step.
        NotImplementedError: If started by a launcher in several processes.
        TypeError: If the data are none that can be gone through.
        ValueError: If an argument does not fit, the data are empty, or they lie outside the
            likelihood's support.

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

    objective = _check_parts(model, objective)
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
    how = _How(_samples(objective, samples), corruption)
    if clip_grad_norm is not None:
        _checks.number("clip_grad_norm", clip_grad_norm, above=0)
    _checks.number("learning_rate", learning_rate, above=0)
    if seed is not None:
        set_seed(seed)
    if isinstance(validation, Iterator):
        what = "data that can be gone through again"
        raise TypeError(_checks.expected("validation", what, type(validation).__name__))
    dtype = dtype_of(model)
    if validation is not None:
        datasets.loader(validation, batch_size, argument="validation")
        _check_same_shape(data, validation)
        _check_last_batch(objective, "validation", validation, batch_size)
    loader = datasets.loader(data, batch_size, shuffle=True, dtype=dtype)
    _check_last_batch(objective, "data", data, batch_size)

    # In one process of full precision accelerate's wrappers do nothing but divide by 1 and look for
    # packages at every step, and its Accelerator would fix the precision of all that come later.
    if PartialState().num_processes > 1:
        raise NotImplementedError("fit trains in one process; start the script without a launcher.")
    device = _device(model)
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
    forward = _forward(model, objective, how, support, bool(inner.terms), compile)
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

    history = History(seed=seed)
    rows = _Rows(model, objective, optimizer, history, measure, plateau, patience, callbacks)
    total_steps = steps if steps is not None else _total_steps(loader, epochs)
    step, epoch, done = 0, 0, False

    model.train()
    try:
        with (
            _dataset_size(objective, datasets.size(data)),
            _interruptible() as interrupted,
            _Bar(total_steps, progress) as bar,
        ):
            while not done:
                epoch += 1
                batch_index = -1
                for batch_index, raw in enumerate(loader):
                    batch = datasets.unpack(raw, pairs=pairs)
                    x = batch.x.to(device, non_blocking=True)
                    target = x
                    if batch.target is not batch.x:
                        target = batch.target.to(device, non_blocking=True)
                        _checks.no_nan("target", target)
                    context = _context(batch, device) if conditional else None
                    try:
                        objective.set_step(step)
                        values, out = forward(x, target, context)
                        total = objective.total(values, step)
                        names, numbers = ["loss", *values], _numbers([total, *values.values()])
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
                    done = step == steps
                    if validate_every is not None and step % validate_every == 0:
                        done = rows.close(step, epoch, _part(batch_index, loader)) or done
                    if interrupted():
                        history.stopped, done = "interrupted", True
                    if done:
                        break
                if batch_index < 0:
                    _say_empty(epoch)
                    break
                part = _part(batch_index, loader) if done else 1.0
                done = done or epoch == epochs
                if done or validate_every is None:
                    done = rows.close(step, epoch, part) or done
    except BaseException as error:
        error.history = history  # type: ignore[attr-defined]
        raise
    finally:
        model.eval()
        if rows.best is not None and history.stopped in ("early", "finished"):
            model.load_state_dict(rows.best)
    return history


def evaluate(
    model: VAE,
    objective: Objective | Term,
    data: Any,
    *,
    batch_size: int = 128,
    pairs: bool | None = None,
    samples: int | None = None,
    corruption: Callable[[Tensor], Tensor] | None = None,
    step: int = 0,
    seed: int = 0,
) -> dict[str, float]:
    """Measure an objective over data, in evaluation mode and without touching the model.

    Each draw of z is seeded, and torch's generators are left as they were, so that two calls agree
    and training goes on as if there had been none. One draw for each element: the estimate of the
    negative ELBO is unbiased.

    Args:
        model: The model.
        objective: What to measure.
        data: As for `fit`.
        batch_size: How many elements a batch has, where the data come unbatched; statistics of a
            batch depend on it.
        pairs: As for `fit`.
        samples: As for `fit`.
        corruption: As for `fit`.
        step: The training step, for the schedules.
        seed: Of the draws.

    Returns:
        ``"loss"`` and each named term without its weight: means over the elements, in nats.

    Raises:
        TypeError: If the data are none that can be gone through.
        ValueError: If there are none.
    """
    objective = _check_parts(model, objective)
    how = _How(_samples(objective, samples), corruption)
    conditional = model.takes_context
    sums = _Sums()
    graph = any(term.needs_graph for term, _ in objective.pairs)
    with (
        measuring(model, seed) as device,
        evaluating(objective),
        torch.set_grad_enabled(graph),
        _dataset_size(objective, datasets.size(data)),
    ):
        for raw in datasets.loader(data, batch_size, dtype=dtype_of(model)):
            batch = datasets.unpack(raw, pairs=pairs)
            context = _context(batch, device) if conditional else None
            out = how(model, batch.x.to(device), context)
            loss = objective(out, batch.target.to(device), step)
            numbers = _numbers([loss.total, *loss.terms.values()])
            sums.add(["loss", *loss.terms], numbers, len(batch.x))
    if not sums.count:
        raise ValueError(_checks.expected("data", "at least one batch", "none"))
    return sums.means()


@contextmanager
def measuring(model: VAE, seed: int) -> Iterator[torch.device]:
    """Put a model into evaluation mode and seed the draws, and leave both as they were.

    Args:
        model: The model; its device is what is yielded.
        seed: Of torch's generators of the processor and of that device.
    """
    if not isinstance(model, VAE):
        raise TypeError(_checks.expected("model", "a VAE", type(model).__name__))
    device = _device(model)
    devices = [device] if device.type not in ("cpu", "mps") else []
    fork = torch.random.fork_rng(devices, device_type=device.type if devices else "cuda")
    with evaluating(model), fork:
        _seed(device, seed)
        yield device


class _Sums:
    """Running means over elements, in double precision."""

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, float] = {}

    def add(self, names: Sequence[str], numbers: Sequence[float], count: int) -> None:
        self.count += count
        for name, value in zip(names, numbers, strict=True):
            self._sums[name] = self._sums.get(name, 0.0) + value * count

    def means(self) -> dict[str, float]:
        return {name: total / self.count for name, total in self._sums.items()}


@dataclass
class _Rows:
    """Adds rows to the history: measures, keeps the best weights, asks the callbacks."""

    model: VAE
    objective: Objective
    optimizer: Optimizer
    history: History
    measure: Callable[[int], dict[str, float] | None]
    plateau: ReduceLROnPlateau | None
    patience: int | None
    callbacks: Sequence[Callback]
    best: dict[str, Any] | None = None
    _sums: _Sums = field(default_factory=_Sums)
    _started: float = field(default_factory=time.perf_counter)
    _closed_at: int = 0

    def add(self, names: Sequence[str], numbers: Sequence[float], count: int) -> None:
        """Add a batch to the row under way."""
        self._sums.add(names, numbers, count)

    def close(self, step: int, epoch: int, part: float) -> bool:
        """End the row after a part of an epoch; tell whether training is to stop."""
        if step == self._closed_at:
            return False
        history, train, measured = self.history, self._sums.means(), self.measure(step - 1)
        history.add(
            step=step,
            epoch=epoch - 1 + part,
            seconds=time.perf_counter() - self._started,
            train=train,
            validation=measured,
            weights=self.objective.weights(step - 1),
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
        )
        self._sums, self._started, self._closed_at = _Sums(), time.perf_counter(), step
        if self.plateau is not None:
            self.plateau.step((measured or train)["loss"])
        if self.patience is not None and history.best == len(history) - 1:
            self.best = copy.deepcopy(self.model.state_dict())
        state = TrainingState(self.model, self.objective, self.optimizer, history, step, epoch)
        if True in [callback(state) for callback in self.callbacks]:
            history.stopped = "callback"
        elif self.patience is not None and len(history) > self.patience + (history.best or 0):
            history.stopped = "early"
        self.model.train()
        return history.stopped != "finished"


class _Bar:
    """A progress bar that words its numbers only when it is drawn."""

    def __init__(self, total: int | None, shown: bool) -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(total=total, unit="step", disable=not shown, dynamic_ncols=True)
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


def _check_length(epochs: int | None, steps: int | None, data: Any) -> None:
    if (epochs is None) == (steps is None):
        got = "neither" if epochs is None else "both"
        raise ValueError(_checks.expected("epochs", "either epochs= or steps=", got))
    _checks.positive_int(*(("epochs", epochs) if steps is None else ("steps", steps)))
    if epochs is not None and epochs > 1 and isinstance(data, Iterator):
        what = "data that can be gone through again, where epochs is above 1"
        hint = "Give steps= instead, or an object with __iter__."
        raise ValueError(_checks.expected("data", what, type(data).__name__, hint))


def _device(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def dtype_of(model: nn.Module) -> torch.dtype:
    floats = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(floats, torch.get_default_dtype())


def _seed(device: torch.device, seed: int) -> None:
    """Seed torch's generators of the processor and of one device, and no other's."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        module = torch.get_device_module(device)
        with module.device(device) if hasattr(module, "device") else nullcontext():
            module.manual_seed(seed)


def _check_same_shape(data: Any, validation: Any) -> None:
    """Refuse validation data of another shape, where both tell theirs."""
    one, other = element_shape(data), element_shape(validation)
    if one is not None and other is not None and one != other:
        what = f"elements of shape {tuple(one)}, as data has"
        raise ValueError(_checks.expected("validation", what, tuple(other)))


def _check_parts(model: Any, objective: Any) -> Objective:
    if not isinstance(model, VAE):
        raise TypeError(_checks.expected("model", "a VAE", type(model).__name__))
    if isinstance(objective, Term):
        return Objective((objective, 1))
    if not isinstance(objective, Objective):
        what = "an objective, like vk.Reconstruction() + vk.KL()"
        raise TypeError(_checks.expected("objective", what, repr(objective)))
    return objective


def _without_size(objective: Objective) -> list[Any]:
    """List the terms that need the number of elements and were not given it."""
    terms = [term for term in objective.terms if getattr(term, "dataset_size", 0) is None]
    return [term for term in terms if term.estimator != "exact"]


@contextmanager
def _dataset_size(objective: Objective, size: int | None) -> Iterator[None]:
    """Tell the terms the number of elements while the data are gone through."""
    terms = _without_size(objective)
    before = [term.run_size for term in terms]
    try:
        for term in terms:
            if size is None:
                what = f"a number in {term!r}, since these data do not tell how many they are"
                raise ValueError(_checks.expected("dataset_size", what, None))
            term.run_size = size
        yield
    finally:
        for term, old in zip(terms, before, strict=True):
            term.run_size = old


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


@dataclass(frozen=True)
class _How:
    """How a batch goes through the model."""

    samples: int | None
    corruption: Callable[[Tensor], Tensor] | None

    def __call__(self, model: VAE, x: Tensor, context: Tensor | None) -> VAEOutput:
        out: VAEOutput = model(
            x if self.corruption is None else self.corruption(x.clone()), self.samples, context
        )
        return out


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


def _samples(objective: Objective, samples: int | None) -> int | None:
    needing = [term for term, _ in objective.pairs if term.needs_draws]
    if samples is None and needing:
        what = f"a number of draws, as {needing[0]!r} takes several"
        raise ValueError(_checks.expected("samples", what, None))
    if samples is None:
        return None
    groups = math.lcm(*(getattr(term, "groups", 1) for term in needing))
    if _checks.positive_int("samples", samples) % groups:
        what = f"a multiple of {groups}, the groups of {needing[0]!r}"
        raise ValueError(_checks.expected("samples", what, samples))
    return samples


def _context(batch: datasets.Batch, device: torch.device) -> Tensor:
    if batch.y is None:
        what = "batches (x, y), whose y is the context that the model takes"
        raise ValueError(_checks.expected("data", what, "batches without y"))
    return torch.as_tensor(batch.y).to(device)


def _forward(
    model: VAE,
    objective: Objective,
    how: _How,
    support: constraints.Constraint,
    keeping: bool,
    compiled: bool,
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
    checked = False

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


def _numbers(scalars: Sequence[Tensor]) -> list[float]:
    """Read scalars, waiting for the device once."""
    if scalars[0].device.type == "cpu":
        return [scalar.item() for scalar in scalars]
    found: list[float] = torch.stack([scalar.detach() for scalar in scalars]).tolist()
    return found


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
