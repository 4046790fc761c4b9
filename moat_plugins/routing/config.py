"""The section ``proxy:`` of the config."""

from __future__ import annotations

import attrs

from moat_core.config import BadValue, above, duration_s, option

__all__ = ["DEFAULT_PORT", "ProxyConfig"]

DEFAULT_PORT = 8080
_MOST_PORT = 65535
_LEAST_S, _MOST_S = 1.0, 7 * 86400.0


def _check_port(value: int | None) -> None:
    if value is not None and not 0 <= value <= _MOST_PORT:
        raise BadValue("a port is a number from 1 to 65535, or 0 for one that is free")


def _check_duration(value: float) -> None:
    if not _LEAST_S <= value <= _MOST_S:
        raise BadValue("it is a duration from 1s to 7d")


@attrs.frozen
class ProxyConfig:
    """The proxy behind ``http://<endpoint>.<agent>.localhost``. One serves all runs under a ``MOAT_HOME``."""

    port: int | None = option(
        None,
        check=_check_port,
        widens="which port of this machine the proxy of all runs takes",
        help="Port that it listens on, on 127.0.0.1 and ::1; 0 picks a free one. Without it "
        f"{DEFAULT_PORT}, or whatever port it runs on already.",
    )
    idle: float = option(
        600.0,
        convert=duration_s,
        check=_check_duration,
        unit="s",
        help="How long it goes on after the last run with ports has ended.",
        widens=above("a longer life of the proxy of all runs"),
    )
    timeout: float = option(
        120.0,
        convert=duration_s,
        check=_check_duration,
        unit="s",
        help="How long a service may take until it begins to answer.",
        widens=above("more patience of the proxy of all runs"),
    )
