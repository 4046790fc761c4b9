"""Tables of what is inside a container's body: mounts, and its ends of networks (API v1.45)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from moat_plugins.docker_host.policy.shape import (
    DROPPED,
    boolean,
    deny,
    drop,
    mapping,
    number,
    one_of,
    table,
    text,
    texts,
)
from moat_plugins.docker_host.policy.verdict import refuse

if TYPE_CHECKING:
    from moat_plugins.docker_host.policy.shape import Rule

__all__ = ["ENDPOINT", "MOUNT", "check_tmpfs"]

_TMPFS = re.compile(
    r"(?:rw|ro|exec|noexec|suid|nosuid|nodev|size=\d+[kmgKMG]?|mode=[0-7]{1,4}|[ug]id=\d+|nr_inodes=\d+k?)"
)

_DRIVER = table(
    {
        "Name": one_of("", "local", why="only the engine's own driver keeps data where the guard can tell"),
        "Options": deny("a volume's options can mount anything of the machine's"),
    }
)
MOUNT: Rule = table(
    {
        "Type": one_of("bind", "volume", "tmpfs"),
        "Source": text,
        "Target": text,
        "ReadOnly": boolean,
        "Consistency": drop,
        "BindOptions": table(
            {
                "Propagation": one_of("", "rprivate", "private", "rslave", "slave"),
                "NonRecursive": boolean,
                "CreateMountpoint": boolean,
                "ReadOnlyNonRecursive": boolean,
                "ReadOnlyForceRecursive": boolean,
            }
        ),
        "VolumeOptions": table({"NoCopy": boolean, "Labels": mapping(text), "DriverConfig": _DRIVER, "Subpath": text}),
        "TmpfsOptions": table({"SizeBytes": number(0), "Mode": number(0)}),
    }
)
"""An entry of ``Mounts``; what is at its source is looked up afterwards."""
ENDPOINT: Rule = table(
    {
        "IPAMConfig": table({"IPv4Address": text, "IPv6Address": text}),
        "Links": texts,
        "Aliases": texts,
        "MacAddress": text,
        "DriverOpts": deny("options of a network's driver configure the machine"),
        "NetworkID": drop,
        "EndpointID": drop,
        "Gateway": drop,
        "IPAddress": drop,
        "IPPrefixLen": drop,
        "IPv6Gateway": drop,
        "GlobalIPv6Address": drop,
        "GlobalIPv6PrefixLen": drop,
        "DNSNames": drop,
    }
)
"""How a container is on a network; what only an answer says is left out."""


def check_tmpfs(value: Any, where: str) -> Any:
    """The options of a scratch folder."""
    found = text(value, where)
    for option in [] if found is DROPPED else found.split(","):
        if option and _TMPFS.fullmatch(option) is None:
            raise refuse(f"the tmpfs option {option[:40]}", "the guard does not know it")
    return found
