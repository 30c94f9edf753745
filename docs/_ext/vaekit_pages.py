"""Directives of the pages: tables of measured results, Markdown files, the gallery's order."""

import contextlib
import io
import json
import re
import warnings
from pathlib import Path
from typing import Any, ClassVar

import tqdm.auto
import tqdm.std
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx_gallery.sorting import ExplicitOrder


class Results(SphinxDirective):
    """Show a file of results as tables and pictures.

    ``rows`` may be a list of rows or a mapping of their names to them; every other mapping becomes
    a sentence of keys and values. ``bars`` names keys to draw of every row that has one of them;
    ``picture`` is a file that is drawn already.
    """

    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {
        "digits": directives.nonnegative_int,
        "picture": directives.uri,
        "bars": str.split,
    }

    def run(self) -> list[nodes.Node]:
        """Read the file; the content maps keys to headings, ``key: heading`` on each line."""
        relative, absolute = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(relative)
        path = Path(absolute)
        if not path.exists():
            raise self.error(f"there is no {self.arguments[0]}")
        result = json.loads(path.read_text())
        result.pop("points", None)  # of a picture
        self.headings = dict(line.split(": ", 1) for line in self.content)
        rows = result.pop("rows")
        if isinstance(rows, dict):
            rows = [{"": name, **row} for name, row in rows.items()]
        keys = list(dict.fromkeys(key for row in rows for key in row))
        found: list[nodes.Node] = [self.table(keys, rows)]
        items = nodes.field_list()
        for key, value in result.items():
            if isinstance(value, dict):
                shown = "; ".join(f"{self.heading(k)}: {self.word(v)}" for k, v in value.items())
            else:
                shown = self.word(value)
            name = nodes.field_name(text=self.heading(key))
            items += nodes.field("", name, nodes.field_body("", nodes.paragraph(text=shown)))
        if len(items):
            found.append(items)
        if bars := self.options.get("bars"):
            found.append(self.drawn(bars, rows, path.stem))
        picture = self.options.get("picture")
        if picture and Path(self.env.relfn2path(picture)[1]).exists():
            found.append(nodes.image(uri=picture, alt=f"What {self.arguments[0]} holds, drawn"))
        return found

    def drawn(self, keys: list[str], rows: list[dict[str, Any]], name: str) -> nodes.raw:
        """Draw a bar for each of the keys that a row has, row under row."""
        import matplotlib.pyplot as plt  # when conf.py has said that nothing is to be shown

        rows = [row for row in rows if any(row.get(key) is not None for key in keys)]
        height, thickness = 0.8 + (0.15 + 0.25 * len(keys)) * len(rows), 0.8 / len(keys)
        style = {"svg.fonttype": "none", "svg.hashsalt": name}
        with plt.rc_context(style), io.StringIO() as file:
            figure, axis = plt.subplots(figsize=(8, height), layout="constrained")
            for index, key in enumerate(keys):
                held = [(at, row[key]) for at, row in enumerate(rows) if row.get(key) is not None]
                at, lengths = [at + thickness * index for at, _ in held], [n for _, n in held]
                bars = axis.barh(at, lengths, 0.9 * thickness, label=self.heading(key))
                axis.bar_label(bars, [self.word(float(length)) for length in lengths], padding=3)
            middle = thickness * (len(keys) - 1) / 2
            axis.set_yticks([at + middle for at in range(len(rows))], [row[""] for row in rows])
            axis.invert_yaxis()
            axis.margins(x=0.12)
            axis.spines[["top", "right"]].set_visible(False)
            if len(keys) == 1:
                axis.set_xlabel(self.heading(keys[0]))
            else:
                axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
            figure.savefig(file, format="svg", metadata={"Date": None})
            plt.close(figure)
            svg = file.getvalue()
        label = f"{' and '.join(map(self.heading, keys))}, drawn"
        shown = f'<svg role="img" aria-label="{label}" style="width: 100%; height: auto"'
        return nodes.raw("", shown + svg[svg.index("<svg") + 4 :], format="html")

    def heading(self, key: str) -> str:
        """Word a key."""
        return str(self.headings.get(key, key.replace("_", " ")))

    def word(self, value: Any) -> str:
        """Word a value."""
        digits = self.options.get("digits", 2)
        if isinstance(value, float) and 0 < abs(value) < 10**-digits:
            return f"{value:g}"
        if isinstance(value, float):
            return f"{value:.{digits}f}"
        return "" if value is None else str(value)

    def table(self, keys: list[str], rows: list[dict[str, Any]]) -> nodes.table:
        """Make a table of rows."""
        group = nodes.tgroup(cols=len(keys))
        group += [nodes.colspec(colwidth=1) for _ in keys]

        def row(cells: list[str]) -> nodes.row:
            return nodes.row("", *(nodes.entry("", nodes.paragraph(text=cell)) for cell in cells))

        group += nodes.thead("", row([self.heading(key) if key else "" for key in keys]))
        group += nodes.tbody("", *(row([self.word(r.get(k)) for k in keys]) for r in rows))
        return nodes.table("", group)


class Markdown(SphinxDirective):
    """Include a Markdown file: headings, lists, fenced code, links and code spans.

    The first heading is left out, since the page has its own.
    """

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Read the file and parse it as reStructuredText."""
        relative, absolute = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(relative)
        text = to_rst(Path(absolute).read_text(encoding="utf-8"))
        self.content, self.content_offset = StringList(text.splitlines(), source=absolute), 0
        return self.parse_content_to_nodes(allow_section_headings=True)


def to_rst(markdown: str) -> str:
    """Turn simple Markdown into reStructuredText."""
    lines: list[str] = []
    fenced = False
    # Links may be broken over lines, so they are turned first.
    markdown = re.sub(r"\[([^\]]+)\]\((https?://[^)\s]+)\)", r"`\1 <\2>`__", markdown)
    for line in markdown.splitlines():
        if fence := re.match(r"```(\w*)$", line):
            fenced = not fenced
            lines += ["", f".. code-block:: {fence[1] or 'text'}", ""] if fenced else [""]
        elif fenced:
            lines.append("    " + line)
        elif heading := re.match(r"(#+) (.*)", line):
            if len(heading[1]) > 1:
                title = re.sub(r"[\[\]`]", "", heading[2])
                lines += ["", title, "-~"[len(heading[1]) - 2] * len(title), ""]
        else:
            lines.append(re.sub(r"(?<!`)`([^`<]+)`(?![`_])", r"``\1``", line))
    return "\n".join(lines)


class Unseen(tqdm.std.tqdm):
    """A progress bar that is drawn where nobody looks."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Make the bar."""
        super().__init__(*args, **options | {"file": io.StringIO()})


OUTSIDE = contextlib.ExitStack()  # gives back the filters that warnings had before an example


def hush(gallery_conf: Any, fname: str | None, when: str) -> None:
    """Keep out of the pages what is said by the way: progress bars, and warnings.

    A warning is an error while an example runs, but for Lightning's, and those of other people's
    code of its own future.

    Example:
        >>> before = warnings.filters[:]
        >>> hush({}, "example.py", "before")
        >>> warnings.warn("said by the way")
        Traceback (most recent call last):
            ...
        UserWarning: said by the way
        >>> hush({}, "example.py", "after")
        >>> warnings.filters == before
        True
    """
    OUTSIDE.close()
    tqdm.auto.tqdm = Unseen
    if when == "before":
        OUTSIDE.enter_context(warnings.catch_warnings())
        for kind in (UserWarning, RuntimeWarning):
            warnings.simplefilter("error", kind)
        warnings.filterwarnings("error", category=DeprecationWarning, module="__main__")
        warnings.filterwarnings("ignore", module="lightning")


GALLERY = [
    "quickstart.py",
    "custom_encoder.py",
    "generate.py",
    "transformation.py",
    "reduce_dimensions.py",
    "denoise.py",
    "anomalies.py",
    "features.py",
    "compress.py",
    "disentangle.py",
    "interpolate.py",
    "overfitting.py",
    "lightning_module.py",
    "bigger_than_memory.py",
]


class InOrder(ExplicitOrder):
    """The order of the gallery, in which an example that is not listed is an error."""

    def __init__(self, src_dir: str) -> None:
        super().__init__(GALLERY)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("results", Results)
    app.add_directive("markdown", Markdown)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
