r"""A trained model for use elsewhere: its encoder and decoder for ``torch.export`` and ONNX.

Distributions are no tensors, and what leaves Python is made of tensors alone. So an encoder is
exported as a function from ``x`` to the parameters of :math:`q(z \mid x)`, a decoder as one from
``z`` to the mean of :math:`p(x \mid z)`; both in evaluation mode, for batches of any size. The
model itself is copied, and left as it was.

Networks take no wrapping: ``torch.export.export(model.decoder.net, ...)`` is how to export what a
likelihood reads (the logits of a `vaekit.likelihoods.Categorical`, say).
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from vaekit import _checks, datasets, storage
from vaekit.networks import Context, as_context, takes_context, with_context
from vaekit.vae import VAE

__all__ = [
    "ExportError",
    "TensorAutoencoder",
    "TensorDecoder",
    "TensorEncoder",
    "onnx",
    "torch_export",
]

_LARGE = 2**30  # bytes; a file of ONNX holds no more than two of these itself


class ExportError(RuntimeError):
    """A part of a model cannot be exported, or does something else where it has been.

    Example:
        >>> class ByMean(nn.Module):
        ...     def forward(self, x):
        ...         return x[:, :4] if x.mean() > 0 else x[:, 4:8]  # no graph has both
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli(8), latent_dim=2)
        >>> model.encoder.net = ByMean()
        >>> try:
        ...     torch_export(model, torch.zeros(5, 8))
        ... except ExportError as error:
        ...     print(str(error).partition(",")[0])
        encoder: expected a part that torch.export can take
    """


class TensorEncoder(nn.Module):
    r"""The encoder of a model as a function of tensors: the parameters of :math:`q(z \mid x)`.

    They come by name: ``mu`` and ``logvar`` of a Gaussian, ``point`` (and of a quantised latent
    ``commitment`` and ``indices``) of a posterior without noise; of one that does not unpack into
    its parameters its ``mean``.

    Args:
        model: The model. Its encoder is shared, not copied.

    Shape:
        ``x: (B, *event)``, ``context`` where the encoder takes one; returns a dictionary of tensors
        with ``B`` elements each.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> {name: value.shape for name, value in TensorEncoder(model)(torch.zeros(5, 64)).items()}
        {'mu': torch.Size([5, 2]), 'logvar': torch.Size([5, 2])}
    """

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.takes_context = takes_context(model.encoder)

    def forward(
        self, x: Shaped[Tensor, "batch *event"], context: Shaped[Tensor, "batch ..."] | None = None
    ) -> dict[str, Tensor]:
        """Infer the parameters of the posterior of each element."""
        posterior = with_context(self.encoder, context, x)
        if not isinstance(posterior, Iterable):
            return {"mean": posterior.mean}
        public = {name: part for name, part in vars(posterior).items() if not name.startswith("_")}
        found: dict[str, Tensor] = {}
        for part in posterior:
            names = (name for name, value in public.items() if value is part and name not in found)
            found[next(names, f"parameter_{len(found)}")] = part
        return found


class TensorDecoder(nn.Module):
    r"""The decoder of a model as a function of tensors: the mean of :math:`p(x \mid z)`.

    Args:
        model: The model. Its decoder is shared, not copied.

    Shape:
        ``z: (B, dim)``, ``context`` where the decoder takes one; returns ``(B, *event)``, in the
        data's range.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> TensorDecoder(model)(torch.zeros(5, 2)).shape
        torch.Size([5, 1, 8, 8])
    """

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.decoder = model.decoder
        self.takes_context = takes_context(model.decoder)

    def forward(
        self, z: Float[Tensor, "batch dim"], context: Shaped[Tensor, "batch ..."] | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Return the mean of the likelihood: the picture to look at."""
        mean: Tensor = with_context(self.decoder, context, z).mean
        return mean


class TensorAutoencoder(nn.Module):
    r"""A model as a function of tensors: what it decodes the mean of :math:`q(z \mid x)` to.

    Args:
        model: The model. Its encoder and its decoder are shared, not copied.

    Shape:
        ``x: (B, *event)``, ``context`` where the encoder or the decoder takes one; returns the
        shape of the decoder's data, ``(B, *event)``.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> x = torch.zeros(5, 1, 8, 8)
        >>> torch.equal(TensorAutoencoder(model)(x), model.reconstruct(x))
        True
    """

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.encoder, self.decoder = model.encoder, model.decoder
        self.takes_context = takes_context(model.encoder) or takes_context(model.decoder)

    def forward(
        self, x: Shaped[Tensor, "batch *event"], context: Shaped[Tensor, "batch ..."] | None = None
    ) -> Float[Tensor, "batch *out"]:
        """Reconstruct each element."""
        z = with_context(self.encoder, context, x).mean
        mean: Tensor = with_context(self.decoder, context, z).mean
        return mean


def torch_export(
    model: VAE,
    x: Any,
    context: Context | None = None,
    *,
    parts: Sequence[str] = ("encoder", "decoder"),
) -> dict[str, ExportedProgram]:
    """Export parts of a model with ``torch.export``, for batches of any size.

    The programs hold copies of the weights, for inference, on the device that the model is on. They
    are what ``torch.export.save``, AOTInductor and ExecuTorch take.

    Args:
        model: The model.
        x: Some elements of the data, as a batch that the model takes; of it come shapes and dtypes.
        context: What the model is conditioned on, if on anything and the batch does not bring it.
        parts: Which parts: ``"encoder"``, the program of a `TensorEncoder`; ``"decoder"``, of a
            `TensorDecoder`; ``"autoencoder"``, of a `TensorAutoencoder`.

    Shape:
        ``x: (B, *event)``; the programs take batches of any other ``B``.

    Returns:
        A program for each part, by its name.

    Raises:
        ExportError: If torch cannot export a part, with the reason it gives.
        ValueError: If ``parts`` holds another name, or the model refuses the elements.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> programs = torch_export(model, torch.zeros(5, 1, 8, 8))
        >>> inferred = programs["encoder"].module()(torch.zeros(17, 1, 8, 8))
        >>> programs["decoder"].module()(inferred["mu"]).shape
        torch.Size([17, 1, 8, 8])
    """
    return {each.name: _program(each) for each in _traced(_copied(model), x, context, parts)}


def onnx(
    model: VAE,
    folder: str | PathLike[str],
    x: Any,
    context: Context | None = None,
    *,
    parts: Sequence[str] = ("encoder", "decoder"),
    check: bool = True,
    tolerance: float = 1e-4,
) -> dict[str, Path]:
    """Write parts of a model as ONNX files, for batches of any size, and hold them to the model.

    The inputs are called ``x``, ``z`` and ``context``, the outputs as those of `TensorEncoder`, and
    ``x_hat``. Each file is run by onnxruntime, on ``x`` and on its first element alone, and what
    comes out is compared with what the model returns. A file appears under its name when all have
    passed. Of a model of more than a gigabyte the weights are in a second file, ``.onnx.data``.

    Args:
        model: The model.
        folder: Where the files go, ``encoder.onnx`` and ``decoder.onnx``; made if it is not there.
        x: Some elements of the data, as a batch that the model takes; of it come shapes and dtypes.
        context: What the model is conditioned on, if on anything and the batch does not bring it.
        parts: Which parts, as of `torch_export`.
        check: Whether the files are run and compared; False needs no onnxruntime.
        tolerance: The largest difference that the comparison lets through, as a share of the
            largest value of the output; the order of a sum differs, and so does its rounding.

    Shape:
        ``x: (B, *event)``; the files take batches of any other ``B``.

    Returns:
        The file of each part, by its name.

    Raises:
        ExportError: If torch cannot export a part, with the reason it gives, or onnxruntime
            computes something else.
        ImportError: If onnx, onnxscript or onnxruntime is missing: ``pip install vaekit[onnx]``.
        ValueError: If ``parts`` holds another name, ``tolerance`` is negative, or the model refuses
            the elements.

    Example:
        >>> import tempfile
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> files = onnx(model, tempfile.mkdtemp(), torch.zeros(5, 1, 8, 8))
        >>> files["encoder"].name, files["decoder"].name
        ('encoder.onnx', 'decoder.onnx')
    """
    _checks.number("tolerance", tolerance, low=0)
    for package in ("onnx", "onnxscript", *["onnxruntime"] * check):
        _import(package)
    traced = _traced(_copied(model).cpu(), x, context, parts)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as scratch:
        for each in traced:
            file = Path(scratch, f"{each.name}.onnx")
            _write(each, file)
            if check:
                _compare(each, file, tolerance)
                _compare(each.first(), file, tolerance)
        for each in traced:
            _commit(Path(scratch), folder, f"{each.name}.onnx")
    return {each.name: folder / f"{each.name}.onnx" for each in traced}


def _commit(scratch: Path, folder: Path, name: str) -> None:
    """Give a file its name, with what it refers to beside it; no other's weights are ever there."""
    weights = f"{name}.data"
    if (scratch / weights).exists():
        (folder / name).unlink(missing_ok=True)
        storage.commit(scratch / weights, folder / weights)
        storage.commit(scratch / name, folder / name)
    else:
        storage.commit(scratch / name, folder / name)
        (folder / weights).unlink(missing_ok=True)


class _Traced(NamedTuple):
    """A part, its module, and the inputs that it is traced with."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]

    def first(self) -> "_Traced":
        """Return the same for a batch of the first element alone."""
        return self._replace(inputs={name: value[:1] for name, value in self.inputs.items()})

    @torch.no_grad()
    def outputs(self) -> dict[str, Tensor]:
        """Run the module, and name what it returns."""
        result = self.module(*self.inputs.values())
        return result if isinstance(result, dict) else {"x_hat": result}


#: The module of each part, and the name of its first input.
_PARTS = {
    "encoder": (TensorEncoder, "x"),
    "decoder": (TensorDecoder, "z"),
    "autoencoder": (TensorAutoencoder, "x"),
}


def _copied(model: VAE) -> VAE:
    """Copy a model for evaluation, without what a graph cannot follow."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for each in model.modules():
        # vector-quantize-pytorch keeps in a tensor whether a codebook has been set up, and asks it.
        flag = each._buffers.get("initted")
        if flag is not None and bool(flag):
            del each._buffers["initted"]
            vars(each)["initted"] = True
    return model


@torch.no_grad()
def _traced(model: VAE, batch: Any, context: Context | None, parts: Sequence[str]) -> list[_Traced]:
    """Make the module and the inputs of each part, once the model has looked at the batch."""
    if isinstance(parts, str) or not isinstance(parts, Sequence) or not parts:
        what = f"a list of one or more of {', '.join(_PARTS)}"
        raise ValueError(_checks.expected("parts", what, repr(parts)))
    for part in parts:
        _checks.one_of("parts", part, list(_PARTS))
    x, _, y = datasets.unpack(batch)
    _checks.require(len(x) > 0, "x", "at least one element", "none")
    given = {"x": x}
    if context is None and model.takes_context:
        context = y
    if context is not None:
        given["context"] = as_context(context)
    weight = next((p for p in model.decoder.parameters() if p.is_floating_point()), torch.empty(0))
    if len(x) == 1:  # a size of one would become a constant
        given = {name: torch.cat([value, value]) for name, value in given.items()}
    given = {name: value.to(weight.device) for name, value in given.items()}
    noise = np.random.default_rng(0).standard_normal((len(given["x"]), model.latent_dim))
    given["z"] = torch.as_tensor(noise).to(weight)
    model.encode(given["x"], given.get("context"))
    model.decode(given["z"], given.get("context"))
    traced = []
    for part in parts:
        kind, first = _PARTS[part]
        module = kind(model)
        names = [first, "context"] if takes_context(module) else [first]
        traced.append(_Traced(part, module, {name: given[name] for name in names}))
    return traced


def _program(traced: _Traced) -> ExportedProgram:
    inputs = tuple(traced.inputs.values())
    shapes = tuple({0: Dim("batch")} for _ in inputs)
    with _told(traced, "torch.export"), _checks.unvalidated():
        return torch.export.export(traced.module, inputs, dynamic_shapes=shapes)


def _write(traced: _Traced, file: Path) -> None:
    program = _program(traced)
    size = sum(value.nbytes for value in program.state_dict.values())
    with _told(traced, "torch.onnx"):
        torch.onnx.export(
            program,
            f=file,
            input_names=list(traced.inputs),
            output_names=list(traced.outputs()),
            dynamic_shapes=({0: "batch"}, *[None] * (len(traced.inputs) - 1)),  # one name for all
            external_data=size > _LARGE,
            dynamo=True,
            verbose=False,
        )


def _compare(traced: _Traced, file: Path, tolerance: float) -> None:
    """Run a file, and say where it returns something else than the module."""
    onnxruntime = _import("onnxruntime")
    wanted = traced.outputs()
    with _told(traced, "onnxruntime"):
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        fed = {name: value.numpy() for name, value in traced.inputs.items()}
        results = session.run(list(wanted), fed)
    for (output, value), result in zip(wanted.items(), results, strict=True):
        bound = tolerance * float(value.abs().max()) if value.is_floating_point() else 0
        try:
            torch.testing.assert_close(torch.as_tensor(result), value, rtol=0, atol=bound)
        except AssertionError as error:
            what = f"onnxruntime to return {output} as the model does, to {tolerance:g} of its size"
            raise ExportError(_checks.expected(traced.name, what, _short(error))) from error


def _import(package: str) -> ModuleType:
    return _checks.module(package, "vaekit.export.onnx", package, '"vaekit[onnx]"')


@contextmanager
def _told(traced: _Traced, tool: str) -> Iterator[None]:
    """Say which part another's tool fails with, and its reason."""
    try:
        yield
    except Exception as error:
        what = f"a part that {tool} can take"
        raise ExportError(_checks.expected(traced.name, what, _short(error))) from error


def _short(error: BaseException) -> str:
    while error.__cause__ is not None:  # the last is where it began
        error = error.__cause__
    return shorten(f"{type(error).__name__}: {error}", 300, placeholder=" [...]")
