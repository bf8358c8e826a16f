"""Sphinx's settings: Markdown pages, the API from the docstrings, formulas as MathML, nothing from the network."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.util.nodes import make_refnode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

project = "SLHF"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

html_theme = "furo"
html_title = "SLHF"
html_static_path = ["_static"]
html_css_files = ["slhf.css"]
html_copy_source = False
html_show_copyright = False

# Markdown
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3

# Docstrings. Plain backticks are code. What a package re-exports is documented where it is defined.
default_role = "code"
autosummary_generate = True
autosummary_imported_members = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}  # not written out
autodoc_default_options = {"members": True, "ignore-module-all": True}
add_module_names = False

# Several modules have a Command or a State of their own: a link by that name alone may go to any of them.
suppress_warnings = ["ref.python"]
# Every reference that someone wrote must lead somewhere.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(numpy|torch|collections|typing|pathlib)\..*")]

html_math_renderer = "mathml"
NAPOLEON = Config(napoleon_use_ivar=True, napoleon_attr_annotations=False)
LITERAL = re.compile(r"(``.*?``)")


def google(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Read a Google-style docstring; bars are absolute values in this project, not substitutions.

    What follows a field is a sentence of its own: napoleon would take the part before a colon for a type.
    """
    literal = None  # how far the line that announced a literal block is indented
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if literal is None or (line.strip() and indent <= literal):
            parts = LITERAL.split(line)
            lines[i] = "".join(part if part.startswith("``") else part.replace("|", r"\|") for part in parts)
            literal = indent if line.endswith("::") else None
    if what not in ("attribute", "data", "property"):
        lines[:] = GoogleDocstring(lines, NAPOLEON, app, what, name, obj, options).lines()


def foreign(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what other packages put into our classes, such as the ``set`` of a matplotlib figure."""
    return True if str(getattr(obj, "__module__", "")).startswith("matplotlib.") else None


def by_last_name(app: Sphinx, env: Any, node: Any, content: nodes.Element) -> nodes.Element | None:
    """Find ``solve_slhf`` and ``tabular.solve_slhf`` where they are defined; types of other projects get no link."""
    if node.get("refdomain") != "py":
        return None
    domain: PythonDomain = env.domains.python_domain
    package, _, last = node["reftarget"].rpartition(".")
    matches = domain.find_obj(env, "", "", node["reftarget"], None, 1) or [
        (name, target) for name, target in domain.find_obj(env, "", "", last, None, 1) if name.startswith(package + ".")
    ]
    found = {target.node_id: target for _, target in matches}
    if len(found) == 1:
        (target,) = found.values()
        return make_refnode(app.builder, node["refdoc"], target.docname, target.node_id, content)
    return None if "refwarn" in node else content


def mathml(translator: Any, node: Any) -> None:
    """Write a formula as MathML, which browsers draw by themselves: no script, no fonts to load."""
    block = isinstance(node, nodes.math_block)
    translator.body.append(convert(node.astext(), display="block" if block else "inline"))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", google)
    app.connect("autodoc-skip-member", foreign)
    app.connect("missing-reference", by_last_name)
    app.add_html_math_renderer("mathml", inline_renderers=(mathml, None), block_renderers=(mathml, None))
