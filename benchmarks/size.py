"""Count the lines of Python packages: all of them, and those of code alone.

A line of code holds a token that is neither a docstring nor a comment. Modules and packages at the
top of each folder are counted by themselves.

    python benchmarks/size.py src/vaekit [other packages ...] [--core FOLDER] [--json FILE]

With ``--core``, the folder of vaekit as it was before the variants (``git worktree add FOLDER
5771455``), what the rooms that hold the variants have grown by is counted too.
"""

import argparse
import ast
import io
import json
import tokenize
from pathlib import Path

LAYOUT = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
#: The rooms that hold the variants; the others measure, draw, train, load and save.
VARIANTS = ("_checks", "distributions", "hierarchy", "latents", "likelihoods", "losses", "networks")
VARIANTS += ("objectives", "priors", "recipes", "schedules", "vae")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def lines(source: str) -> tuple[int, int]:
    """Return how many lines there are, and how many hold code."""
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (*LAYOUT, tokenize.COMMENT):
            code |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            code -= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return len(source.splitlines()), len(code)


def count(package: Path) -> dict[str, dict[str, int]]:
    """Return the lines of each part of a package, and of the whole."""
    parts: dict[str, dict[str, int]] = {}
    for path in sorted(package.rglob("*.py")):
        every, code = lines(path.read_text(encoding="utf-8"))
        for name in (path.relative_to(package).parts[0].removesuffix(".py"), "in all"):
            row = parts.setdefault(name, {"lines": 0, "code": 0})
            row["lines"] += every
            row["code"] += code
    parts["in all"] = parts.pop("in all")  # last
    return parts


def growth(before: dict[str, dict[str, int]], now: dict[str, dict[str, int]]) -> dict[str, int]:
    """Return what the variants' rooms have more lines of than before."""
    none = {"lines": 0, "code": 0}
    return {
        kind: sum(now.get(name, none)[kind] - before.get(name, none)[kind] for name in VARIANTS)
        for kind in none
    }


def main() -> None:
    """Count each package, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", type=Path, nargs="+")
    parser.add_argument("--core", type=Path, help="vaekit as it was before the variants")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    args = parser.parse_args()
    rows: dict[str, dict[str, int]] = {}
    for package in args.packages:
        parts = count(package)
        print(f"{package.name:24}{'lines':>8}{'code':>8}")
        for name, row in parts.items():
            print(f"  {name:22}{row['lines']:8}{row['code']:8}")
        rows[package.name] = parts["in all"]
    if args.core:
        rows["vaekit's variants, over its core"] = growth(count(args.core), count(args.packages[0]))
        print(rows["vaekit's variants, over its core"])
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
