"""What the host's own CAs and proxies come to in a plan."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import attrs

from moat_core.plan import PROXY_ARGS, TRUST_ENV, trust_script
from moat_plugins.host_ca.config import HostCaConfig
from moat_plugins.host_ca.sources import find_extras

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moat_core.config import Config
    from moat_core.plan import PlanBuilder

__all__ = ["add_to_plan", "proxy_args"]

_MOST_BYTES = 48 * 1024
"""The init steps together may have 120 KiB."""


def add_to_plan(config: Config, plan: PlanBuilder, environ: Mapping[str, str] | None = None) -> None:
    """Let PLAN's image and run trust what the host does, and its build use the host's proxies.

    A host without CAs of its own adds nothing: no step, no variable.
    """
    environ = os.environ if environ is None else environ
    _add_proxies(plan, environ)
    section = config.section(HostCaConfig)
    if not section.enabled:
        return
    found = find_extras(environ, section.files)
    for unreadable in found.unreadable:
        plan.problem(f"The certificates cannot be read: {unreadable}.", "Look at the path.", where="host_ca.files")
    for broken in found.broken:
        plan.warn(f"Left out of what the run trusts: {broken}.", "Set `host_ca: {enabled: false}` to add none.")
    certificates = _as_many_as_fit(found.certificates, plan)
    if not certificates:
        return
    plan.image = attrs.evolve(plan.image, trust=(*plan.image.trust, *certificates))
    plan.add_init_step("host CAs", trust_script(plan.image.trust), order=10, inline=True)
    for key, value in TRUST_ENV.items():
        plan.set_env(key, value)
    plan.note(f"trusts {len(certificates)} CAs of this host's own")


def proxy_args(environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the host's proxy settings for a build, and the names of those that only work on the host itself."""
    wanted = {key: value for key, value in environ.items() if key in PROXY_ARGS and value}
    local = [key for key, value in wanted.items() if key.upper() != "NO_PROXY" and _is_here(value)]
    return {key: value for key, value in wanted.items() if key not in local}, sorted(local)


def _add_proxies(plan: PlanBuilder, environ: Mapping[str, str]) -> None:
    usable, local = proxy_args(environ)
    if usable:
        plan.image = attrs.evolve(plan.image, build_args=dict(plan.image.build_args) | usable)
    if local and plan.image.dockerfile is not None:
        plan.warn(
            f"The image is built without {', '.join(local)}: a proxy on this machine itself is out of its reach.",
            "Let the proxy listen on an address of this machine that containers reach.",
        )


def _is_here(proxy: str) -> bool:
    """Whether PROXY, a URL or ``host:port``, is on the loopback interface."""
    import ipaddress  # both are only needed where there is a proxy
    from urllib.parse import urlsplit

    try:
        host = urlsplit(proxy if "://" in proxy else f"//{proxy}").hostname or ""
    except ValueError:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761 §6.3
    return address.is_loopback or address.is_unspecified


def _as_many_as_fit(certificates: Sequence[bytes], plan: PlanBuilder) -> tuple[bytes, ...]:
    fitting: list[bytes] = []
    size = 0
    for certificate in certificates:
        size += len(certificate)
        if size > _MOST_BYTES:
            plan.warn(
                f"Only {len(fitting)} of this host's {len(certificates)} own CAs fit into a run.",
                "Set `host_ca: {enabled: false}`, and put them into a base image of yours.",
            )
            break
        fitting.append(certificate)
    return tuple(fitting)
