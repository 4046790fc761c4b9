"""Sphinx configuration. Build with `nox -s docs`: every warning is an error."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from moat_core import __version__

project = "moat"
author = "The moat developers"
project_copyright = "The moat developers"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "moat_docs",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "adr/template.md"]
templates_path: list[str] = []

html_theme = "furo"
html_title = f"moat {version}"
html_copy_source = False
html_show_sphinx = False

# Single backticks in docstrings are code; none of them has to be a link.
default_role = "code"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "separated"
autodoc_default_options = {"members": True, "exclude-members": "__init__, __new__"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

nitpicky = True
# Each line says why the reference cannot be resolved here.
nitpick_ignore_regex = [
    # The standard library and the libraries that we build on: no inventory is fetched, so that docs build offline.
    (
        r"py:.*",
        r"(abc|anyio|attrs?|builtins|click|collections|contextlib|datetime|enum|os|pathlib|pluggy|types|typing)(\.\w+)*",
    ),
    (
        r"py:.*",
        (
            r"(bool|bytes|dict|float|frozenset|int|list|object|set|str|tuple|type|None|\.\.\.|optional"
            r"|Any|ClassVar|Self|Callable|Literal|Path|Iterable|Iterator|Mapping|Sequence|Awaitable|AsyncIterator"
            r"|AbstractAsyncContextManager|TracebackType|TaskStatus)"
        ),
    ),
    (r"py:(exc|class)", r"(BaseException|Exception|\w*Error|asyncio\.\w+)"),
    # What ConfigError and PlanError share; not a name to catch.
    (r"py:class", r"moat_core\.errors\._Problems"),
    # Type variables and aliases have no entry of their own.
    (r"py:.*", r"(.*\.)?(T|C|F|Stream|OnOutput|Argv)"),
    # Named in annotations of public classes, for plugins' inner working; described where they are used.
    (
        r"py:.*",
        (
            r"(moat_core\.)?(\w+\.)*"
            r"(Dispatcher|PluginManager|PluginInfo|Connections|Connection|Opened|LedgerRow|RunRow|Store|Home|UndoStack"
            r"|Reaped|Kinds|Held|FieldSpec|OciRuntimes|TaskGroup|Event)"
        ),
    ),
]
