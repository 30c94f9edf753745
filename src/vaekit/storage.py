"""Files of tensors and plain values: written whole or not at all, and read without running code."""

import hashlib
import json
import os
import platform
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit import _checks

__all__ = [
    "DamagedFileError",
    "commit",
    "is_spread",
    "read",
    "read_tensors",
    "scratch",
    "sum_of",
    "sweep",
    "write",
    "write_tensors",
]

_SUFFIX = ".writing"
_writing: set[str] = set()  # what this process has begun


class DamagedFileError(ValueError):
    """A file does not hold what was written to it.

    Attributes:
        path: The file.

    Example:
        >>> import tempfile
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> folder = Path(tempfile.mkdtemp())
        >>> model.save_pretrained(folder)
        >>> _ = (folder / "model.safetensors").write_bytes(b"something else")
        >>> try:
        ...     vk.VAE.from_pretrained(folder)
        ... except DamagedFileError as error:
        ...     print(error.path.name)
        model.safetensors
    """

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path}: {what}.")
        self.path, self._what = path, what

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self._what)


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Yield a place for a file that is gone at the end, unless it was committed to a name.

    Raises:
        OSError: If the folder cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(_checks.expected("folder", "a folder", f"a file, {folder}"))
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{platform.node()}.{os.getpid()}.{uuid.uuid4().hex}{_SUFFIX}"
    _writing.add(temporary.name)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        _writing.discard(temporary.name)


def commit(temporary: Path, path: Path) -> None:
    """Give a file its name once it is on the disk: after a crash it is there whole, or not at all.

    Raises:
        OSError: If it cannot be written; what had the name before is then untouched.
    """
    with temporary.open("r+b") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def sweep(folder: Path) -> None:
    """Remove what a process of this machine was writing when it was killed."""
    for left in folder.glob(f".{platform.node()}.*{_SUFFIX}"):
        process = left.name.removeprefix(f".{platform.node()}.").partition(".")[0]
        own = process == str(os.getpid())  # or of another before, in a container started anew
        if left.name not in _writing if own else not _is_running(process):
            left.unlink(missing_ok=True)


def _is_running(process: str) -> bool:
    if os.name != "posix" or not process.isdecimal():
        return True  # as far as can be told
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_spread(value: Any) -> bool:
    """Tell whether it is a ``DTensor``, of which each process has a piece."""
    return hasattr(value, "full_tensor")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write named tensors in the safetensors format; those that share memory are written twice.

    Raises:
        OSError: If they cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain, seen = {}, set()
    for name, tensor in tensors.items():
        own = tensor.detach().contiguous()
        memory = own.untyped_storage()
        if memory.data_ptr() in seen or memory.nbytes() != own.nbytes:
            own = own.clone()  # safetensors refuses what shares memory
        seen.add(own.untyped_storage().data_ptr())
        plain[name] = own
    path.touch()
    mode = path.stat().st_mode  # of files that anybody makes; that of save_file is the user's alone
    try:
        save_file(plain, path, dict(metadata))
        path.chmod(mode)
    except SafetensorError as error:  # what the system said, in words alone
        raise OSError(f"{path.parent} could not be written to: {error}.") from error


def write(folder: Path, stem: str, value: Any) -> Path:
    """Write tensors and plain values, nested in any way, to a file that tells whether it is whole.

    Args:
        folder: Where to; it is made.
        stem: What the file's name begins with; a sum of its bytes follows.
        value: A tensor, an array, a number, a string, None, or dictionaries, lists and tuples of
            such values.

    Returns:
        The file.

    Raises:
        TypeError: If there is anything else among the values.
        OSError: If the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_flat(value, "value", tensors))
    with scratch(folder) as temporary:
        write_tensors(temporary, tensors, {"values": tree})
        path = folder / f"{stem}-{sum_of(temporary)}.safetensors"
        commit(temporary, path)
    return path


def read(path: Path) -> Any:
    """Read what `write` wrote, every tensor into memory of the processor.

    Raises:
        DamagedFileError: If the file is not as it was written, or was not written by `write`.
        OSError: If it cannot be read.
    """
    if not path.stem.endswith(f"-{sum_of(path)}"):
        raise DamagedFileError(path, "its bytes do not add up to the sum in its name")
    tensors, metadata = read_tensors(path)
    try:
        return _nested(json.loads(metadata["values"]), tensors)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise DamagedFileError(path, f"it holds no nested values ({error})") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file of named tensors, into memory of the processor, and what is said beside them.

    Raises:
        DamagedFileError: If it is no safetensors file, or not whole.
        OSError: If it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            # Copies, for what the file gives is a view of its bytes, whatever becomes of them.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, ValueError) as error:
        raise DamagedFileError(path, f"it holds no tensors ({error})") from error


def sum_of(path: Path) -> str:
    """Return the first 64 bits of a file's SHA-256, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _flat(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """Return what JSON takes, and put the tensors beside it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tensor | np.ndarray):
        kind, name = "tensor" if isinstance(value, Tensor) else "array", str(len(tensors))
        tensors[name] = torch.as_tensor(value)
        return {kind: name}
    if isinstance(value, Mapping):
        pairs = ((_flat(k, place, tensors), f"{place}[{k!r}]", v) for k, v in value.items())
        return {"dict": [[key, _flat(v, where, tensors)] for key, where, v in pairs]}
    if isinstance(value, list | tuple):
        items = [_flat(each, f"{place}[{i}]", tensors) for i, each in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    what = "tensors, numbers, strings, and dictionaries, lists and tuples of them"
    raise TypeError(_checks.expected(place, what, repr(value)))


def _nested(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put tensors and values together as they were."""
    if isinstance(tree, list):
        return [_nested(each, tensors) for each in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, held),) = tree.items()
    if kind == "tensor":
        return tensors[held]
    if kind == "array":
        return tensors[held].numpy()
    if kind == "tuple":
        return tuple(_nested(each, tensors) for each in held)
    return {_nested(k, tensors): _nested(v, tensors) for k, v in held}
