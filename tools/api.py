"""Hold the public names and signatures to a recorded snapshot, and their changes to the changelog.

    python tools/api.py [record | release]

Fails where the code differs from ``api/current.txt``; where that differs from ``api/released.txt``,
the snapshot of the last release, and the unreleased part of CHANGELOG.md does not say so; where the
newest change of ``api/current.txt`` that git knows of left CHANGELOG.md as it was, for an older
line on a name says nothing of what changed since; where a name is gone that a release had and none
deprecated; and where a deprecation names no version that removes it, or one that has come.
``record`` writes the current snapshot first; ``release``, once the changelog bears the date, makes
it the released one. Until the first release that one holds what was public when recording began.

Public is what ``vaekit.__all__`` lists, the ``__all__`` of each module that it lists, and
``vaekit.sklearn``; of a class its constructor, its operators and what bears no leading underscore,
its own or inherited from a class that is not public. A name stands where it is at home, with a line
``other = home`` for each other place. The code is read and not run; of a function with overloads
the signature that runs is shown, and a shape that reads as Python without its quotation marks.
"""

import argparse
import ast
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import griffe

ROOT = Path(__file__).parent.parent
UNLISTED = ("sklearn",)  # public, though the package does not import it
HEADER = "# Every public name and signature, as `python tools/api.py record` found them."
BINDING = {"classmethod", "staticmethod"}
MARKS = BINDING | {"cached", "property", "writable"}
LINE = re.compile(r"(?P<marks>(@\w+ )*)(?P<kind>class |def |module )?(?P<name>[\w.]+)(?P<rest>.*)")
#: How a deprecation says when it goes.
REMOVAL = re.compile(r"removed in vaekit (\d+)\.(\d+)")
_ABRUPT = "removed, not deprecated before"

Snapshot = dict[str, str]  # the line of each public name


def snapshot(package: griffe.Module) -> Snapshot:
    """Describe every public name in one line."""
    listed = [package[name] for name in [*(package.exports or ()), *UNLISTED]]
    modules = [*(found for found in listed if found.is_module), package]
    lines = {module.path: f"module {module.path}" for module in modules}
    homes: dict[str, str] = {}  # from where an object is written to where it is public
    for module in modules:
        for name in map(str, module.exports or ()):
            found, path = module[name], f"{module.path}.{name}"
            home = path if found.is_module else homes.setdefault(found.canonical_path, path)
            if home != path:
                lines[path] = f"{path} = {home}"
    for written, path in homes.items():
        lines |= _described(path, package[written.removeprefix(f"{package.path}.")], homes)
    return dict(sorted(lines.items()))


def _described(path: str, found: griffe.Object | griffe.Alias, homes: dict[str, str]) -> Snapshot:
    """Describe an object, and the members of a class that no other public class describes."""
    target = found.final_target if isinstance(found, griffe.Alias) else found
    decorators = target.decorators if isinstance(target, griffe.Class | griffe.Function) else ()
    deprecated = any(one.callable_path.endswith("deprecated") for one in decorators)
    marks = [*sorted(MARKS & target.labels), *["deprecated"] * deprecated]
    before = "".join(f"@{mark} " for mark in marks)
    if isinstance(target, griffe.Function):
        return {path: f"{before}def {target.signature(name=path)}"}
    if isinstance(target, griffe.Attribute):
        annotation = f": {target.annotation}" if target.annotation else ""
        fixed = "instance-attribute" not in target.labels or "class-attribute" in target.labels
        value = f" = {target.value}" if target.value and fixed and path[-2:] != "__" else ""
        return {path: f"{before}{path}{annotation}{value}"}
    if not isinstance(target, griffe.Class):
        raise TypeError(f"{path}: expected a class, a function or a value, got {target!r}")
    bases = list(_bases(target, homes))
    lines = {path: f"{before}class {path}({', '.join(bases)})"}
    for name, member in target.all_members.items():
        operator = re.fullmatch("__.+__", name) and member.is_function
        here = name in target.members or member.canonical_path.rpartition(".")[0] not in homes
        if here and (operator or not name.startswith("_")):
            lines |= _described(f"{path}.{name}", member, homes)
    if "NamedTuple" in bases:  # whose constructor, and order, its fields are
        fields = [
            k for k, v in target.attributes.items() if v.annotation and "property" not in v.labels
        ]
        given = ", ".join(lines[f"{path}.{name}"].removeprefix(f"{path}.") for name in fields)
        lines[f"{path}.__init__"] = f"def {path}.__init__({given}) -> None"
    return lines


def _bases(found: griffe.Class, homes: dict[str, str]) -> Iterator[str]:
    """List the bases, and in place of one that is not public those that it has itself."""
    for base in found.bases:
        path = base if isinstance(base, str) else base.canonical_path
        known = next((one for one in found.resolved_bases if one.canonical_path == path), None)
        if isinstance(known, griffe.Class) and path not in homes:
            yield from _bases(known, homes)
        else:
            yield str(base)


def read(path: Path) -> Snapshot:
    """Read a snapshot that was recorded."""
    return {_split(line)["name"]: line for line in path.read_text("utf-8").splitlines()[1:]}


def _split(line: str) -> re.Match[str]:
    split = LINE.fullmatch(line)
    if split is None:
        raise ValueError(f"not a line of a snapshot: {line!r}")
    return split


@dataclass(frozen=True)
class Change:
    """A public name whose line differs; None where there is none."""

    name: str
    before: str | None
    after: str | None

    @cached_property
    def breaking(self) -> list[str]:
        """What breaks for those who use the name."""
        if self.before is None:
            return []
        if self.after is None:
            return ["removed" if "@deprecated " in self.before else _ABRUPT]
        marks = [
            set(re.findall(r"\w+", _split(line)["marks"])) for line in (self.before, self.after)
        ]
        broken = [f"no {mark} any more" for mark in sorted((marks[0] - marks[1]) & BINDING)]
        for breakage in griffe.find_breaking_changes(stub(self.before), stub(self.after)):
            part = breakage.old_value or breakage.new_value
            of = f": {part.name}" if isinstance(part, griffe.Parameter) else ""
            broken.append(breakage.kind.value.lower() + of)
        return broken

    @cached_property
    def parameters(self) -> tuple[set[str], set[str]]:
        """The parameters that are new, and the others that differ or are gone."""
        before, after = _parameters(self.before), _parameters(self.after)
        differ = {name for name in before if before[name] != after.get(name)}
        return after.keys() - before.keys(), differ

    @property
    def adds(self) -> bool:
        """Whether something is added and all else as it was."""
        new, others = self.parameters
        return self.before is None or (bool(new) and not others and not self.breaking)

    def __str__(self) -> str:
        lines = [
            f"  {sign} {line}" for sign, line in (("-", self.before), ("+", self.after)) if line
        ]
        return "\n".join([*lines, *(f"    breaking: {what}" for what in self.breaking)])


def stub(line: str) -> griffe.Module:
    """Let griffe read a line of a snapshot, as a module of one object."""
    split = _split(line)
    kind = split["kind"] if split["kind"] in ("class ", "def ") else ""
    code = f"{kind}it{split['rest'] or ': object'}{': ...' * bool(kind)}"
    return griffe.visit("stub", Path("stub.py"), code)


def _parameters(line: str | None) -> dict[str, str]:
    found = stub(line)["it"] if line else None
    return {p.name: str(p) for p in found.parameters} if found and found.is_function else {}


def changes(before: Snapshot, after: Snapshot) -> list[Change]:
    """Find the names whose lines differ."""
    every = (Change(name, before.get(name), after.get(name)) for name in {**before, **after})
    return sorted((one for one in every if one.before != one.after), key=lambda one: one.name)


def unreleased(changelog: str) -> list[tuple[str, str]] | None:
    """List the items of the unreleased part, which comes first, each after its heading."""
    top = re.search(r"^## ([^\n]+)(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if top is None or "unreleased" not in top[1].lower():
        return None
    parts = re.split(r"^### (.+)$", top[2], flags=re.MULTILINE)[1:]
    return [
        (heading.strip(), item)
        for heading, items in zip(parts[::2], parts[1::2], strict=True)
        for item in re.split(r"^- ", items, flags=re.MULTILINE)[1:]
    ]


def unsaid(before: Snapshot, after: Snapshot, items: list[tuple[str, str]]) -> Iterator[str]:
    """Word what the changelog lacks: one item for each change, with its names in backticks.

    These are the name, and the parameters that differ. Naming a class is enough for the members
    that came or went with it. An item under "Added" may be older than the change of what it names,
    so it does for what is new alone.
    """
    modules = [name for name, line in {**before, **after}.items() if line.startswith("module ")]
    found = changes(before, after)
    whole = {one.name for one in found if one.before is None or one.after is None}
    for one in found:
        if one.name in whole and one.name.rpartition(".")[0] in whole - set(modules):
            continue
        home = max((name for name in modules if one.name.startswith(f"{name}.")), key=len)
        words = one.name.removeprefix(f"{home}.").removesuffix(".__init__").split(".")
        words += sorted(set().union(*one.parameters)) if one.before and one.after else []
        if not any(
            (one.adds or heading != "Added") and _names(item, words) for heading, item in items
        ):
            where = "" if one.adds else ' elsewhere than under "Added"'
            yield f"{one.name}: an item{where} that names {', '.join(f'`{w}`' for w in words)}"


def _names(item: str, words: list[str]) -> bool:
    code = " ".join(re.findall(r"`([^`]+)`", item))
    return all(re.search(rf"(?<!\w){word}(?!\w)", code) for word in words)


def abrupt(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """Word which names are gone that were not deprecated, where they are at home."""
    for one in changes(before, after):
        home = re.fullmatch(r"[\w.]+ = ([\w.]+)", one.before or "")
        announced = home is not None and "@deprecated " in before.get(home[1], "")
        if _ABRUPT in one.breaking and not announced:
            yield f"{one.name}: {_ABRUPT}. It is to warn for one minor version first."


def overdue(folder: Path, version: str) -> Iterator[str]:
    """Word what is wrong with the deprecations in the files of a folder."""
    now = tuple(map(int, version.split(".")[:2]))
    for path in sorted(folder.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            name, text = ast.unparse(call.func).rpartition(".")[2], ast.unparse(call)
            if name == "deprecated" or (name == "warn" and "DeprecationWarning" in text):
                where = f"{path.relative_to(folder)}:{call.lineno}"
                removal = REMOVAL.search(text)
                if removal is None:
                    yield f'{where}: a deprecation says "removed in vaekit MAJOR.MINOR"; got {text}'
                elif tuple(map(int, removal.groups())) <= now:
                    yield f"{where}: to be {removal[0]}, and this is {version}"


def silent(root: Path) -> Iterator[str]:
    """Word whether the newest change of the snapshot came without one of the changelog."""

    def git(*words: str) -> list[str]:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)
        return done.stdout.split() if done.returncode == 0 else []

    if git("rev-parse", "--show-toplevel") != [str(root.resolve())]:
        return  # not the repository's own checkout
    changed = git("diff", "--name-only", "HEAD")
    if "api/current.txt" not in changed:
        newest = git("log", "-1", "--format=%H", "--", "api/current.txt")
        changed = git("show", "--format=", "--name-only", *newest) if newest else []
    if "api/current.txt" in changed and "CHANGELOG.md" not in changed:
        yield "api/current.txt changed, and CHANGELOG.md did not: say there what did."


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run the command, print what was found, and return 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", nargs="?", choices=("check", "record", "release"))
    command = parser.parse_args(arguments).command
    package = griffe.load("vaekit", search_paths=[root / "src"], allow_inspection=False)
    if not isinstance(package, griffe.Module):
        raise TypeError(f"expected a package, got {package!r}")
    try:
        code = snapshot(package)
    except (griffe.AliasResolutionError, KeyError) as error:
        print(f"An __all__ lists a name that is nowhere: {error}")
        return 1
    version = runpy.run_path(str(root / "src/vaekit/_version.py"))["__version__"]
    changelog = (root / "CHANGELOG.md").read_text("utf-8")
    items = unreleased(changelog)
    current, released = root / "api" / "current.txt", root / "api" / "released.txt"
    faults = [*overdue(root / "src", version), *silent(root)]
    if command == "record":
        current.write_text("\n".join([HEADER, *code.values(), ""]), "utf-8")
    if found := changes(read(current), code):
        what = "The code is not as recorded; `python tools/api.py record` records it:"
        faults.append("\n".join([what, *map(str, found)]))
    elif command == "release" and items is None:
        shutil.copyfile(current, released)
    elif command == "release":
        faults.append("CHANGELOG.md has an unreleased part; its heading is to bear the date.")
    if found := changes(read(released), read(current)):
        print("Since the last release:", *found, sep="\n")
    dated = re.search(r"^## .*\d{4}-\d\d-\d\d", changelog, re.MULTILINE)
    if dated:
        faults += abrupt(read(released), read(current))
    if lacking := list(unsaid(read(released), read(current), items or [])):
        what = "The unreleased part of CHANGELOG.md lacks"
        faults.append("\n".join([what, *(f"  {one}" for one in lacking)]))
    print(*faults, f"{len(code)} public names; {len(faults)} faults", sep="\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
