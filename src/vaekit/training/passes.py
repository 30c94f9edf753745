"""How a batch goes forward and back: whole, in parts, and among processes."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from vaekit import _checks
from vaekit.networks import takes_context
from vaekit.objectives import Objective
from vaekit.objectives.base import by_element
from vaekit.storage import is_spread
from vaekit.training.how import How
from vaekit.training.measures import device_of, read_numbers
from vaekit.training.randomness import random_states, set_random_states
from vaekit.training.sharding import piece_of
from vaekit.training.world import World, filled, parts
from vaekit.vae import VAE, VAEOutput, calls_of, rebuilding

__all__ = ["Passes", "check_finite"]


@dataclass(frozen=True)
class Piece:
    """What of a batch goes through the model at once.

    Attributes:
        x: What goes into the encoder.
        target: What is to be reconstructed.
        context: What the model is conditioned on.
        count: How many of the elements count: none where there were too few for every process.
        share: What the sum over the elements is multiplied by.
        parts: How many pieces this process has of the batch.
        start: Where the elements begin in the batch of all processes.
        sizes: How many elements each process has.
    """

    x: Tensor
    target: Tensor
    context: Tensor | None
    count: int
    share: float
    parts: int
    start: int
    sizes: Sequence[int]

    @property
    def sides(self) -> int:
        """What a gradient to these elements alone is multiplied by, for the mean to be right."""
        return self.parts * len(self.sizes)


@dataclass(frozen=True)
class Posteriors:
    """The posteriors of a whole batch, and the draws from them, without gradients.

    Attributes:
        make: What makes a posterior of its parameters.
        params: The parameters, by row.
        z: The draws, by row.
        conditional: Whether each has a prior of its own.
    """

    make: Callable[..., Distribution]
    params: tuple[Tensor, ...]
    z: Tensor
    conditional: bool

    def __call__(self, out: VAEOutput) -> VAEOutput:
        """Return them in place of those of a piece."""
        if out.prior.batch_shape.numel() != 1 or self.conditional:
            what = "one for all elements, where a batch comes in pieces and is compared as a whole"
            raise ValueError(_checks.expected("prior", what, repr(out.prior)))
        posterior, z = self.make(*self.params), _turned(self.z)
        nothing = Distribution(validate_args=False)  # which can tell no density
        return replace(out, posterior=posterior, z=z, likelihood=nothing)

    def around(self, own: "Posteriors", piece: Piece) -> "Posteriors":
        """Put the rows of a piece among the others, with their gradients.

        Every piece computes the same statistic, each with a gradient to its own rows alone; the
        mean over the pieces then has the gradient to all of them.
        """

        def joined(rows: Tensor, live: Tensor) -> Tensor:
            live = live[: piece.count]
            live = live + (live - live.detach()) * (piece.sides - 1)  # the value, to the last digit
            return torch.cat([rows[: piece.start], live, rows[piece.start + piece.count :]])

        params = tuple(map(joined, self.params, own.params))
        return replace(self, params=params, z=joined(self.z, own.z))


def _turned(z: Tensor) -> Tensor:
    """Put the batch before the draws, or back behind them."""
    return z.transpose(0, 1) if z.ndim == 3 else z


class Passes:
    """Takes batches forward and back: what the terms are, and gradients on the parameters.

    A batch may come in pieces: each process has one, and may take its own in several parts. The
    gradients are those of the whole batch at once, whatever compares its elements included.

    Args:
        model: The model.
        objective: The objective.
        how: How a batch goes through the model.
        world: The processes.
        trained: The parameters whose gradients are asked for.
        parts: In how many parts each process takes its piece.
        scaler: What keeps gradients of half precision from vanishing; None leaves them.
        support: Where the data are known to lie.
        keeping: Whether what the terms are made of is kept.
        compiled: Whether to compile.
        checked: Whether a batch of the data was looked at before.
    """

    def __init__(
        self,
        model: VAE,
        objective: Objective,
        how: How,
        world: World,
        *,
        trained: Sequence[nn.Parameter],
        parts: int,
        scaler: torch.amp.GradScaler | None,
        support: constraints.Constraint,
        keeping: bool,
        compiled: bool,
        checked: bool,
    ) -> None:
        self._pieced = world.size > 1 or parts > 1
        # Of a batch in pieces the whole is corrupted, once.
        self._how = replace(how, corruption=None) if self._pieced else how
        self._corruption = how.corruption
        self._model, self._objective, self._world = model, objective, world
        self._trained, self._parts, self._scaler = trained, parts, scaler
        self._support, self._keeping = support, keeping
        self._device, self._sure, self._checked = device_of(model), False, checked
        self._spread = any(map(is_spread, trained))
        self._joint = keeping or any(term.statistic for term, _ in objective.pairs)
        self._names = [name for term, _ in objective.pairs for name in term.names]
        self._kept: VAEOutput | None = None
        self._slow: Callable[..., Any] = self._infer if self._pieced else self._plain
        self._fast: Callable[..., Any] | None = None
        if compiled:
            self._fast = _compiled(self._slow, objective, self._pieced)

    def __call__(
        self,
        x: Tensor,
        target: Tensor,
        context: Tensor | None,
        step: int,
        whole: int,
        asked: bool = False,
        failure: Exception | None = None,
    ) -> tuple[list[str], list[float], VAEOutput | None, bool]:
        """Put the gradients of a batch on the parameters.

        Args:
            x: This process's elements of the batch.
            target: What is to be reconstructed.
            context: What the model is conditioned on.
            step: The training step.
            whole: How many elements all processes have together.
            asked: Whether this process was asked to end.
            failure: Why this process, of several, has no elements: raised in all of them.

        Returns:
            ``"loss"`` and the terms' names, their values, what they are made of if kept, and
            whether one of the processes was asked to end.

        Raises:
            NotFiniteError: If the data hold NaN, or the loss is not finite.
        """
        self._objective.set_step(step)
        if self._pieced:
            return self._in_pieces(x, target, context, step, whole, asked, failure)
        self._look(x, target)
        values, out = self._called(x, target, context)
        names, numbers = self._back(values, step, x, target)
        return names, numbers, out, asked

    def values(self, x: Tensor, target: Tensor, context: Tensor | None) -> dict[str, Tensor]:
        """Return the terms of a whole batch, without a look at any value."""
        values: dict[str, Tensor] = self._called(x, target, context)[0]
        return values

    def _called(self, *args: Any) -> Any:
        """Call what may be compiled, whose first batch goes through unhurried as well."""
        if self._fast is None:
            return self._slow(*args)
        if not self._checked:
            states = random_states(self._device) if self._pieced else None
            with unmoved(self._model, self._objective):
                self._slow(*args)
            self._checked = True
            if states is not None:
                set_random_states(self._device, states)
        return self._fast(*args)

    def _plain(
        self, x: Tensor, target: Tensor, context: Tensor | None
    ) -> tuple[dict[str, Tensor], VAEOutput | None]:
        out = self._infer(x, context)
        with self._naming(x, target):
            values = self._objective.values(out, target)
        return values, out if self._keeping else None

    def _naming(self, x: Tensor, target: Tensor) -> AbstractContextManager[None]:
        """Have errors of a likelihood, which calls its data x, name a target that differs."""
        differs = target is not x and self._fast is None  # a graph raises none
        return _checks.calling("x", "target") if differs else nullcontext()

    def _infer(self, x: Tensor, context: Tensor | None) -> VAEOutput:
        out = self._how(self._model, x, context)
        if self._fast is None:  # a graph looks at no values
            if self._sure:
                out.likelihood._validate_args = False
            self._sure = self._sure or _inside(self._support, out.likelihood)
        return out

    def _back(
        self, values: dict[str, Tensor], step: int, x: Tensor, target: Tensor
    ) -> tuple[list[str], list[float]]:
        total = self._objective.total(values, step)
        names = ["loss", *values]
        numbers = read_numbers([total, *values.values()])
        if self._world.size == 1:  # the others are told of the gradients with the numbers
            check_finite(self._model, names, numbers, x=x, target=target)
        (total if self._scaler is None else self._scaler.scale(total)).backward()
        return names, numbers

    def _in_pieces(
        self,
        x: Tensor,
        target: Tensor,
        context: Tensor | None,
        step: int,
        whole: int,
        asked: bool,
        failure: Exception | None,
    ) -> tuple[list[str], list[float], VAEOutput | None, bool]:
        world, names = self._world, ["loss", *self._names]
        sums, alike = [0.0] * len(names), False
        try:
            if self._joint or self._spread:  # where the others wait before the end
                world.together(partial(self._look, x, target, failure), self._device)
            else:
                self._look(x, target, failure)
            alike = True
            for numbers in self._through(x, target, context, step, whole):
                sums = [a + b for a, b in zip(sums, numbers, strict=True)]
        except Exception as error:
            if self._spread and alike:  # what came before all were told
                world.break_off(error)
            if world.size == 1 or self._joint or self._spread:
                raise
            failure = error
        flags = [float(asked), float(failure is not None)]
        averaged = [each for each in self._trained if not is_spread(each)]
        *sums, ends, failed = world.settle(averaged, [*sums, *flags], self._device)
        if failed:
            world.fail(failure)
        if world.size > 1:
            check_finite(self._model, names, sums, x=x, target=target)
        return names, sums, self._kept, ends > 0

    def _through(
        self, x: Tensor, target: Tensor, context: Tensor | None, step: int, whole: int
    ) -> Iterator[list[float]]:
        """Take a batch forward and back, piece by piece, and yield what each adds to the terms."""
        pieces = self._cut(x, target, context, whole)
        held, states = None, []
        if self._joint and len(pieces) > 1:
            # Once without gradients, for what is compared; then again, with the same noise.
            own = []
            with torch.no_grad(), unmoved(self._model):
                for piece in pieces:
                    states.append(random_states(self._device))
                    found = self._together(partial(self._posteriors, piece))
                    own.append(found[1])
            held = self._gathered(_joined(own), pieces[0].sizes)
            states.append(random_states(self._device))
        for index, piece in enumerate(pieces):
            if states:
                set_random_states(self._device, states[index])
            values = self._piece(piece, held, states[-1] if states else None)
            yield self._back(values, step, piece.x, piece.target)[1]

    def _look(self, x: Tensor, target: Tensor, failure: Exception | None = None) -> None:
        """Look for NaN where no part of the model does, or where none may fail by itself."""
        if failure is not None:
            raise failure
        if target is not x:
            _checks.no_nan("target", target)
        if self._spread:
            _checks.no_nan("x", x)

    def _cut(self, x: Tensor, target: Tensor, context: Tensor | None, whole: int) -> list[Piece]:
        """Cut this process's elements into pieces."""
        _checks.require(whole > 0, "data", "at least one element in each batch", "none")
        given = self._corrupted(x)
        sizes = self._world.sizes(whole)
        start, own = sum(sizes[: self._world.rank]), sizes[self._world.rank]
        cuts = parts(own, min(self._parts, max(sizes)))
        return [
            Piece(
                given[used],
                target[used],
                None if context is None else context[used],
                count=cut.stop - cut.start,
                share=len(sizes) / whole,
                parts=len(cuts),
                start=start + cut.start,
                sizes=sizes,
            )
            for cut in cuts
            for used in [filled(cut)]
        ]

    def _corrupted(self, x: Tensor) -> Tensor:
        return x if self._corruption is None else self._corruption(x.clone())

    def _posteriors(self, piece: Piece) -> tuple[VAEOutput, Posteriors]:
        """Infer the posteriors of a piece, and tell what they are made of."""
        latent = self._model.encoder.latent
        with calls_of(latent) as calls:
            out = self._called(piece.x, piece.context)
        make, params = rebuilding(out.posterior, calls, latent)
        conditional = takes_context(self._model.prior)
        return out, Posteriors(make, params, _turned(out.z), conditional)

    def _gathered(self, own: Posteriors, sizes: Sequence[int]) -> Posteriors:
        """Return the posteriors of all processes."""

        def rows(live: Tensor) -> Tensor:
            return self._world.rows(live[: sizes[self._world.rank]], sizes)

        return replace(own, params=tuple(map(rows, own.params)), z=rows(own.z))

    def _piece(self, piece: Piece, held: Posteriors | None, states: Any) -> dict[str, Tensor]:
        """Return what a piece adds to each term, and keep what the terms are made of."""

        def inferred() -> tuple[VAEOutput, Posteriors, dict[str, Tensor]]:
            out, own = self._posteriors(piece)
            return out, own, self._added(piece, out)

        if not self._joint:
            return self._added(piece, self._called(piece.x, piece.context))
        out, own, added = self._together(inferred)
        held = held or self._gathered(own, piece.sizes)
        if self._keeping:
            self._kept = held(out)
        if states is not None:
            set_random_states(self._device, states)
        whole = held.around(own, piece)(out)
        with self._world.drawing_alike(self._device):
            for term, _ in self._objective.pairs:
                if term.statistic:
                    for name, value in by_element(term, whole, piece.target).items():
                        added[name] = value.mean() / piece.parts
        return {name: added[name] for name in self._names}

    def _together(self, make: Callable[[], Any]) -> Any:
        """Have all processes raise the error of one, where none waits for weights of the others."""
        return make() if self._spread else self._world.together(make, self._device)

    def _added(self, piece: Piece, out: VAEOutput) -> dict[str, Tensor]:
        """Return what a piece adds to the terms of one value for each element."""
        added = {}
        for term in (term for term, _ in self._objective.pairs if not term.statistic):
            with self._naming(piece.x, piece.target):
                values = by_element(term, out, piece.target)
            for name, value in values.items():
                what = "terms of one value for each element, or of statistic = True"
                _checks.require(value.ndim > 0, "objective", what, f"a scalar from {term!r}")
                added[name] = value[: piece.count].sum() * piece.share
        return added


@contextmanager
def unmoved(*modules: nn.Module) -> Iterator[None]:
    """Put buffers back (statistics of batches, a codebook) that move as modules are called."""
    parts = [part for module in modules for part in module.modules()]
    held = [
        (part, name, value, value.detach().clone())
        for part in parts
        for name, value in part._buffers.items()
        if value is not None
    ]
    yield
    with torch.no_grad():
        for part, name, value, before in held:
            part._buffers[name] = value.copy_(before)


def _joined(pieces: Sequence[Posteriors]) -> Posteriors:
    """Put pieces together that are next to one another."""
    params = tuple(map(torch.cat, zip(*(piece.params for piece in pieces), strict=True)))
    return replace(pieces[0], params=params, z=torch.cat([piece.z for piece in pieces]))


def _compiled(run: Callable[..., Any], objective: Objective, pieced: bool) -> Callable[..., Any]:
    """Compile, whole where terms are made of gradients: across a break, torch takes wrong ones."""
    differentiating = [term for term, _ in objective.pairs if term.differentiates]
    if not differentiating:
        compiled: Callable[..., Any] = torch.compile(run)
        return compiled

    def refusal(why: str) -> ValueError:
        what = f"False for {differentiating[0]!r}, whose gradients are not traced {why}"
        return ValueError(_checks.expected("compile", what, True))

    if pieced:
        raise refusal("where a batch comes in pieces")
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        raise refusal("in this torch")
    traced = torch._dynamo.config.patch(trace_autograd_ops=True)
    whole: Callable[..., Any] = traced(torch.compile(run, fullgraph=True))

    def fast(*args: Any) -> Any:
        try:
            return whole(*args)
        except torch._dynamo.exc.Unsupported as error:
            what = str(error).partition("\n")[0]
            raise refusal(f"in one piece with this model ({what})") from error

    return fast


def _inside(support: constraints.Constraint, likelihood: Distribution) -> bool:
    """Tell whether data of a support need no look, since it lies in the likelihood's."""
    try:
        wanted = getattr(likelihood.support, "base_constraint", None)
    except NotImplementedError:  # not every distribution tells
        return False
    if support is constraints.boolean:
        return wanted in (constraints.boolean, constraints.unit_interval)
    return support is wanted is constraints.unit_interval


def check_finite(
    model: nn.Module, names: Sequence[str], numbers: Sequence[float], **data: Tensor
) -> None:
    """Name what is not finite, if a number is not: the data, the weights, or else the term."""
    if all(map(math.isfinite, numbers)):
        return
    for argument, value in (*data.items(), *model.named_parameters()):
        if value.is_floating_point():
            _checks.finite(argument, piece_of(value))
    terms = [*zip(names, numbers, strict=True)]
    for name, number in [*terms[1:], terms[0]]:  # the total only if every term is finite
        if not math.isfinite(number):
            raise _checks.NotFiniteError(_checks.expected(name, "a finite value", number))
