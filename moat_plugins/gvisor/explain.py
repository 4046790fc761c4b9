"""From what an engine says when runsc does not start to what a user can do about it."""

from __future__ import annotations

import re

import attrs

__all__ = ["INSTALL", "WAY_ROUND", "Explanation", "explain"]

WAY_ROUND = "Or run without it: --no-sandbox, 'sandbox: none' in the config, or MOAT_NO_SANDBOX=1."

INSTALL = f"""\
On Debian and Ubuntu:
  sudo apt-get install -y ca-certificates curl gnupg
  curl -fsSL https://gvisor.dev/archive.key | sudo gpg --dearmor -o /usr/share/keyrings/gvisor.gpg
  echo "deb [arch=$(dpkg --print-architecture) signed-by=/usr/share/keyrings/gvisor.gpg] \\
https://storage.googleapis.com/gvisor/releases release main" | sudo tee /etc/apt/sources.list.d/gvisor.list
  sudo apt-get update && sudo apt-get install -y runsc
  sudo runsc install && sudo systemctl reload docker
Elsewhere: https://gvisor.dev/docs/user_guide/install/
{WAY_ROUND}"""
"""What to do when the engine has no runsc; https://gvisor.dev/docs/user_guide/install/ is its source."""

_UPDATE = f"""\
Update it: sudo apt-get update && sudo apt-get install -y runsc
See what it says by itself: sudo runsc --version; sudo runsc do true
{WAY_ROUND}"""


@attrs.frozen
class Explanation:
    """Why runsc did not start: one sentence, and what to do."""

    message: str
    hint: str


_CASES: tuple[tuple[re.Pattern[str], Explanation], ...] = (
    (
        re.compile(r"unknown or invalid runtime name|unknown runtime specified", re.IGNORECASE),
        Explanation(
            "gVisor was registered with this engine when the run was planned and is gone now.",
            f"Register it again: sudo runsc install && sudo systemctl reload docker\n{WAY_ROUND}",
        ),
    ),
    (
        re.compile(r"cannot run with network enabled in root network namespace", re.IGNORECASE),
        Explanation(
            "This runsc is too old for the host's kernel: it takes the container's network for the host's.",
            f"Newer kernels show /proc/sys/net/core/rmem_default in every network namespace.\n{_UPDATE}",
        ),
    ),
    (
        re.compile(r"fork/exec \S+: no such file or directory"),
        Explanation(
            "gVisor is registered with this engine, but its program is not there.",
            f"See the path: docker info --format '{{{{json .Runtimes}}}}'\n{INSTALL}",
        ),
    ),
    (
        re.compile(r"fork/exec \S+: (?:permission denied|exec format error)"),
        Explanation(
            "gVisor is registered with this engine, but its program cannot be executed.",
            "Is it executable, and for this machine's processor? See its path: "
            f"docker info --format '{{{{json .Runtimes}}}}'\n{WAY_ROUND}",
        ),
    ),
    (
        re.compile(r"runtimes/\S+ did not terminate successfully: exit status 2\b|unknown platform:"),
        Explanation(
            "gVisor is registered with an option that this runsc does not know.",
            f"Look at its runtimeArgs in /etc/docker/daemon.json; sudo systemctl reload docker\n{WAY_ROUND}",
        ),
    ),
    (
        re.compile(r"/dev/kvm|platform kvm|kvm platform", re.IGNORECASE),
        Explanation(
            "gVisor is registered with its platform kvm, which does not work on this machine.",
            "Register it with another one: sudo runsc install -- --platform=systrap && "
            f"sudo systemctl reload docker\n{WAY_ROUND}",
        ),
    ),
    (
        re.compile(r"waiting for sandbox to start|cannot read client sync file|cannot create sandbox"),
        Explanation(
            "gVisor is registered, but cannot start; often it is too old for the kernel.",
            _UPDATE,
        ),
    ),
)


def explain(engine_message: str) -> Explanation | None:
    """Explain what the engine said of a container that was to start in gVisor.

    Args:
        engine_message: The engine's own words, which quote containerd's and runsc's.

    Returns:
        The first of our explanations that fits; ``None`` if it is not about runsc as far as we know.
    """
    for pattern, explanation in _CASES:
        if pattern.search(engine_message):
            return explanation
    return None
