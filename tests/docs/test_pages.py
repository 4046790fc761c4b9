"""What the pages name exists: files that they link to, messages that they quote, errors, environment variables."""

from __future__ import annotations

import ast
import re

import pytest
from doc_pages import DOCS, ROOT, headings, pages

from moat_core import errors

_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)")
_QUOTED = headings(DOCS / "troubleshooting.md", 3)
# What people look for by its symptom, not by a message of ours.
_SYMPTOMS = {
    "Names do not resolve inside",
    '"non-overlapping IPv4 address pool", "address pools"',
    "Files have the wrong owner",
    "It was killed, exit code 137",
    "`sudo` does not work",
}
_ERRORS = [
    kind for name in errors.__all__ if isinstance(kind := getattr(errors, name), type) and issubclass(kind, Exception)
]


@pytest.fixture(scope="module")
def strings():
    """Every string in the sources, adjacent literals joined, as one text."""
    found = []
    for package in ("moat_core", "moat_plugins"):
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text())
            found += [
                node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
            ]
    return "\0".join(found)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Every relative link of a page names a file."""
    links = _LINK.findall(page.read_text())

    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("title", [title for title in _QUOTED if title not in _SYMPTOMS])
def test_quoted_messages_are_real(strings, title):
    """A message that troubleshooting quotes stands in the code, piece by piece between its ellipses."""
    pieces = [piece.strip() for piece in title.split("…")]

    assert [piece for piece in pieces if piece.strip(" .:()'") and piece not in strings] == []


@pytest.mark.parametrize("kind", _ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_is_explained(kind):
    """docs/errors.md has a section for each error class, with its code and the built-in errors that it is as well."""
    text = (DOCS / "errors.md").read_text()
    section = re.search(rf"^###? {kind.__name__}\n\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)

    assert section is not None
    assert section[1].startswith(f"Code `{kind.code}`")
    own = [base.__name__ for base in kind.__bases__ if base.__module__ == "builtins" and base is not Exception]
    assert [name for name in own if f"`{name}`" not in section[1]] == []


def test_no_page_names_this_machine():
    """No page holds the path of a checkout or of somebody's home."""
    bad = re.compile(r"/(?:work|root|home/(?!moat\b)\w+)/")

    assert {str(page): found for page in pages() if (found := bad.findall(page.read_text()))} == {}
