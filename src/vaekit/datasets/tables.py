"""Files of numbers: tables and arrays, read without running what they may hold."""

import csv
import re
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from vaekit import _checks

__all__ = ["Units", "read_numbers", "remark", "units"]

_CODING = "utf-8-sig"  # which some programs begin with a mark


class Units(NamedTuple):
    """What is taken off each column, what it is then divided by, and whether it varies."""

    mean: npt.NDArray[Any]
    scale: npt.NDArray[Any]
    varies: npt.NDArray[Any]


def units(rows: npt.NDArray[Any]) -> Units:
    """Return the mean of each column and its standard deviation; its value and 1 if it is constant.

    Shape:
        ``rows: (rows, columns)``; returns arrays of ``(columns,)``, in double precision.
    """
    farthest = np.maximum(rows.max(0), -rows.min(0).astype(np.float64))
    _, power = np.frexp(farthest)  # of two, by which nothing is rounded and no square overflows
    small = np.ldexp(rows, -power, dtype=np.float64)
    mean, deviation = small.mean(0), small.std(0)
    # What a column that does not vary leaves is rounding, to be left as it is.
    own = np.finfo(rows.dtype if rows.dtype.kind == "f" else np.float64).eps
    rounding = max(10 * own, len(rows) * np.finfo(np.float64).eps)  # of a value, of their sum
    varies = deviation > rounding * np.abs(mean)
    mean, deviation = np.ldexp(mean, power), np.ldexp(deviation, power)
    return Units(np.where(varies, mean, rows[0]), np.where(varies, deviation, 1.0), varies)


def read_numbers(path: Path, label: str | None) -> tuple[Any, Any, Sequence[str], Sequence[str]]:
    """Read a file of numbers, without running what it may hold.

    Labels that are numbers are taken as they are, words by the names that they are; so are numbers
    that are infinite or too large to be told from their neighbours.

    Returns:
        The numbers, the labels, the labels' names, and the columns' names, where they have some.
    """
    labels, columns = None, list[str]()
    try:
        if path.suffix == ".npy":
            _checks.require(label is None, "--label", "none for a .npy file", label)
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            _checks.require(array.ndim > 0, "data", "an array of elements", "a single number")
            return array, None, (), ()
        if path.suffix == ".npz":
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                if label is not None:
                    _checks.one_of("--label", label, list(file))
                    labels = file[label]
                names = [name for name in file if name != label]
                what = "an array called x, or one alone beside the --label"
                single = "x" in names or len(names) < 2
                _checks.require(single, "data", what, f"{path.name}, with {', '.join(names)}")
                values = file["x" if "x" in names else names[0]]
        elif path.suffix == ".csv":
            values, labels, columns = _table(path, label)
        else:
            raise ValueError(_checks.expected("data", "a file .npy, .npz or .csv", path.name))
    except (ValueError, KeyError, IndexError, EOFError, BadZipFile, zlib.error, csv.Error) as error:
        if str(error).startswith(("data: ", "--label: ")):
            raise
        # numpy takes what it cannot read for pickles, and says how those are run.
        pickled = any(word in str(error) for word in ("allow_pickle", "pickled", "Python objects"))
        why = "It holds no plain numbers." if pickled else f"{type(error).__name__}: {error}"
        message = _checks.expected("data", "a whole file of numbers", path.name, why)
        raise ValueError(message) from error
    if labels is None or labels.dtype.kind not in "OUS":
        return values, labels, (), columns
    classes, labels = np.unique(labels, return_inverse=True)
    return values, labels, [str(each) for each in classes], columns


def _table(path: Path, label: str | None) -> tuple[Any, Any, list[str]]:
    """Read a table with or without a line of names; return the labels, and the names, apart."""
    first, names, named, _ = _first_line(path, label)
    told = [*map(_is_number, names)]
    if not named and not all(told):
        odd = told.index(False)
        got = f"{path.name}, with {names[odd]!r} in column {odd + 1}"
        hint = "With --label it is one of names, numbers among them."
        raise ValueError(_checks.expected("data", "a first line of names or of numbers", got, hint))
    count = 0
    for line, row in _rows(path):  # numpy would leave out what lies beyond the columns it is told
        count += 1
        if len(row) != len(names):
            what = f"{len(names)} cells in each line, separated by commas, as the first has"
            got = f"{path.name}, with {len(row)} in line {line}"
            hint = "One without a name? Name it in the first line." * (len(row) > len(names))
            hint = "Cells are separated by commas alone." if ";" in "".join(names) else hint
            raise ValueError(_checks.expected("data", what, got, hint))
    _checks.require(count > named, "data", "at least one row of numbers", "none")
    read = partial(
        np.loadtxt,
        path,
        delimiter=",",
        comments=None,
        quotechar='"',
        skiprows=first if named else 0,
        encoding=_CODING,
    )
    columns, labels = list(range(len(names))), None
    if label is not None:
        _checks.one_of("--label", label, names)
        labels = read(usecols=columns.pop(names.index(label)), dtype=str, ndmin=1)
        labels = _as_numbers(labels)
    _checks.require(bool(columns), "data", "at least one column of numbers", f"{names}")
    try:
        return read(usecols=columns, ndmin=2), labels, [names[i] for i in columns if named]
    except ValueError as error:
        hint = "A column of words may be a --label; a cell that is empty is no number."
        place = re.search(r"at row (\d+), column (\d+)", str(error))
        got = f"{path.name}: {error}".rstrip(".")
        if place is not None:  # numpy counts rows from 0, behind the names
            line, _ = next(islice(_rows(path), int(place[1]) + int(named), None))
            where = f"in line {line}, column {place[2]}"
            got = f"{path.name}: {str(error)[: place.start()]}{where}".rstrip(".")
        message = _checks.expected("data", "a table of numbers", got, hint)
        raise ValueError(message) from error


def remark(path: Path, label: str | None) -> str:
    """Word what a first line of whole numbers is taken for, where it may be meant otherwise."""
    return _first_line(path, label)[3]


def _first_line(path: Path, label: str | None) -> tuple[int, list[str], bool, str]:
    """Return a table's first line: its number, its cells, whether they are names, and a remark."""
    (line, first), (_, second) = [*islice(_rows(path), 2), (0, []), (0, [])][:2]
    names = [each.strip() for each in first]
    if label is not None or not all(map(_is_whole, names)):
        return line, names, label is not None or not any(map(_is_number, names)), ""
    counted = names == [str(place) for place in range(len(names))]  # as pandas does without names
    above = not all(map(_is_whole, second))  # numbers that are not whole
    named = counted and above and len(names) > 2  # fewer may well be a row
    if not counted and not above:
        return line, names, named, ""
    kind = "the columns' names" if named else "an element; if it is of names, make words of them"
    return (
        line,
        names,
        named,
        f"the first line of {path.name}, {','.join(first)[:20]}, is taken for {kind}.",
    )


def _as_numbers(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Make numbers of labels that are some; as floats, if that merges none of them."""
    if all(map(_is_whole, labels)):
        whole = [int(each) for each in labels]
        return np.array(whole) if max(map(abs, whole)) < 2**63 else labels
    if not all(map(_is_number, labels)):
        return labels
    numbers = labels.astype(float)
    if not (np.abs(numbers) < 2**53).all():
        return labels
    return numbers.astype(int) if (numbers == numbers.round()).all() else numbers


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Go through the lines of a table that hold something, with their numbers."""
    with path.open(encoding=_CODING, newline="") as lines:
        reader = csv.reader(lines)
        for row in reader:
            if row:
                yield reader.line_num, row


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"\s*[+-]?\d+\s*", text, re.ASCII) is not None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
