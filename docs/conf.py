"""Configuration of Sphinx. Built by ``make docs``, with every warning an error."""

import shutil
import sys
from pathlib import Path

import vaekit

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "vaekit"
author = "The vaekit authors"
copyright = "The vaekit authors"
version = release = vaekit.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # formulas for readers without a network too
    "sphinx.ext.napoleon",
    "sphinxcontrib.bibtex",
    "sphinx_gallery.gen_gallery",
    "vaekit_api",
    "vaekit_pages",
    "vaekit_pairs",
]
exclude_patterns = ["_build", "_ext", "_templates", "results"]
templates_path = ["_templates"]

# A name in single backticks is one of vaekit's, and must be there: `GaussianLatent`, `vk.fit`.
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [
    # What lies outside cannot be looked up without a network.
    (r"py:.*", r"(torch|jaxtyping|numpy|sklearn|collections\.abc|pathlib|os|abc|types)(\..*)?"),
    (r"py:class", r"Tensor|ndarray"),  # as jaxtyping shows them: Float[Tensor, 'batch dim']
    (r"py:class", r"Axes"),  # matplotlib's, which is imported for type checkers alone
    (r"py:class", r"optional"),
    (r"py:class", r"vaekit\.pretrained\._P"),  # any class derived from it
    # Distributions that likelihoods return, which their own room does not show.
    (r"py:class", r"vaekit\.distributions\.\w+\.\w+"),
]

html_theme = "furo"
html_title = f"vaekit {release}"
html_show_sphinx = False
html_copy_source = False
CODE = {"code-font-size": "var(--font-size--small--3)"}  # a hundred columns without scrolling
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": CODE,
    "dark_css_variables": CODE,
}
pygments_style = "friendly"

# The API reference: see _ext/vaekit_api.py, which lists the public names by itself.
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Shape"]

# Run by ``sphinx -b doctest``; what stands in docstrings is run by pytest.
doctest_test_doctest_blocks = ""
doctest_global_setup = """
import torch
import vaekit as vk

torch.manual_seed(0)
"""

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
bibtex_default_style = "alpha"

# The gallery runs copies of the examples, so that the pictures they write stay out of the sources.
EXAMPLES = HERE / "_build" / "examples"
EXAMPLES.mkdir(parents=True, exist_ok=True)
for example in (HERE.parent / "examples").glob("*.py"):
    shutil.copy2(example, EXAMPLES / example.name)
shutil.copy2(HERE / "_templates" / "gallery.rst", EXAMPLES / "GALLERY_HEADER.rst")

sphinx_gallery_conf = {
    "examples_dirs": str(EXAMPLES),
    "gallery_dirs": "gallery",
    "filename_pattern": r"(?<!bigger_than_memory)\.py$",  # which limits the memory of its process
    "within_subsection_order": "vaekit_pages.InOrder",
    "capture_repr": (),
    "download_all_examples": False,
    "min_reported_time": 10**9,
    "plot_gallery": True,
    "remove_config_comments": True,
    "reset_modules": ("matplotlib", "vaekit_pages.hush"),
    "reset_modules_order": "both",
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
}
