"""The API reference: which names are public, where each is at home, and that none is missing.

Everything is read from the ``__all__`` of the package and of its modules. A name is at home in the
module that lists it; names that the package shows at its top are shown there with a link home.
"""

from importlib import import_module
from operator import attrgetter
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import vaekit
import vaekit.sklearn  # nothing else imports it, for scikit-learn takes its time

logger = logging.getLogger(__name__)

MODULES = [name for name in vaekit.__all__ if isinstance(getattr(vaekit, name), ModuleType)]
MODULES.append("sklearn")
NAMES = {f"vaekit.{module}": list(getattr(vaekit, module).__all__) for module in MODULES}
HOMES = {
    id(getattr(getattr(vaekit, module), name)): f"vaekit.{module}.{name}"
    for module in MODULES
    for name in getattr(vaekit, module).__all__
}
ALIASES = [name for name in vaekit.__all__ if name not in MODULES and not name.startswith("__")]


def home(space: ModuleType, target: str) -> str | None:
    """Find the full name under which a reference, read as Python in ``space``, is documented."""
    parts = target.removeprefix("vaekit.").removeprefix("vk.").split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = attrgetter(".".join(parts[:count]))(space)
        except AttributeError:
            continue
        if isinstance(found, ModuleType):
            at: str | None = found.__name__
        else:
            at = HOMES.get(id(found))
        if at is not None:
            return ".".join([at, *parts[count:]])
    return None


def resolve(
    app: Sphinx, env: BuildEnvironment, node: Any, contnode: nodes.TextElement
) -> nodes.reference | None:
    """Resolve what Sphinx could not, as Python would: in the module at hand, then in vaekit."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    for space in (import_module(node.get("py:module") or "vaekit"), vaekit):
        name = home(space, target)
        if name is not None and name.startswith("vaekit.") and name != target:
            domain = env.domains.python_domain
            return domain.resolve_xref(
                env, node["refdoc"], app.builder, node["reftype"], name, node, contnode
            )
    return None


def check_complete(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of every public name that has no entry in the reference."""
    documented = env.domains.python_domain.objects
    for alias in ALIASES:
        if id(getattr(vaekit, alias)) not in HOMES:
            logger.warning("vaekit.%s is public, but no module lists it in its __all__", alias)
    for module, names in NAMES.items():
        for name in [module, *(f"{module}.{name}" for name in names)]:
            if name not in documented:
                logger.warning("%s is public and missing from the API reference", name)


def word_factories(
    app: Sphinx, what: str, name: str, obj: object, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """Write the defaults that data classes make afresh as ``...``, which is Python."""
    return (signature.replace("<factory>", "..."), returns) if signature else None


def skip_member(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: Any) -> bool:
    """Leave out the fields of named tuples, which the class's own docstring describes."""
    return skip or type(obj).__name__ == "_tuplegetter"


def show_public_bases(app: Sphinx, name: str, obj: type, options: Any, bases: list[type]) -> None:
    """Show, in place of a base class that the reference lacks, what it derives from."""
    while lacking := [
        index
        for index, base in enumerate(bases)
        if getattr(base, "__module__", "").startswith("vaekit.") and id(base) not in HOMES
    ]:
        bases[lacking[0] : lacking[0] + 1] = bases[lacking[0]].__bases__


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hooks."""
    context = {
        "modules_of": {"vaekit": MODULES},
        "aliases_of": {"vaekit": ALIASES},
        "names_of": NAMES,
    }
    app.connect("config-inited", lambda app, config: config.autosummary_context.update(context))
    app.connect("autodoc-process-bases", show_public_bases)
    app.connect("autodoc-process-signature", word_factories)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("missing-reference", resolve, priority=400)
    app.connect("env-check-consistency", check_complete)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
