import math
import os
import pickle
import platform
import resource
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vaekit import storage
from vaekit.storage import DamagedFileError, read, write

VALUES = {
    "none": None,
    "flags": [True, False],
    "numbers": [0, -7, 2**70, 0.1, -0.0, math.inf, -math.inf, 5e-324],
    "words": "größer",
    3: {"nested": (1, [2.5], ())},
    (1, 2): {},
    "tensors": [torch.arange(6).view(2, 3), torch.zeros(0, 4), torch.tensor(2.5)],
    "array": np.arange(5, dtype=np.uint32),
    "numpy number": np.float64(0.3),
}
DTYPES = [torch.bool, torch.uint8, torch.int16, torch.int64, torch.bfloat16, torch.float16]
DTYPES += [torch.float32, torch.float64]


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        alike = type(one) is type(other) and len(one) == len(other)
        return alike and all(map(same, one, other))
    return one == other and math.copysign(1, one or 1) == math.copysign(1, other or 1)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    values = {key: value for key, value in VALUES.items() if key != "words"}
    path = write(tmp_path / "new", "state", VALUES)
    found = read(path)
    assert found.pop("words") == VALUES["words"]
    assert same(values, found)
    assert list(path.parent.iterdir()) == [path]
    assert path.name.startswith("state-")
    assert path.suffix == ".safetensors"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kind_of_number(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.tensor([[0, 1], [1, 0]]).to(dtype)
    assert same(tensor, read(write(tmp_path, "x", tensor)))


def test_memory_that_is_shared_or_not_in_order(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    values = [whole, whole, whole[1], whole.T, whole[:, 1:3], torch.ones(1).expand(5)]
    assert same([value.contiguous() for value in values], read(write(tmp_path, "x", values)))


def test_what_was_read_outlives_its_file(tmp_path: Path) -> None:
    path = write(tmp_path, "x", torch.arange(1000.0))
    found = read(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(found, torch.arange(1000.0))


@pytest.mark.parametrize("value", [{"a": [object()]}, {1, 2}, b"bytes", lambda: 0, 1j])
def test_what_needs_pickle_is_refused(tmp_path: Path, value, refuses) -> None:
    refuses(TypeError, lambda: write(tmp_path, "x", {"of": [value]}), "value['of'][0]", "tensors")
    assert not list(tmp_path.iterdir())


def test_every_damaged_byte_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path, "x", {"tensor": torch.arange(3.0), "number": 1})
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match="do not add up") as caught:
            read(path)
        assert caught.value.path == path
    for length in (0, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFileError, match="do not add up"):
            read(path)
    path.write_bytes(whole)
    assert read(path)["number"] == 1
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    for content in (pickle.dumps({"a": 1}), b"", b"\xff" * 8 + b"{}"):
        other.write_bytes(content)
        named = tmp_path / f"x-{storage.sum_of(other)}.safetensors"
        named.write_bytes(content)
        with pytest.raises(DamagedFileError, match="holds no tensors"):
            read(named)
    storage.write_tensors(other, {"a": torch.zeros(2)}, {})
    named = other.replace(tmp_path / f"y-{storage.sum_of(other)}.safetensors")
    with pytest.raises(DamagedFileError, match="holds no nested values"):
        read(named)


@pytest.mark.parametrize("room", [0, 100, 4096])
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, room: int) -> None:
    before = write(tmp_path, "before", torch.zeros(2000))
    script = f"""
import resource, signal, sys, torch
from pathlib import Path
from vaekit import storage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))
try:
    storage.write(Path(sys.argv[1]), "x", torch.zeros(2000))
except OSError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "could not be written" in done.stdout
    assert list(tmp_path.iterdir()) == [before]
    assert torch.equal(read(before), torch.zeros(2000))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != room


def test_what_a_killed_process_left_is_swept_up(tmp_path: Path) -> None:
    kept = write(tmp_path, "x", 1)
    start = f".{platform.node()}."
    notes, alive = tmp_path / "notes.txt", tmp_path / f"{start}{os.getppid()}.a.writing"
    elsewhere = tmp_path / ".another-machine.1.a.writing"
    gone = tmp_path / f"{start}{2**22 + 1}.a.writing"
    before = tmp_path / f"{start}{os.getpid()}.a.writing"  # of one that had the same number
    with storage.scratch(tmp_path) as own:
        for path in (gone, notes, alive, elsewhere, before, own):
            path.write_text("half")
        storage.sweep(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([kept, notes, alive, elsewhere, own])


def test_a_file_has_its_name_once_it_is_on_the_disk(tmp_path: Path, monkeypatch) -> None:
    """Whole or not at all: it is never written into what bears the name."""
    calls, sync, replace = [], os.fsync, Path.replace
    kinds = {True: "folder", False: "file"}

    def fsync(handle: int) -> None:
        calls.append(kinds[stat.S_ISDIR(os.fstat(handle).st_mode)])
        sync(handle)

    def renamed(self: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(self, target)

    path = tmp_path / "file"
    path.write_text("before")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", renamed)
    with path.open() as reader:
        with storage.scratch(tmp_path) as temporary:
            temporary.write_text("after")
            storage.commit(temporary, path)
        assert reader.read() == "before"
    assert path.read_text() == "after"
    assert calls == ["file", "rename", "folder"][: 3 if os.name == "posix" else 2]
