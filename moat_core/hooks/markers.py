"""The four kinds of hook, and the markers for specifications and implementations.

=========== ============================================= =============================================
kind        an implementation is                          the caller
=========== ============================================= =============================================
``collect`` ``def``, or ``async def`` where the spec is   asks everyone, one at a time
``first``   likewise; ``None`` passes                     stops at the first answer, after awaiting it
``context`` ``@asynccontextmanager`` with one ``yield``,  enters them in order, leaves in exact reverse
            or a ``def`` that returns such or ``None``
``event``   ``async def``, returns nothing                tells everyone; a failure is a recorded problem
=========== ============================================= =============================================
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TypeVar

import attrs
import pluggy

__all__ = ["GROUP", "NAME", "HookInfo", "HookKind", "hook_info", "hookimpl", "spec"]

NAME = "moat"
"""pluggy's project name."""
GROUP = "moat"
"""The entry-point group in which a distribution lists its plugins."""

hookimpl = pluggy.HookimplMarker(NAME)
"""Marks a hook implementation. ``tryfirst`` on a context means *outermost*."""

_hookspec = pluggy.HookspecMarker(NAME)
_ATTRIBUTE = "moat_hook_info"
F = TypeVar("F", bound=Callable[..., object])


class HookKind(enum.StrEnum):
    """See the table of this module."""

    COLLECT = "collect"
    FIRST = "first"
    CONTEXT = "context"
    EVENT = "event"


@attrs.frozen
class HookInfo:
    """What the marker recorded of a specification.

    Args:
        kind: One of four.
        asynchronous: Whether implementations may be ``async def``.
        exactly_one: A context of which a run needs precisely one.
    """

    kind: HookKind
    asynchronous: bool
    exactly_one: bool = False


class _Spec:
    """``@spec.collect``, ``@spec.first``, ``@spec.context``, ``@spec.event``."""

    def collect(self, *, asynchronous: bool = False) -> Callable[[F], F]:
        return self._mark(HookInfo(HookKind.COLLECT, asynchronous))

    def first(self, *, asynchronous: bool = False) -> Callable[[F], F]:
        return self._mark(HookInfo(HookKind.FIRST, asynchronous))

    def context(self, *, exactly_one: bool = False) -> Callable[[F], F]:
        return self._mark(HookInfo(HookKind.CONTEXT, asynchronous=True, exactly_one=exactly_one))

    def event(self) -> Callable[[F], F]:
        return self._mark(HookInfo(HookKind.EVENT, asynchronous=True))

    @staticmethod
    def _mark(info: HookInfo) -> Callable[[F], F]:
        def mark(function: F) -> F:
            setattr(function, _ATTRIBUTE, info)
            return _hookspec(function)

        return mark


spec = _Spec()


def hook_info(function: Callable[..., object]) -> HookInfo:
    """Return what the marker recorded of a specification's function."""
    info = getattr(function, _ATTRIBUTE, None)
    assert isinstance(info, HookInfo), f"{function.__name__} has no kind"
    return info
