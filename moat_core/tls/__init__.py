"""Certificates and TLS, one implementation for all of moat: who vouches for whom, and how servers and clients speak.

An `Authority` is a CA that issues an `Identity` each for servers and clients; `server_context` and `client_context`
make of them what the ``ssl`` module wants. `keep` holds an authority in a folder of the user's, `Leaves` mints a
certificate for each name that a client asks for, and `Secure` is TLS on an asyncio transport that is there already.
A name is imported when it is first used: ``cryptography`` is slow to import.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from moat_core.tls.authority import Authority as Authority
    from moat_core.tls.authority import Identity as Identity
    from moat_core.tls.contexts import client_context as client_context
    from moat_core.tls.contexts import server_context as server_context
    from moat_core.tls.kept import keep as keep
    from moat_core.tls.leaves import Leaves as Leaves
    from moat_core.tls.secure import Secure as Secure

_WHERE = {
    "Authority": "authority",
    "Identity": "authority",
    "Leaves": "leaves",
    "Secure": "secure",
    "client_context": "contexts",
    "keep": "kept",
    "server_context": "contexts",
}

__all__ = ["Authority", "Identity", "Leaves", "Secure", "client_context", "keep", "server_context"]


def __getattr__(name: str) -> object:
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
