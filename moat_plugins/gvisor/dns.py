"""Name servers for a run in gVisor.

On networks of its own making the engine offers a resolver at 127.0.0.11, which is a trick of the network
namespace that gVisor's network stack does not see. So the run asks the host's own servers, as containers on
the default bridge do; sidecars are in ``/etc/hosts``.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PUBLIC_SERVERS", "choose_servers", "make_step", "parse_servers"]

PUBLIC_SERVERS = ("8.8.8.8", "8.8.4.4")
"""What Docker falls back to when the host names none that a container can reach."""

_RESOLV_CONF = "/etc/resolv.conf"
_SYSTEMD_RESOLV_CONF = "/run/systemd/resolve/resolv.conf"
"""What systemd-resolved itself asks, where ``/etc/resolv.conf`` names its stub at 127.0.0.53."""
_MOST = 3
"""resolv.conf(5), MAXNS: further ones are not asked."""

# The engine mounts this file, so it is written in place; what else it says (search, options) is kept.
_STEP = """\
moat_kept=
moat_stub=
while read -r moat_key moat_value; do
  case "$moat_key $moat_value" in
    'nameserver 127.'* | 'nameserver ::1'*) moat_stub=1 ;;
    'search '* | 'options '*) moat_kept="$moat_kept$moat_key $moat_value
" ;;
  esac
done </etc/resolv.conf
[ -z "$moat_stub" ] || printf '%s{servers}' "$moat_kept" >/etc/resolv.conf
"""


def choose_servers(path: str = _RESOLV_CONF, systemd_path: str = _SYSTEMD_RESOLV_CONF) -> tuple[tuple[str, ...], bool]:
    """Return the host's name servers that a container can reach, and whether they are only a guess.

    Args:
        path: The host's resolv.conf.
        systemd_path: Asked when PATH names no server but loopback ones.
    """
    for candidate in (path, systemd_path):
        if servers := parse_servers(_read(candidate)):
            return servers, False
    return PUBLIC_SERVERS, True


def parse_servers(text: str) -> tuple[str, ...]:
    """Return the addresses of the ``nameserver`` lines (resolv.conf(5)) that mean the same from elsewhere.

    Loopback and unspecified addresses mean the host itself, and link-local ones need an interface.
    """
    servers: dict[str, None] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":  # noqa: PLR2004 - key and value
            continue
        try:
            address = ipaddress.ip_address(words[1])
        except ValueError:
            continue
        if not (address.is_loopback or address.is_unspecified or address.is_link_local):
            servers[str(address)] = None
    return tuple(servers)[:_MOST]


def make_step(servers: Sequence[str]) -> str:
    """Return the init step that replaces the engine's resolver by SERVERS; built-ins only."""
    return _STEP.format(servers="".join(f"nameserver {server}\\n" for server in servers))


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
