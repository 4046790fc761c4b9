"""One shape for everything that the proxy says instead of a service: a page, or ``{"error": {...}}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from moat_core.http.answer import Answer
from moat_plugins.routing.pages.accept import Asker
from moat_plugins.routing.pages.frame import json_answer, page_answer
from moat_plugins.routing.pages.markup import Node, el

__all__ = ["MARK", "Fault", "fault_answer"]

MARK = "Moat-Error"
"""The header that tells our errors from a service's own; its value is the code."""
_RETRY_S = 2


@attrs.frozen
class Fault:
    """What is wrong.

    Args:
        code: Stable, for programs.
        title: Of the page: a few words.
        message: One sentence; ``hint`` says what to do, with backticks around what is typed, or is empty. A page with
            ``content`` of its own on that says it there, and leaves the hint to programs (``says_more``).
        details: JSON-able facts for programs.
        content: What the page shows below.
        waits: The page looks again by itself; a program is told when to.
        headers: Further ones.
    """

    status: int
    code: str
    title: str
    message: str
    hint: str = ""
    details: Mapping[str, Any] = {}
    content: tuple[Node, ...] = ()
    waits: bool = False
    says_more: bool = False
    headers: Mapping[str, str] = {}


def fault_answer(fault: Fault, asker: Asker) -> Answer:
    """Return FAULT as ASKER can read it."""
    headers = {MARK: fault.code, **fault.headers}
    if fault.waits:
        headers["Retry-After"] = str(_RETRY_S)
    if not asker.html:
        told = {
            "code": fault.code,
            "message": fault.message,
            "hint": fault.hint.replace("`", ""),
            "details": dict(fault.details),
        }
        return json_answer(fault.status, {"error": told}, headers=headers)
    return page_answer(
        fault.status,
        fault.title,
        el("p", str(fault.status), class_="status"),
        el("h1", fault.title),
        el("p", fault.message, class_="lead"),
        _again(asker) if fault.waits else None,
        fault.content,
        el("p", _marked(fault.hint), class_="hint") if fault.hint and not fault.says_more else None,
        site=asker.site,
        waits_s=_RETRY_S if fault.waits and asker.is_safe else None,
        headers=headers,
    )


def _marked(hint: str) -> list[Node]:
    """Return HINT with what is between backticks as code."""
    return [el("code", part) if at % 2 else part for at, part in enumerate(hint.split("`"))]


def _again(asker: Asker) -> Node:
    """Say what happens next: what is not safe to send twice is not sent by itself."""
    if asker.is_safe:
        return el("p", "This page opens it as soon as it answers.", id="wait", role="status")
    return el("p", f"The {asker.method} was not delivered. Send it again once the service is there.")
