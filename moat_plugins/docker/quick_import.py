"""The client's libraries, imported without reading all of the machine's CAs.

aiohttp makes a TLS context when it is imported, whoever needs one: 0.1 s of each command and of each reaper, for an
engine that is spoken to on a Unix socket. The context that is made here reads them when it is first used.
"""

from __future__ import annotations

import functools
import ssl
from typing import Any

__all__ = ["aiodocker", "aiohttp"]

_LOADS = ("load_default_certs", "set_default_verify_paths")
_USES = ("wrap_bio", "wrap_socket")


def _later(load: str) -> Any:
    """Return what stands for the method LOAD of a context until that context is used."""

    def load_later(context: ssl.SSLContext, *arguments: Any) -> None:
        def load_and_use(name: str, *given: Any, **options: Any) -> Any:
            for each in _USES:
                context.__dict__.pop(each, None)
            getattr(context, load)(*arguments)
            return getattr(context, name)(*given, **options)

        for each in _USES:
            setattr(context, each, functools.partial(load_and_use, each))

    return load_later


def _set(methods: dict[str, Any]) -> None:
    for name, method in methods.items():
        setattr(ssl.SSLContext, name, method)


_now = {name: getattr(ssl.SSLContext, name) for name in _LOADS}
_set({name: _later(name) for name in _LOADS})
try:
    import aiodocker
    import aiohttp
finally:
    _set(_now)
