"""Tables of which parts go together, found by trying them while the docs are built.

The parts are those of the test of combinations, where rules say what is to be found.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import vaekit as vk

sys.path.append(str(Path(__file__).parents[2] / "tests"))
import combinations
from combinations import LATENTS, OWN, PRIORS, TERMS, Choice

COLUMNS = [OWN, *(name for name in PRIORS if ", " not in name and name != OWN)]
REAL = [name for name in PRIORS if PRIORS[name].measure in ("", "r" * combinations.DIM)]
REAL.remove(OWN)
REFUSED = "What is expected where another is refused"
HOMES = (vk.latents, vk.hierarchy, vk.priors, vk.objectives)


def divergence(latent: str, prior: str) -> tuple[str, str]:
    """Try a divergence: whether it is exact, estimated or refused, and what an error says."""
    word = "exact"
    try:
        out = _inferred(Choice(latent, prior, ()))
        try:
            vk.kl_divergence(out.posterior, out.prior, method="analytic")
        except NotImplementedError:
            word = "estimated"
            vk.kl_divergence(out.posterior, out.prior)
    except (NotImplementedError, TypeError, ValueError) as error:
        return "refused", _said(error)
    return word, ""


def refusal(latent: str, prior: str, term: str) -> str:
    """Try a term: what its error says, and nothing where there is none."""
    choice = Choice(latent, prior, (term,), samples=3 if TERMS[term].draws else None)
    try:
        combinations.run(choice, combinations.build(choice))
    except (NotImplementedError, TypeError, ValueError) as error:
        return _said(error)
    return ""


def _inferred(choice: Choice) -> vk.vae.VAEOutput:
    model, (x, context) = combinations.build(choice), combinations.data(choice)
    return model(x, context=context if model.takes_context else None)


def _said(error: Exception) -> str:
    """Word what was expected, without what came."""
    if found := re.match(r"(\w+): expected (.*?), got ", str(error), re.DOTALL):
        return f"``{found[1]}``: {found[2]}"
    if found := re.match(r"(\w+): (no closed form)", str(error)):
        return f"``{found[1]}``: there is {found[2]}"
    raise error


def linked(name: str) -> str:
    """Word a part's name as a reference, with what else tells it apart."""
    first, _, rest = name.partition(", ")
    for module in HOMES:
        if first in module.__all__:
            first = f"`{first} <{module.__name__.removeprefix('vaekit.')}.{first}>`"
    return f"{first}, {rest}" if rest else first


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Write a table as reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [header, *rows]:
        lines += [f"   {'  -' if i else '* -'} {cell}" for i, cell in enumerate(row)]
    return [*lines, ""]


def listed(names: Iterable[str]) -> str:
    """Word a list of parts."""
    return "; ".join(map(linked, names)) or "none"


def grouped(found: dict[str, tuple[str, ...]]) -> list[list[str]]:
    """Make one row of the parts whose cells are the same."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, cells in found.items():
        alike.setdefault(cells, []).append(name)
    return [[listed(names), *cells] for cells, names in alike.items()]


def divergences() -> list[str]:
    """Set every latent against every prior."""
    found: dict[str, tuple[str, ...]] = {}
    for latent in LATENTS:
        tried = {prior: divergence(latent, prior) for prior in COLUMNS}
        exact, estimated = (
            listed(prior for prior, (word, _) in tried.items() if word == each)
            for each in ("exact", "estimated")
        )
        reasons = dict.fromkeys(reason for _, reason in tried.values() if reason)
        found[latent] = (exact, estimated, "; ".join(reasons))
    return table(["Latents", "Exact", "Estimated", REFUSED], grouped(found))


def terms(by: str) -> list[str]:
    """Set every term against every latent with a prior of its own, or every prior of reals."""
    found: dict[str, tuple[str, ...]] = {}
    for term in TERMS:
        if by == "latents":
            tried = {latent: refusal(latent, OWN, term) for latent in LATENTS}
        else:
            tried = {prior: refusal("GaussianLatent", prior, term) for prior in REAL}
        refused = [name for name, reason in tried.items() if reason]
        works = [name for name, reason in tried.items() if not reason]
        words = listed(works)
        if len(works) >= len(refused):
            words = f"all but {listed(refused)}" if refused else "all"
        reasons = dict.fromkeys(reason for reason in tried.values() if reason)
        found[term] = (words, "; ".join(reasons))
    return table(["Terms", by.capitalize(), REFUSED], grouped(found))


class Pairs(SphinxDirective):
    """Show one of the tables: ``divergences``, ``latents`` or ``priors``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Try all pairs of the table."""
        self.env.note_dependency(combinations.__file__)
        which = self.arguments[0]
        with torch.random.fork_rng(devices=[]):
            lines = divergences() if which == "divergences" else terms(which)
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("pairs", Pairs)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
