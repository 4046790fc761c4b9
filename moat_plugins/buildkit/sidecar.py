"""The BuildKit beside a run with an engine of its own: a helper container, without anything of the host's.

In gVisor it runs in gVisor, with the run's own OCI runtime, and its files are in memory: on a volume gVisor has no
overlay, nor the attributes that layers need (``failed to get capabilities xattr: bad file descriptor``). It listens on
the run's network, whose addresses every program of the engine's machine reaches, too: so it speaks mutual TLS, see
`certificates`.
"""

from __future__ import annotations

import shlex
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio.to_thread

from moat_core.errors import EngineError, ImageError, SandboxUnavailable, ServiceNotReady
from moat_core.plan import PROXY_ARGS, TRUST_ENV, trust_script
from moat_core.runtime.facets import SidecarSpec
from moat_core.types import Problem, Tmpfs, Volume
from moat_plugins.buildkit.cache import VOLUME, IsKept
from moat_plugins.buildkit.certificates import SERVER_FOLDER, make_certificates
from moat_plugins.buildkit.contribute import CERTIFICATES, HOST, PORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from moat_core.lifecycle import Run
    from moat_core.plan import Plan
    from moat_core.runtime.base import Sandbox
    from moat_core.runtime.facets import PrivateFile

__all__ = ["READY_S", "make_spec", "open_sidecar"]

READY_S = 30.0
"""How long it may take until its gRPC API answers, in seconds."""
WHY = "BuildKit: builds are containers, which takes all that root on a machine may do"
_ROOT = "/var/lib/buildkit"
_TOOLS = "/tmp/moat-tools"  # noqa: S108 - of a container that nobody else is in

# Each container that runc makes leaves a session keyring behind in gVisor, which has room for 200.
_KEYLESS = f"""\
mkdir -p {_TOOLS}
for moat_name in buildkit-runc runc; do
  moat_runc=$(command -v $moat_name) || continue
  cat >{_TOOLS}/$moat_name <<MOAT_END_OF_FILE
#!/bin/sh
moat_action=
for moat_word; do
  shift
  set -- "\\$@" "\\$moat_word"
  case \\$moat_action\\$moat_word in create | run) moat_action=\\$moat_word; set -- "\\$@" --no-new-keyring ;; esac
done
exec $moat_runc "\\$@"
MOAT_END_OF_FILE
  chmod 755 {_TOOLS}/$moat_name
done
export PATH={_TOOLS}:$PATH"""
_MB = 1000 * 1000
_TAIL = 20


@asynccontextmanager
async def open_sidecar(run: Run) -> AsyncIterator[None]:
    """Start it and make its name known in RUN; with the mode ``auto``, warn and go on if it does not get ready.

    Raises:
        ImageError: Its image cannot be had.
        ServiceNotReady: Its API did not answer in time.
    """
    details = run.plan.details["buildkit"]
    try:
        address = await _start(run, details, run.name if run.get(IsKept).here else "")
    except (EngineError, ImageError, ServiceNotReady, SandboxUnavailable) as error:
        if details["mode"] != "auto":
            error.hint = f"{error.hint}\nOr go without: `buildkit: off`.".lstrip()
            raise
        message = f"The run's BuildKit is not there, the inner engine builds by itself: {error.message}"
        await run.warn(Problem(message, error.hint, "buildkit"))
    else:
        run.add_host(HOST, address)
    yield


def make_spec(
    plan: Plan, details: Mapping[str, str | int], cache: str = "", files: tuple[PrivateFile, ...] = ()
) -> SidecarSpec:
    """Return the container to start.

    Args:
        plan: The run's; its OCI runtime is the sidecar's, too.
        details: What `moat_plugins.buildkit.contribute` left in it.
        cache: What its files are kept for across runs, see `Volume`; in gVisor they are not, but see `cache`.
        files: Its certificate, the key of it, and who may come.
    """
    isolated = plan.sandboxed
    limit = str(int(details["cache_limit"]) // _MB)
    command = ["buildkitd", "--addr", f"tcp://0.0.0.0:{PORT}", "--root", _ROOT]
    command += ["--oci-worker-gc", "--oci-worker-gc-keepstorage", limit]
    for flag, name in (("--tlscacert", "ca.pem"), ("--tlscert", "cert.pem"), ("--tlskey", "key.pem")):
        command += [flag, f"{SERVER_FOLDER}/{name}"]
    proxies = {key: value for key, value in plan.image.build_args.items() if key in PROXY_ARGS}
    trust = dict(TRUST_ENV) if plan.image.trust else {}
    return SidecarSpec(
        role=HOST,
        image=str(details["image"]),
        command=("/bin/sh", "-euc", _make_start(plan, command)),
        env={**proxies, **trust},
        oci_runtime=plan.oci_runtime,
        privileged="" if isolated else WHY,
        capabilities={"ALL": f"{WHY}; in gVisor, that is gVisor's own kernel"} if isolated else {},
        volumes=() if isolated else (Volume(VOLUME, _ROOT, cache=cache),),
        tmpfs=(Tmpfs(_ROOT, int(details["cache_limit"]), ("exec",)),) if isolated else (),
        dns=plan.dns,
        files=files,
    )


def _make_start(plan: Plan, command: list[str]) -> str:
    """Return sh: what a run's own init steps do for a run, then COMMAND."""
    lines = []
    if plan.image.trust:
        lines.append(trust_script(plan.image.trust))
    if plan.sandboxed:
        lines.append(_KEYLESS)
    if plan.sandboxed and plan.dns:
        # The engine's resolver at 127.0.0.11 is not there in gVisor.
        servers = "".join(f"nameserver {server}\n" for server in plan.dns)
        lines.append(f"printf %s {shlex.quote(servers)} >/etc/resolv.conf")
    return "\n".join([*lines, f"exec {shlex.join(command)}"])


async def _start(run: Run, details: Mapping[str, str | int], cache: str) -> str:
    """Start it, wait until it answers, and return its address on the run's network."""
    runtime = await run.runtime()
    if runtime.sidecars is None:
        raise SandboxUnavailable(
            f"The runtime {run.plan.runtime} cannot start containers beside a run's.",
            hint="A Docker engine can: --runtime docker.",
        )
    minted = await anyio.to_thread.run_sync(make_certificates, run.id, HOST, CERTIFICATES, run.plan.user)
    sidecar = await runtime.sidecars.start(run, make_spec(run.plan, details, cache, minted.server))
    from moat_plugins.buildkit.api import BuildKit
    from moat_plugins.buildkit.errors import BuildKitUnavailable

    try:
        await BuildKit.wait_until_ready(
            f"tcp://{sidecar.address}:{PORT}", timeout_s=READY_S, tls=minted.ours, server_name=HOST
        )
    except BuildKitUnavailable as error:
        raise ServiceNotReady(
            f"The run's BuildKit did not answer within {READY_S:g} s.",
            hint=f"{error.message}\nThe end of its log:\n{await _read_log(sidecar.sandbox)}",
        ) from error
    for file in minted.client:
        run.add_file(file)
    return sidecar.address


async def _read_log(sandbox: Sandbox) -> str:
    pieces = [piece.data async for piece in sandbox.logs(tail=_TAIL, follow=False)]
    return b"".join(pieces).decode("utf-8", "replace").strip()
