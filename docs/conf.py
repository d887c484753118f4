"""How Sphinx builds the documentation.

sphinx-build -n -W -b html docs docs/_build/html
"""

import zlib
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

from fast_channels import __version__, type_defs

HERE = Path(__file__).parent
BUILD = HERE / "_build"

project = "fast_channels"
author = "The fast_channels contributors"
project_copyright = author
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]

# A reference that leads nowhere is a warning, and -W makes that an error.
nitpicky = True
nitpick_ignore = [
    # They have no documentation of their own to refer to.
    ("py:class", "asgiref.testing.ApplicationCommunicator"),
    ("py:class", "MultiFernet"),
    ("py:class", "redis.asyncio.client.Redis"),
    ("py:class", "redis.asyncio.connection.ConnectionPool"),
    ("py:class", "starlette.background.BackgroundTask"),
]
nitpick_ignore_regex = [
    # Type variables: what is put in their place matters, not their name.
    ("py:class", r"fast_channels\..*\._[A-Z]\w*"),
]
# Names without a role, as in `name`, are a mistake for ``name``.
default_role = "any"

# autodoc: members in reading order, and signatures that can be read.
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False


def local_inventory(name: str) -> str:
    """Return the inventory of another documentation, made of a list that is kept here.

    A build fetches nothing from the network, so that it says the same everywhere. The
    list has a line for each name that is referred to, in the form of Sphinx: the name,
    its role, its priority, the page and what is displayed ("$" and "-" are the name).
    """
    names = (HERE / "inventories" / f"{name}.txt").read_bytes()
    header = (
        "# Sphinx inventory version 2\n"
        f"# Project: {name}\n"
        "# Version: \n"
        "# The remainder of this file is compressed using zlib.\n"
    )
    BUILD.mkdir(exist_ok=True)
    inventory = BUILD / f"{name}.inv"
    inventory.write_bytes(header.encode() + zlib.compress(names))
    return str(inventory)


intersphinx_mapping = {
    "python": ("https://docs.python.org/3", local_inventory("python")),
}

# The network decides whether it passes, so CI does not run it:
# sphinx-build -b linkcheck docs docs/_build/linkcheck
linkcheck_ignore = [r"https?://(localhost|127\.0\.0\.1)[:/].*"]
linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_anchors_ignore_for_url = [r"https://github\.com/.*"]

html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False
html_show_sphinx = False


def keep_first_line(_: Sphinx, what: str, *rest: Any) -> None:
    """Keep napoleon from reading "A glob: it is ..." as an attribute of type "A glob".

    It looks for a type at the beginning, and finds an empty comment.
    """
    if what in {"attribute", "data", "property"}:
        lines: list[str] = rest[-1]
        lines[:0] = ["..", ""]


# Types with a name, as autodoc writes them: the longest first, which holds others.
NAMED_TYPES = [
    (stringify_annotation(getattr(type_defs, name), "smart"), name)
    for name in (
        "ASGIApplication",
        "ASGISendCallable",
        "ASGIReceiveCallable",
        "ChannelHeaders",
        "ChannelScope",
    )
]
MESSAGE = stringify_annotation(type_defs.ChannelMessage, "smart")


def name_types(
    *arguments: Any,
) -> tuple[str, str | None] | None:
    """Write the names of types into signatures, in place of what they stand for."""
    signature, returns = arguments[-2:]
    if signature is None:
        return None
    return shorten(signature), shorten(returns) if returns else returns


def shorten(text: str) -> str:
    """Replace types by their names."""
    for long, short in NAMED_TYPES:
        text = text.replace(long, f"~fast_channels.type_defs.{short}")
    return text.replace(
        f"message: {MESSAGE}", "message: ~fast_channels.type_defs.ChannelMessage"
    )


def setup(app: Sphinx) -> None:
    """Connect what is ours, before napoleon's at 500."""
    app.connect("autodoc-process-docstring", keep_first_line, priority=400)
    app.connect("autodoc-process-signature", name_types)
