"""What ``docker:dind`` puts into the image: the engine, and the sh texts that run it.

``fetch.sh``, which comes with ``docker-cli``, brings ``moat_newer``.
"""

from __future__ import annotations

from moat_core.types import DependencyInfo
from moat_plugins.docker_dind.engine import CALM, CONTAINERD, KEEP, READY, RUNC, SERVE, START

__all__ = ["DEPENDENCY", "FOLDER"]

FOLDER = "/usr/local/lib/moat/dind"
"""Where the texts are in the image. First on the engine's PATH in gVisor."""

_END = "MOAT_END_OF_FILE"
_FILES = {
    "calm": CALM,
    "containerd.toml": CONTAINERD,
    "keep": KEEP,
    "ready": READY,
    "runc": RUNC,
    "serve": SERVE,
    "start": START,
}

# tini is the engine's `docker run --init`, procps its `docker top`, and iproute2 clears up after a
# dockerd that died. gVisor knows iptables' older interface only.
_SCRIPT = f"""\
. /usr/local/lib/moat/fetch.sh
moat_names='docker.io containerd'
! grep -q '^ID=ubuntu' /etc/os-release || moat_names=docker.io
moat_newer $moat_names
moat_apt install -y --no-install-recommends iproute2 iptables procps runc tini
rm -rf /var/lib/apt/lists/*
[ -e /usr/bin/docker-init ] || ln -s tini-static /usr/bin/docker-init
mkdir -p {FOLDER} /run/docker/containerd /var/lib/docker
ln -sf "$(command -v runc)" {FOLDER}/runc-real
ln -sf runc {FOLDER}/runc-shared
for moat_name in iptables ip6tables; do
  moat_path=$(command -v $moat_name-legacy) || moat_path=$(command -v $moat_name)
  ln -sf "$moat_path" {FOLDER}/$moat_name
done
"""


def _write(name: str, text: str) -> str:
    assert _END not in text
    return f"cat >{FOLDER}/{name} <<'{_END}'\n{text}{_END}\nchmod 755 {FOLDER}/{name}\n"


DEPENDENCY = DependencyInfo(
    "docker:dind",
    "an engine of the run's own, inside its container",
    implies=("docker-cli",),
    widens="an engine of its own: in gVisor all capabilities of gVisor's kernel, without it a privileged container",
    script=_SCRIPT + "".join(_write(name, text) for name, text in sorted(_FILES.items())),
)
