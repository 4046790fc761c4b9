"""Host names: which endpoint of which agent one means, and what a run is told of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["INDEX_HOSTS", "Name", "make_env", "make_urls", "parse_host"]

INDEX_HOSTS = frozenset({"localhost", "moat.localhost", "127.0.0.1", "[::1]"})
"""Where the page about all runs is. Addresses cannot be rebound to other names' pages, so they are safe, too."""
DEFAULT_ENDPOINT = "default"
_SUFFIX = ".localhost"


@attrs.frozen
class Name:
    """What a host name means.

    Args:
        agent: The agent's name.
        endpoint: Of that agent; ``""`` is its default one.
    """

    agent: str
    endpoint: str = ""


def parse_host(host: str) -> Name | None:
    """Return what HOST (a ``Host`` header: any case, with or without a port or a trailing dot) means.

    ``None``: it is nobody's here, which is also what a page gets whose own name was rebound to this machine.
    """
    name = bare(host)
    if not name.endswith(_SUFFIX):
        return None
    labels = name.removesuffix(_SUFFIX).split(".")
    if not all(labels):
        return None
    if len(labels) == 1:
        return Name(labels[0])
    return Name(labels[1], labels[0]) if len(labels) == 2 else None  # noqa: PLR2004 - endpoint and agent


def bare(host: str) -> str:
    """Return HOST in lower case, without its port and a trailing dot."""
    name = host.lower()
    if not name.endswith("]"):
        head, colon, port = name.rpartition(":")
        if colon and (not port or (port.isascii() and port.isdigit())):
            name = head
    return name.removesuffix(".")


def make_urls(agent: str, endpoints: Mapping[str, int], base: str) -> dict[str, str]:
    """Return endpoint -> URL.

    Args:
        base: ``http://localhost:8080``, which the proxy is reached by.
    """
    scheme, _, rest = base.partition("://")
    return {endpoint: f"{scheme}://{endpoint}.{agent}.{rest}" for endpoint in endpoints}


def make_env(agent: str, endpoints: Mapping[str, int], base: str) -> dict[str, str]:
    """Return what a run is told of how it is reached from outside: ``MOAT_URL_WEB=http://web.fox.localhost:8080``.

    ``AGENTOPS_URL_…`` is the older name. Inside, ``*.localhost`` is the container itself: the values are for links,
    callbacks and allow-lists of hosts.
    """
    if not endpoints:
        return {}
    scheme, _, rest = base.partition("://")
    env = {"MOAT_HOST": f"{agent}.{rest}", "MOAT_URL": f"{scheme}://{agent}.{rest}"}
    for endpoint, url in make_urls(agent, endpoints, base).items():
        word = endpoint.upper().replace("-", "_")
        env[f"MOAT_HOST_{word}"] = url.partition("://")[2]
        env[f"MOAT_URL_{word}"] = url
        env[f"AGENTOPS_URL_{word}"] = url
    return env
