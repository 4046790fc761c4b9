"""Names and name servers of guests in gVisor, which does not see the resolver that Docker puts at 127.0.0.11.

Each guest is given a hosts file of its own, which the guard keeps: whenever a guest starts, or is put on a network, the
files of all are written anew, in place, since the engine mounts the file and not its name.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import secrets
import time
from typing import TYPE_CHECKING, Any

import anyio

from moat_plugins.docker_host.policy.verdict import Refused
from moat_plugins.docker_host.scope import NAMES_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from moat_plugins.docker_host.engine import Engine

__all__ = ["Names", "make_hosts"]

_LOCAL = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
_HOST_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})")
_TOKEN = re.compile(r"[0-9a-f]{16}")
_OK = 200
_MOST_FILES, _MOST_GUESTS = 4096, 1024
"""In the folder; and the guests that are told of each other, the newest."""
_MOST_BYTES = 64 * 1024
_FEW, _SHORT = 64, 300
"""Names of one guest, its networks, and what else it lists."""
_NEW_S = 60.0
"""So long a file may be there before its container is."""


class Names:
    """The files, in a folder of the run's that is not shown to it.

    Args:
        folder: Where they are.
        servers: Name servers that guests can reach.
    """

    def __init__(self, folder: str, servers: Iterable[str]) -> None:
        self._folder = folder
        self._servers = tuple(servers)
        self._lock = anyio.Lock()
        self._made = 0
        self._used: set[str] = set()

    def add_to(self, config: dict[str, Any]) -> None:
        """Mount the files in the guest that CONFIG describes, unless it brings its own or has no network of its own."""
        host = config["HostConfig"]
        if host.get("NetworkMode", "").startswith(("container:", "none", "host")):
            return
        mounts = host.setdefault("Mounts", [])
        taken = {mount.get("Target") for mount in mounts}
        servers = [each for each in host.get("Dns", []) if _is_address(each)] or self._servers
        token = secrets.token_hex(8)
        lines = "".join(f"nameserver {server}\n" for server in servers)
        lines += "".join(f"search {' '.join(host['DnsSearch'])}\n" for _ in [0] if host.get("DnsSearch"))
        if len(lines) > _MOST_BYTES:
            raise Refused("moat: the name servers and search domains are too many.", status=400)
        self._make_room()
        for target, content in (("/etc/resolv.conf", lines), ("/etc/hosts", _LOCAL)):
            if target not in taken:
                path = self._path(token, target)
                with open(path, "w", encoding="utf-8") as file:
                    file.write(content)
                mounts.append({"Type": "bind", "Source": path, "Target": target, "ReadOnly": True})
        config["Labels"][NAMES_LABEL] = token

    def _make_room(self) -> None:
        """See that there are not too many files: those of containers that were never made stay until now.

        Raises:
            Refused: There are, and all of them are new, or in use.
        """
        self._made += 2
        if self._made <= _MOST_FILES:
            return
        now = time.time()
        kept = 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.partition(".")[0] not in self._used and now - entry.stat().st_mtime > _NEW_S:
                    os.unlink(entry.path)
                else:
                    kept += 1
        self._made = kept + 2
        if self._made > _MOST_FILES:
            raise Refused("moat: there are too many containers for the guard to keep their names.", status=503)

    async def refresh(self, engine: Engine) -> None:
        """Write the hosts files of all guests; one that has not started yet is to find the others when it does."""
        async with self._lock:
            filters = {"label": [f"{key}={value}" for key, value in engine.scope.marks.items()]}
            query = (("filters", json.dumps(filters)), ("all", "1"), ("limit", str(_MOST_GUESTS)))

            def own(item: Any) -> Any:
                is_own = engine.is_own_container(item["Id"], item.get("Names") or (), item.get("Labels"))
                return item["Id"] if is_own else None

            listed = await engine.list_items("/containers/json", query, own)
            guests = []
            for item in listed:
                status, found = await engine.ask("GET", f"/containers/{item}/json", pick=_pick)
                if status == _OK:
                    guests.append(found)
            self._used = {str(guest["Config"]["Labels"].get(NAMES_LABEL, "")) for guest in guests}
            for guest in guests:
                token = str(guest["Config"]["Labels"].get(NAMES_LABEL, ""))
                path = self._path(token, "/etc/hosts")
                if _TOKEN.fullmatch(token) and os.path.exists(path):
                    _write_in_place(path, make_hosts(guest, guests, engine.scope.gateway))

    def _path(self, token: str, target: str) -> str:
        return os.path.join(self._folder, f"{token}.{os.path.basename(target)}")


def make_hosts(guest: Mapping[str, Any], guests: Iterable[Mapping[str, Any]], gateway: str) -> str:
    """Return the hosts file of GUEST: who is on a network with it, by every name that Docker's resolver would know.

    Args:
        guest: What the engine says of it.
        guests: All running ones, itself among them.
        gateway: What ``host-gateway`` means.
    """
    lines = [_LOCAL]
    for extra in guest["HostConfig"].get("ExtraHosts") or []:
        name, _, address = re.sub(r"[=:]", " ", extra, count=1).partition(" ")
        lines.append(_line(gateway if address == "host-gateway" else address.strip("[]"), [name]))
    for network, end in (guest["NetworkSettings"].get("Networks") or {}).items():
        lines.append(_line(end.get("IPAddress", ""), [guest["Config"].get("Hostname", "")]))
        for other in guests:
            theirs = (other["NetworkSettings"].get("Networks") or {}).get(network)
            if theirs:
                names = [*(theirs.get("Aliases") or []), *(theirs.get("DNSNames") or []), other["Name"].lstrip("/")]
                lines.append(_line(theirs.get("IPAddress", ""), names))
        for link in end.get("Links") or []:
            lines += _linked(link, network, guests)
    made, size = [], 0
    for line in lines:
        size += len(line)
        if size > _MOST_BYTES:
            break
        made.append(line)
    return "".join(made)


def _pick(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a guest decides over names: no more of it is kept."""
    networks = found["NetworkSettings"].get("Networks") or {}
    fields = ("IPAddress", "Aliases", "DNSNames", "Links")
    return {
        "Id": found["Id"],
        "Name": found["Name"],
        "Config": {
            "Hostname": _few(found["Config"].get("Hostname")),
            "Labels": {NAMES_LABEL: (found["Config"].get("Labels") or {}).get(NAMES_LABEL, "")},
        },
        "HostConfig": {"ExtraHosts": _few(found["HostConfig"].get("ExtraHosts"))},
        "NetworkSettings": {
            "Networks": {
                name: {field: _few(end.get(field)) for field in fields} for name, end in list(networks.items())[:_FEW]
            }
        },
    }


def _few(value: Any) -> Any:
    return [each[:_SHORT] for each in value[:_FEW]] if isinstance(value, list) else (value or "")[:_SHORT]


def _linked(link: str, network: str, guests: Iterable[Mapping[str, Any]]) -> list[str]:
    name, _, alias = link.rpartition(":")
    return [
        _line(other["NetworkSettings"]["Networks"][network].get("IPAddress", ""), [alias])
        for other in guests
        if network in (other["NetworkSettings"].get("Networks") or {})
        and (other["Name"].lstrip("/") == name.lstrip("/") or other["Id"].startswith(name))
    ]


def _line(address: str, names: Iterable[str]) -> str:
    known = [name for name in dict.fromkeys(names) if _HOST_NAME.fullmatch(name)]
    return f"{address}\t{' '.join(known)}\n" if known and _is_address(address) else ""


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _write_in_place(path: str, text: str) -> None:
    data = text.encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, data, 0)
        os.ftruncate(descriptor, len(data))
    finally:
        os.close(descriptor)
