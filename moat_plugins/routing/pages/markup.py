"""HTML as a tree of values: text is text wherever it stands, so nobody can forget to escape it.

There is no way to put markup in as a string. Names of elements and attributes are those of our own calls; everything
else may come from a hostile agent. The same tree goes to the page's script as JSON, which makes nodes of it without a
parser.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import Any

import attrs

from moat_plugins.routing.pages.text import clean

__all__ = ["Child", "Element", "Node", "el", "render", "to_json"]

_VOID = frozenset({"meta", "link", "br", "hr"})
_RAW = frozenset({"script", "style"})
_LINK = re.compile(r"https?://[a-z0-9]|/(?![/\\])|#|\Z", re.IGNORECASE)
"""What a link may begin with: no ``javascript:``, and no ``//elsewhere``."""


@attrs.frozen
class Element:
    """One element; made by `el`."""

    tag: str
    attributes: dict[str, str]
    children: tuple[Node, ...]


Node = Element | str
Child = Node | Iterable["Child"] | None


def el(tag: str, *children: Child, **attributes: str | bool | None) -> Element:
    """Make an element.

    Args:
        children: Texts, elements, lists of them; ``None`` is nothing.
        attributes: ``class_`` is ``class``, ``aria_label`` is ``aria-label``. ``None`` and false are left out, true has
            no value. A link to what is no web address is left out, too.
    """
    given: dict[str, str] = {}
    for key, value in attributes.items():
        name = key.rstrip("_").replace("_", "-")
        if value is None or value is False:
            continue
        text = "" if value is True else clean(value)
        if name in {"href", "src"} and not _LINK.match(text):
            continue
        given[name] = text
    nodes: list[Node] = []
    _put(children, nodes)
    return Element(tag, given, tuple(nodes))


def _put(children: Iterable[Child], into: list[Node]) -> None:
    """Put nodes into a list; neighbouring texts become one, as a browser reads them."""
    for child in children:
        if isinstance(child, str):
            text = clean(child)
            if text and into and isinstance(into[-1], str):
                into[-1] += text
            elif text:
                into.append(text)
        elif isinstance(child, Element):
            into.append(child)
        elif child is not None:
            _put(child, into)


def render(node: Node) -> str:
    """Return NODE as HTML. Nothing is added between elements."""
    if isinstance(node, str):
        return html.escape(node, quote=True)
    given = "".join(f' {name}="{html.escape(value, quote=True)}"' for name, value in node.attributes.items())
    if node.tag in _VOID:
        return f"<{node.tag}{given}>"
    inner = _raw(node) if node.tag in _RAW else "".join(map(render, node.children))
    return f"<{node.tag}{given}>{inner}</{node.tag}>"


def _raw(node: Element) -> str:
    """Return a script or a style, which a browser does not unescape: only our own files are such."""
    text = "".join(child for child in node.children if isinstance(child, str))
    if "</" in text or "<!" in text:
        raise ValueError(f"This {node.tag} could end too early.")
    return text


def to_json(node: Node) -> Any:
    """Return NODE for the page's script: a text, or ``[tag, attributes, children]``."""
    if isinstance(node, str):
        return node
    return [node.tag, node.attributes, [to_json(child) for child in node.children]]
