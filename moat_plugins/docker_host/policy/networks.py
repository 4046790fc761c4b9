"""Networks and volumes that a run makes."""

from __future__ import annotations

import ipaddress
import re
import sys
from typing import TYPE_CHECKING, Any

from moat_plugins.docker_host.policy.fields import any_name, check_name, make_labels
from moat_plugins.docker_host.policy.mounts import ENDPOINT
from moat_plugins.docker_host.policy.shape import (
    DROPPED,
    boolean,
    deny,
    drop,
    each,
    mapping,
    one_of,
    shape,
    table,
    text,
)
from moat_plugins.docker_host.policy.verdict import Refused, refuse

if TYPE_CHECKING:
    from moat_plugins.docker_host.policy.shape import Rule
    from moat_plugins.docker_host.scope import Scope

__all__ = ["check_connect", "check_disconnect", "check_network", "check_volume", "read_routes"]

_DRIVER_OPTIONS = {
    "com.docker.network.enable_ipv4",
    "com.docker.network.enable_ipv6",
    "com.docker.network.bridge.enable_icc",
    "com.docker.network.bridge.enable_ip_masquerade",
    "com.docker.network.driver.mtu",
}
"""Options of bridge networks that concern the network's own containers only."""

_PRIVATE_4 = [ipaddress.IPv4Network("172.16.0.0/12")]
"""What Docker takes by itself. The rest of the private ranges may be reached through the machine's default gateway."""
_PRIVATE_6 = [ipaddress.IPv6Network("fc00::/7")]
_FILTERS_IPV6 = 46
"""From this minor version on (Docker 27) the engine keeps its networks apart in IPv6, too."""


def check_network(body: Any, scope: Scope) -> dict[str, Any]:
    """Return the network that BODY asks for (API v1.45, NetworkCreate): a bridge of the run's own.

    Raises:
        Refused: Something of it is not allowed or not known.
    """
    fields: dict[str, Rule] = {
        "Name": text,
        "CheckDuplicate": drop,
        "Driver": one_of("", "bridge", "default", why="other networks than bridges are the machine's own"),
        "Scope": one_of("", "local"),
        "EnableIPv4": boolean,
        "EnableIPv6": boolean if scope.speaks(_FILTERS_IPV6) else _no_ipv6,
        "Internal": boolean,
        "Attachable": boolean,
        "Ingress": deny("the run has no swarm"),
        "ConfigOnly": deny("the run has no swarm"),
        "ConfigFrom": table({"Network": deny("the run has no swarm")}),
        "IPAM": table(
            {
                "Driver": one_of("", "default"),
                "Options": deny("the guard does not know options of address pools"),
                "Config": each(
                    table(
                        {
                            "Subnet": _subnet,
                            "IPRange": text,
                            "Gateway": text,
                            "AuxiliaryAddresses": mapping(text),
                            "AuxAddress": mapping(text),
                        }
                    )
                ),
            }
        ),
        "Options": _options,
        "Labels": make_labels(scope),
    }
    made = shape(table(fields), body)
    made["Name"] = check_name(made.get("Name", ""), "a network")
    made["Labels"] = made.get("Labels") or {}
    made["Driver"] = "bridge"
    return made


_no_ipv6: Rule = deny("engines older than Docker 27 let everybody reach the networks that they give IPv6")


def _subnet(value: Any, where: str) -> Any:
    """A private range that this machine has no way to yet: a bridge takes over the machine's own traffic to it."""
    found = text(value, where)
    if found is DROPPED or not found:
        return DROPPED
    try:
        wanted = ipaddress.ip_network(found, strict=False)
    except ValueError:
        raise Refused(f"moat: {where} is no range of addresses.", status=400) from None
    room = _PRIVATE_4 if wanted.version == 4 else _PRIVATE_6  # noqa: PLR2004 - as in IPv4
    if not any(wanted.subnet_of(each_) for each_ in room):  # type: ignore[arg-type]
        raise refuse(f"the range {wanted}", "the machine's own traffic to these addresses would go to the network")
    if any(ipaddress.ip_address(each_) in wanted for each_ in read_name_servers()):
        raise refuse(f"the range {wanted}", "the machine's name server is in it")
    if any(wanted.version == each_.version and wanted.overlaps(each_) for each_ in read_routes()):
        raise refuse(
            f"the range {wanted}", "the machine has a way to these addresses already; leave the choice to Docker"
        )
    return found


def read_routes(
    path: str = "/proc/net/route", path_6: str = "/proc/net/ipv6_route"
) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Return where this machine's routes lead, the default ones left out (proc(5)).

    Its own addresses are among those of IPv6, and so are ranges that it has made unreachable.
    """
    four = [
        ipaddress.IPv4Network((_address(words[1]), str(_address(words[7]))))
        for words in _read_table(path)[1:]
        if len(words) > 7 and int(words[7], 16)  # noqa: PLR2004 - the mask's column
    ]
    six = [
        ipaddress.IPv6Network((int(words[0], 16), int(words[1], 16)), strict=False)
        for words in _read_table(path_6)
        if len(words) > 1 and int(words[1], 16)
    ]
    return [*four, *six]


def _read_table(path: str) -> list[list[str]]:
    try:
        with open(path, encoding="ascii") as file:
            return [line.split() for line in file]
    except OSError:
        return []


def read_name_servers(path: str = "/etc/resolv.conf") -> list[str]:
    """Return the addresses of this machine's name servers (resolv.conf(5))."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        return []
    found = [words[1].partition("%")[0] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    return [each_ for each_ in found if re.fullmatch(r"[0-9.]+|[0-9a-fA-F:.]+", each_)]


def _address(hexadecimal: str) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(int(hexadecimal, 16).to_bytes(4, sys.byteorder))


def _options(value: Any, where: str) -> Any:
    found = mapping(text)(value, where)
    if isinstance(found, dict):
        for key in found:
            if key not in _DRIVER_OPTIONS:
                raise refuse(f"the network option {key[:60]}", "it configures the engine's machine")
    return found


def check_volume(body: Any, scope: Scope) -> dict[str, Any]:
    """Return the volume that BODY asks for (API v1.45, VolumeCreate): without a name the engine chooses one.

    Raises:
        Refused: Something of it is not allowed or not known.
    """
    fields: dict[str, Rule] = {
        "Name": text,
        "Driver": one_of("", "local", why="only the engine's own driver keeps data where the guard can tell"),
        "DriverOpts": deny("a volume's options can mount anything of the machine's"),
        "Labels": make_labels(scope),
        "ClusterVolumeSpec": deny("the run has no swarm"),
    }
    made = shape(table(fields), body)
    if made.get("Name"):
        made["Name"] = check_name(made["Name"], "a volume")
    made["Labels"] = made.get("Labels") or {}
    return made


def check_connect(body: Any) -> tuple[str, Any]:
    """Return the container and how it is to be on the network."""
    made = shape(table({"Container": text, "EndpointConfig": ENDPOINT}), body)
    return _container(made), made.get("EndpointConfig", {})


def check_disconnect(body: Any) -> tuple[str, bool]:
    """Return the container that is to leave the network, and whether by force."""
    made = shape(table({"Container": text, "Force": boolean}), body)
    return _container(made), bool(made.get("Force"))


def _container(made: dict[str, Any]) -> str:
    name = made.get("Container", "")
    if not name:
        raise Refused("moat: the body names no container.", status=400)
    return any_name(name, "container")
