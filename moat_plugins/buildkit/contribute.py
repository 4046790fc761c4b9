"""What the BuildKit sidecar adds to a plan: a network of the run's own, its address, and a builder of that name."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from moat_core.types import Volume
from moat_plugins.buildkit.cache import FOLDER, VOLUME
from moat_plugins.buildkit.config import BuildKitConfig

if TYPE_CHECKING:
    from moat_core.config import Config
    from moat_core.plan import PlanBuilder
    from moat_core.types import User

__all__ = ["CERTIFICATES", "HOST", "PORT", "STEP", "add_to_plan", "make_step"]

HOST = "buildkit"
PORT = 1234
CERTIFICATES = "/run/moat/buildkit"
"""Where the run's user finds ``ca.pem``, ``cert.pem`` and ``key.pem``; ``buildctl --tlsdir`` takes them, too."""
STEP = "buildkit"
_ORDER = 55
_BUILDX = "/usr/local/lib/moat/buildx"

# What `docker buildx create --driver remote` would write, which takes half a second in gVisor. buildx 0.13.
_INSTANCE = (
    '{"Name":"moat","Driver":"remote","Nodes":[{"Name":"moat0","Endpoint":"tcp://%s:%d","Platforms":null,'
    '"DriverOpts":{"cacert":"%s/ca.pem","cert":"%s/cert.pem","key":"%s/key.pem"},"Flags":null,"Files":null}],'
    '"Dynamic":false}'
)

# Of a builder that is not the engine's own, buildx leaves the result in the builder's cache. What people mean by
# `docker build` is an image in the engine, so that is asked for unless they ask for something else.
_DOCKER = """\
#!/bin/sh
# docker, with builds by the run's BuildKit and their images in the engine.
[ -n "${BUILDX_BUILDER:-}" ] || {
  export BUILDX_BUILDER=moat
  export BUILDX_CONFIG="${BUILDX_CONFIG:-@folder@}"
}
moat_first=${1:-} moat_skip=0
case $moat_first in
  build) moat_skip=1 ;;
  buildx | image | builder) case ${2:-} in build | b) moat_skip=2 ;; esac ;;
esac
[ $moat_skip != 0 ] && [ "$BUILDX_BUILDER" = moat ] || exec @docker@ "$@"
moat_cache=@cache@
for moat_word; do
  case $moat_word in
    --cache-*) moat_cache= ;;
    -o | -o* | --output | --output=* | --push | --push=* | --load | --load=* | --builder | --builder=* | \\
    --call | --call=* | --print | --print=* | --help | -h) exec @docker@ "$@" ;;
  esac
done
shift $moat_skip
if [ -n "$moat_cache" ] && [ -w "$moat_cache" ]; then
  [ ! -e "$moat_cache/index.json" ] || set -- --cache-from "type=local,src=$moat_cache" "$@"
  set -- --cache-to "type=local,dest=$moat_cache,mode=max" "$@"
fi
exec @docker@ buildx build --load "$@"
"""

# The name is in /etc/hosts only if the sidecar has become ready.
_STEP = """\
moat_found=
while read -r _ moat_names; do
  case " $moat_names " in *' {host} '*) moat_found=1 ;; esac
done </etc/hosts
if [ -n "$moat_found" ]; then
  mkdir -p {folder}/instances
  printf '%s' {instance} >{folder}/instances/moat
  chown -R {owner} {folder}
  moat_docker=$(command -v docker)
  sed "s,@docker@,$moat_docker,;s,@folder@,{folder},;s,@cache@,{cache}," >/usr/local/bin/docker <<'MOAT_END_OF_FILE'
{docker}MOAT_END_OF_FILE
  chmod 755 /usr/local/bin/docker
fi
if [ -d "{cache}" ]; then
  chown {owner} {cache}
  moat_kib=$(du -sk {cache})
  [ "${{moat_kib%%[!0-9]*}}" -le {limit_kib} ] || rm -rf {cache}/*
fi
"""


def add_to_plan(config: Config, plan: PlanBuilder) -> None:
    """Ask for the sidecar, unless it is switched off or there is no network to meet it on."""
    section = config.section(BuildKitConfig)
    if section.mode == "off" or plan.network == "none":
        return
    plan.details["buildkit"] = {"mode": section.mode, "image": section.image, "cache_limit": section.cache_limit}
    plan.own_network = True
    plan.set_env("BUILDKIT_HOST", f"tcp://{HOST}:{PORT}")
    for key in ("NO_PROXY", "no_proxy"):
        if (value := plan.get_env(key)) is not None:
            plan.set_env(key, f"{value},{HOST}")
    if plan.sandboxed:
        plan.add_volume(Volume(VOLUME, FOLDER, cache=plan.name))
    cache = FOLDER if plan.sandboxed else ""
    plan.add_init_step(STEP, make_step(plan.user, cache, section.cache_limit), order=_ORDER)
    plan.note(f"a BuildKit beside it ({section.image})")


def make_step(user: User, cache: str, limit: int) -> str:
    """Return the init step that makes the sidecar the builder that `docker build` takes.

    Args:
        user: Who builds.
        cache: The folder that builds leave their cache in, or ``""``.
        limit: How much it may hold, in bytes; with more it is emptied, since nothing tells what of it is old.
    """
    return _STEP.format(
        host=HOST,
        folder=_BUILDX,
        instance=shlex.quote(_INSTANCE % (HOST, PORT, CERTIFICATES, CERTIFICATES, CERTIFICATES)),
        owner=f"{user.uid}:{user.gid}",
        docker=_DOCKER,
        cache=cache,
        limit_kib=limit // 1024,
    )
