"""Models in folders and on the Hugging Face Hub: weights, what they are parts of, and a card."""

import json
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib import import_module
from os import PathLike, fspath
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from vaekit import _checks, storage
from vaekit._version import __version__
from vaekit.architecture import LEAST, UndescribedError, build, describe, torch_class
from vaekit.storage import DamagedFileError

__all__ = ["Pretrained"]

_P = TypeVar("_P", bound="Pretrained")

_FORMAT = 1  # raised where what older versions wrote is no longer read as they meant it
_CONFIG, _WEIGHTS, _CARD = "config.json", "model.safetensors", "README.md"
_ARGUMENTS = "arguments*.safetensors"  # whose name holds their sum, for one never to replace others
_IS_ARGUMENTS = re.compile(r"arguments(-[0-9a-f]{16})?\.safetensors")
_LARGEST_CONFIG = 10_000_000  # bytes
_SPARE = 4_000_000  # numbers that parts may hold beside their weights, like masks
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # any of one another
_CARD_TEXT = """\
---
library_name: vaekit
tags:
- vae
- variational-autoencoder
---

# {title}

{text}{parameters:,} parameters, {latent_dim} latent dimensions. Written by vaekit {vaekit} with
torch {torch}.

```python
import vaekit as vk

model = vk.VAE.from_pretrained("{source}"{needs})
```

```
{model}
```
"""


class Pretrained(nn.Module):
    """A model that can be written to a folder and to the Hugging Face Hub, and read from there.

    `vaekit.VAE` is one: see `save_pretrained`.
    """

    _rooms: ClassVar[Sequence[str]] = ()  # of vaekit, whose public classes a file may name

    def save_pretrained(self, folder: str | PathLike[str], *, text: str = "") -> None:
        """Write the model to a folder: weights, what it is built of, and a card.

        The weights are a safetensors file, the rest is JSON and a ``README.md``: nothing is
        pickled. A part is described by its class and what it was made with, read off its
        attributes of the same names, or told by its method ``init_args``. Where one does not tell,
        or the model cannot be built again so, there is a warning, and `from_pretrained` needs a
        model of the same parts.

        Args:
            folder: Where to; it is made. What it holds of a model is replaced, by the renaming of
                one file: wherever a process is killed, there is the one model or the other.
            text: What the card says of the model.

        Raises:
            OSError: If a file cannot be written; what was there is then untouched.
            TypeError: If the state of a part is no tensor.
            ValueError: If the weights are spread over processes, or the folder is of another
                library.

        Example:
            >>> import tempfile
            >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), 2)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     model.save_pretrained(folder, text="Handwritten digits.")
            ...     same = vk.VAE.from_pretrained(folder)
            >>> torch.equal(same.decode(torch.zeros(1, 2)), model.decode(torch.zeros(1, 2)))
            True
        """
        _warn_of(_save(self, Path(folder), text))

    @classmethod
    def from_pretrained(
        cls: type[_P],
        source: str | PathLike[str],
        *,
        model: _P | None = None,
        classes: Iterable[type] = (),
        revision: str | None = None,
        device: torch.device | str | None = None,
    ) -> _P:
        """Read a model from a folder or from the Hugging Face Hub, in evaluation mode.

        Nothing that a file names is run but the constructors of torch's layers and distributions
        and of vaekit's parts, within the memory that the weights take; those of the caller's own
        classes where the caller names them.

        Args:
            source: A folder that `save_pretrained` wrote, or a repository on the Hub,
                ``"owner/name"``.
            model: One of the same parts, to be given the weights, where it should not be built, or
                cannot.
            classes: The classes of one's own that it may be built of: ``[MyEncoder]``.
            revision: The repository's branch, tag or commit.
            device: Where to put it.

        Raises:
            DamagedFileError: If a file is not as it was written, or no model can be built from it.
            FileNotFoundError: If there is no such folder, or a file is missing.
            TypeError: If it is a model of another class, or ``classes`` is no list.
            ValueError: If the weights do not fit the model or hold NaN, a class is not among
                ``classes``, the device is not there, a revision is asked of a folder, or a model is
                needed and there is none.
        """
        if device is not None:
            device = _checks.device("device", device)
        if isinstance(classes, type):
            hint = f"That of one is [{classes.__name__}]."
            raise TypeError(_checks.expected("classes", "a list of classes", classes, hint))
        folder = _folder(source, revision)
        config = _config(folder)
        state = _tensors(folder / _WEIGHTS, config)
        found: Any = model
        if model is None:
            found = _built(folder, config, state, _finder((cls, *classes), cls._rooms))
        if not isinstance(found, cls):
            raise TypeError(_checks.expected("source", f"a {cls.__name__}", type(found).__name__))
        _give(found, state)
        for name, parameter in found.named_parameters():
            parameter.requires_grad_(name not in config["frozen"])
        return found.eval().to(device)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        text: str = "",
        private: bool = False,
        token: str | None = None,
        message: str = "Add a model",
    ) -> str:
        """Put the model on the Hugging Face Hub, as `save_pretrained` writes it.

        Args:
            repo_id: The repository, ``"owner/name"``; it is made where there is none.
            text: What the card says of the model.
            private: Whether a new repository is private.
            token: Of the account; that of ``hf auth login`` if None.
            message: Of the commit.

        Returns:
            The repository's address.

        Raises:
            OSError: If the Hub refuses it (its ``HfHubHTTPError`` is one).
            TypeError: As of `save_pretrained`.
            ValueError: As of `save_pretrained`.

        Example:
            .. code-block:: python

                model.push_to_hub("me/digits", text="Trained on MNIST.", private=True)
                same = vk.VAE.from_pretrained("me/digits")
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder:
            why = _save(self, Path(folder), text, repo_id)
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(
                folder_path=folder,
                repo_id=url.repo_id,
                commit_message=message,
                delete_patterns=[_ARGUMENTS],
            )
        _warn_of(why)
        return str(url)


def _save(model: Pretrained, folder: Path, text: str, source: str = "") -> str | None:
    """Write a model to a folder; return why it cannot be built from there, if it cannot."""
    versions = {"vaekit": __version__, "torch": str(torch.__version__)}
    state, arguments = _state(model), dict[str, Tensor]()
    custom = {type(part).__name__: type(part) for part in model.modules() if _is_custom(part)}
    described, why = None, None
    try:
        described = describe(model, arguments)
        _verify(model, described, arguments, custom)
    except Exception as error:  # whatever a constructor that is called again may raise
        described, why, arguments = None, str(error), {}
    needs = f", classes=[{', '.join(sorted(custom))}]" if custom else ""
    card = _CARD_TEXT.format(
        title=source or folder.resolve().name,
        text=text and f"{text}\n\n",
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        latent_dim=getattr(model, "latent_dim", "?"),
        source=source or folder.resolve().name,
        needs=needs if why is None else ", model=model",
        model=model,
        **versions,
    )
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    config = {"library": "vaekit", "format": _FORMAT, "versions": versions, "frozen": frozen}
    config |= {"model": described, "not_described": why}
    # All is written before any of it has its name, so that a full disk leaves what was there; and
    # what describes both models has its name before the weights, whose renaming then decides.
    before = _before(folder)
    with ExitStack() as stack:
        weights, told, both, last, page = (
            stack.enter_context(storage.scratch(folder)) for _ in range(5)
        )
        storage.write_tensors(weights, state, {"format": "pt"})
        sums = config["sums"] = {_WEIGHTS: storage.sum_of(weights)}
        if arguments:
            storage.write_tensors(told, arguments, {"format": "pt"})
            found = storage.sum_of(told)
            sums[f"arguments-{found}.safetensors"] = found
        both.write_text(_json(config | {"before": before}), encoding="utf-8")
        last.write_text(_json(config), encoding="utf-8")
        page.write_text(card, encoding="utf-8")
        ours = _is_ours(folder / _CARD)
        for own in sums.keys() - {_WEIGHTS}:
            storage.commit(told, folder / own)
        if before is not None:
            storage.commit(both, folder / _CONFIG)
        storage.commit(weights, folder / _WEIGHTS)
        storage.commit(last, folder / _CONFIG)
        if ours:
            storage.commit(page, folder / _CARD)
    for path in folder.glob(_ARGUMENTS):
        if _IS_ARGUMENTS.fullmatch(path.name) and path.name not in sums:
            path.unlink(missing_ok=True)
    storage.sweep(folder)
    return why


def _json(config: dict[str, Any]) -> str:
    return json.dumps(config, indent=1) + "\n"


def _before(folder: Path) -> dict[str, Any] | None:
    """Return the description of the model that a folder holds already, if it holds one.

    Raises:
        ValueError: If it holds a description of something else.
    """
    held: Any = None
    with suppress(OSError, ValueError, RecursionError):
        held = json.loads((folder / _CONFIG).read_bytes())
    if isinstance(held, dict) and held.get("library") != "vaekit":
        what = "one without a config.json of something else"
        raise ValueError(_checks.expected("folder", what, folder))
    try:
        config = _config(folder)
        whole = storage.sum_of(folder / _WEIGHTS) == config["sums"][_WEIGHTS]
    except (OSError, DamagedFileError, KeyError):
        return None
    return config if whole else None


def _state(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise UndescribedError(_checks.expected(name, "a tensor, to save it", repr(value)))
        if storage.is_spread(value):
            hint = (
                "Give a model made anew those of a checkpoint, by training.load_checkpoint, or "
                "what torch.distributed.checkpoint.state_dict.get_model_state_dict puts together."
            )
            raise ValueError(_checks.expected(name, "a whole tensor", "a piece of one", hint))
    return state


def _compare(kept: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Say so where weights do not fit a model, by name and shape."""
    lacking, foreign = sorted(kept.keys() - given.keys()), sorted(given.keys() - kept.keys())
    if lacking or foreign:
        got = f"none of {_few(lacking)}, and besides" if lacking else "besides"
        got += f" {_few(foreign)}"
        raise ValueError(_checks.expected("model", "the weights of its parts", got))
    for name, value in kept.items():
        what, shape = f"shape {tuple(value.shape)}", given[name].shape
        _checks.require(shape == value.shape, name, what, tuple(shape))
        dtype = given[name].dtype
        alike = dtype in _DTYPES if value.dtype in _DTYPES else dtype == value.dtype
        _checks.require(alike, name, f"numbers like {value.dtype}", dtype)


def _few(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" * (len(names) > most)
    return f"{list(names[:most])}{more}"


def _give(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a model weights that fit it."""
    _compare(_state(model), state)
    for name, value in state.items():
        _checks.no_nan(f"{_WEIGHTS}: {name}", value)
    _cast(model, state)
    model.load_state_dict(state)


def _verify(
    model: Pretrained, described: Any, arguments: Mapping[str, Tensor], custom: Mapping[str, type]
) -> None:
    """Say so where what is built of a description is another model."""
    for place, part in model.named_modules(prefix="model"):
        if part._forward_hooks or part._forward_pre_hooks:
            raise UndescribedError(_checks.expected(place, "a module without hooks", part))
        if _is_custom(part) and custom[type(part).__name__] is not type(part):
            what = "one class of each name"
            raise UndescribedError(_checks.expected(place, what, f"two, {type(part).__name__}"))
    state = _state(model)
    find = _finder(custom.values(), model._rooms)
    rebuilt = build(described, arguments, find, _room(state, arguments))
    _give(rebuilt, state)
    found: dict[str, Tensor] = {}
    again = describe(rebuilt, found)
    same = again == described and repr(rebuilt) == repr(model)
    same = same and _shared(rebuilt) == _shared(model)
    buffers = dict(rebuilt.named_buffers())
    pairs = [(value, found.get(name)) for name, value in arguments.items()]
    pairs += [(value, buffers.get(name)) for name, value in model.named_buffers()]
    if not same or not all(b is not None and torch.equal(a.cpu(), b.cpu()) for a, b in pairs):
        what = "a model that its constructors' arguments make again"
        got = (
            "one that was changed since, has weights tied, or keeps other values under their names"
        )
        raise UndescribedError(_checks.expected("model", what, got))


def _shared(model: nn.Module) -> list[list[str]]:
    """List the names of parameters, those that are one and the same beside one another."""
    places: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        places.setdefault(id(parameter), []).append(name)
    return list(places.values())


def _cast(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a model the dtypes of its weights, as ``load_state_dict`` does not."""
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    dtypes = {state[name].dtype for name in own.keys() & state.keys()}
    floats = {dtype for dtype in dtypes if dtype.is_floating_point}
    if len(floats) == 1:
        model.to(floats.pop())
    for name in own.keys() & state.keys():
        own[name].data = own[name].data.to(state[name].dtype)


def _is_custom(part: nn.Module) -> bool:
    name = type(part).__module__
    return not name.startswith("vaekit.") and not name.startswith("torch.")


def _finder(classes: Iterable[type], rooms: Sequence[str]) -> Callable[[str], type]:
    """Make what returns the class of a name: torch's, vaekit's public ones, or the caller's."""
    own = {kind.__name__: kind for kind in classes}
    modules = [import_module(f"vaekit.{room}") for room in rooms]
    public = {
        f"{module.__name__}.{name}": getattr(module, name)
        for module in modules
        for name in module.__all__
    }

    def find(name: str) -> type:
        kind = torch_class(name) or public.get(name) or own.get(name)
        if not isinstance(kind, type):
            hint = (
                "Nothing else is run that a file names; with model=, of the same parts, nothing is."
            )
            what = f"{name!r} among them"
            raise _UnknownClassError(_checks.expected("classes", what, list(own), hint))
        return kind

    return find


class _UnknownClassError(ValueError):
    pass


def _room(*held: Mapping[str, Tensor]) -> int:
    weights = [value for tensors in held for value in tensors.values()]
    return _SPARE + sum(2 * value.numel() + 10 * LEAST for value in weights)


def _built(
    folder: Path, config: dict[str, Any], state: Mapping[str, Tensor], find: Callable[[str], type]
) -> Any:
    """Build the model that a folder describes, without its weights."""
    if config.get("model") is None:
        hint = "It was saved without its parts, since they do not tell what they were made with: "
        what, why = "one of the same parts, to be given the weights", config.get("not_described")
        raise ValueError(_checks.expected("model", what, None, hint + str(why)))
    arguments: dict[str, Tensor] = {}
    for name in filter(_IS_ARGUMENTS.fullmatch, config["sums"]):
        arguments |= _tensors(folder / name, config)
    for name, value in arguments.items():
        _checks.no_nan(f"arguments: {name}", value)
    try:
        model: Any = build(config["model"], arguments, find, _room(state, arguments))
    except _UnknownClassError:
        raise
    except Exception as error:  # whatever constructors raise that are given what a file says
        what = f"no model can be built from it ({type(error).__name__}: {error})"
        raise DamagedFileError(folder / _CONFIG, what) from error
    if not isinstance(model, nn.Module):
        raise DamagedFileError(folder / _CONFIG, "it describes no model")
    return model


def _folder(source: str | PathLike[str], revision: str | None) -> Path:
    folder = Path(source)
    if folder.is_dir():
        what = "None for a folder, which has no other"
        _checks.require(revision is None, "revision", what, repr(revision))
        return folder
    local = folder.parent != Path() and folder.parent.exists()  # a mistyped path, most likely
    if local or re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", fspath(source)) is None:
        what = "a folder, or a repository 'owner/name'"
        raise FileNotFoundError(_checks.expected("source", what, fspath(source)))
    from huggingface_hub import snapshot_download

    files = [_CONFIG, _WEIGHTS, _ARGUMENTS]
    return Path(snapshot_download(fspath(source), revision=revision, allow_patterns=files))


def _is_ours(card: Path) -> bool:
    """Tell whether a card may be written over: there is none, or it was written here."""
    return not card.exists() or b"Written by vaekit" in card.read_bytes()


def _config(folder: Path) -> dict[str, Any]:
    """Read the description of the weights that a folder holds."""
    path = folder / _CONFIG
    if not path.is_file():
        raise FileNotFoundError(_checks.expected("source", "a folder with the file", path))
    size = path.stat().st_size
    if size > _LARGEST_CONFIG:
        raise DamagedFileError(path, f"it is larger than any description, {size} bytes")
    try:
        text = path.read_text(encoding="utf-8")
        read = json.loads(text, parse_constant=_infinite)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(path, f"it is no JSON ({error})") from error
    config = _known(path, read)
    before, weights = config.pop("before", None), folder / _WEIGHTS
    if before is not None and weights.is_file():  # the writing of another model was cut off
        before = _known(path, before)
        if storage.sum_of(weights) != config["sums"].get(_WEIGHTS):
            return before
    return config


def _known(path: Path, config: Any) -> dict[str, Any]:
    """Look at what a file of JSON says."""
    known = isinstance(config, dict) and isinstance(config.get("format"), int)
    if not known or [type(config.get(name)) for name in ("sums", "frozen")] != [dict, list]:
        raise DamagedFileError(path, "it does not describe a model of vaekit")
    if config["format"] > _FORMAT:
        versions = config.get("versions")
        raise DamagedFileError(path, f"it is of a newer format; written by {versions}")
    found: dict[str, Any] = config
    return found


def _infinite(word: str) -> float:
    """Return what JSON has no number for, unless it is none at all."""
    if word == "NaN":
        raise ValueError("NaN among its numbers")
    return float(word)


def _tensors(path: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(_checks.expected("source", "a folder with the file", path))
    if storage.sum_of(path) != config["sums"].get(path.name):
        raise DamagedFileError(path, f"its bytes do not add up to the sum in {_CONFIG}")
    return storage.read_tensors(path)[0]


def _warn_of(why: str | None) -> None:
    """Warn that a model was saved which cannot be built from its description."""
    if why is not None:
        hint = "Its weights are saved; from_pretrained needs model=, one of the same parts."
        warnings.warn(f"{why} {hint}", stacklevel=3)
