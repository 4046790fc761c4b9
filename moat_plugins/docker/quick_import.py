"""The client's libraries, imported without reading all of the machine's CAs.

aiohttp makes a TLS context when it is imported, whoever needs one: 0.1 s of each command and of each reaper, for an
engine that is spoken to on a Unix socket. The context that is made here reads them when it is first used.
"""

from __future__ import annotations

import functools
import ssl
from typing import Any

__all__ = ["aiodocker", "aiohttp"]

_USES = ("wrap_bio", "wrap_socket")


def _load_later(context: ssl.SSLContext, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> None:
    """Be `ssl.SSLContext.load_default_certs` until CONTEXT is used."""
    for name in _USES:
        setattr(context, name, functools.partial(_load_and_use, context, name, purpose))


def _load_and_use(context: ssl.SSLContext, name: str, purpose: ssl.Purpose, *arguments: Any, **options: Any) -> Any:
    for each in _USES:
        context.__dict__.pop(each, None)
    context.load_default_certs(purpose)
    return getattr(context, name)(*arguments, **options)


_load_now = ssl.SSLContext.load_default_certs
ssl.SSLContext.load_default_certs = _load_later  # type: ignore[method-assign,assignment]
try:
    import aiodocker
    import aiohttp
finally:
    ssl.SSLContext.load_default_certs = _load_now  # type: ignore[method-assign]
