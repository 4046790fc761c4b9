"""Python in the image: one environment that everybody may install into, and programs in environments of their own.

Debian's Python refuses ``pip install`` (PEP 668), rightly: its own programs live from it. So the run has a virtual
environment first on its PATH, which belongs to nobody else and is therefore writable for the run's user, whoever
that will be. Programs that import the run's packages (pytest, mypy) are in it, others (ruff) are not in its way.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from moat_plugins.dependencies.registry import REGISTRY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moat_plugins.dependencies.parse import Dependency

__all__ = ["ENVIRONMENT", "python_lines"]

ENVIRONMENT = "/opt/moat/python"
"""The run's environment."""
_UV = "/opt/moat/uv"
_UV_ENV = (
    "UV_NO_CACHE=1 UV_LINK_MODE=copy UV_PYTHON_INSTALL_DIR=/opt/moat/pythons UV_PYTHON_PREFERENCE=system"
    " UV_TOOL_DIR=/opt/moat/tools UV_TOOL_BIN_DIR=/usr/local/bin"
)
_OPEN = f"chmod -R a+rwX {ENVIRONMENT}"
_PROFILE = f"printf 'PATH={ENVIRONMENT}/bin:$PATH\\n' >/etc/profile.d/moat.sh"


def python_lines(
    python: Dependency,
    uv: Dependency | None,
    packages: Sequence[Dependency],
    programs: Sequence[Dependency],
    *,
    is_native: bool,
) -> list[str]:
    """Return the Dockerfile's lines for Python.

    Args:
        python: The version that is wanted; empty is whatever the base image has.
        uv: If the user wants it, too.
        packages: To be imported by the run's code.
        programs: To be run by themselves.
        is_native: The base's own ``python3`` is of that version; else uv finds or fetches one.
    """
    lines: list[str] = []
    if uv or packages or programs or not is_native:
        version = uv.version if uv else REGISTRY["uv"].default
        # The index knows the digests of what pip fetches from it, which a release's file on its own has not.
        lines.append(
            f"RUN python3 -m venv {_UV} && {_UV}/bin/pip install --no-cache-dir --disable-pip-version-check"
            f" {shlex.quote(f'uv=={version}')}"
        )
    if uv:
        lines.append(f"RUN ln -s {_UV}/bin/uv {_UV}/bin/uvx /usr/local/bin/")
    if is_native:
        make = f"python3 -m venv {ENVIRONMENT}"
    else:
        make = f"{_UV_ENV} {_UV}/bin/uv venv --seed --python {shlex.quote(python.version)} {ENVIRONMENT}"
    lines.append(f"RUN {make} && {_OPEN} && {_PROFILE}")
    lines.append(f"ENV VIRTUAL_ENV={ENVIRONMENT} PATH={ENVIRONMENT}/bin:$PATH")
    lines += [
        f"RUN {_UV_ENV} {_UV}/bin/uv tool install --compile-bytecode --python {ENVIRONMENT}/bin/python {wanted}"
        for wanted in map(_requirement, programs)
    ]
    if packages:
        wanted = " ".join(_requirement(package) for package in packages)
        lines.append(
            f"RUN {_UV_ENV} {_UV}/bin/uv pip install --compile-bytecode --python {ENVIRONMENT}/bin/python {wanted}"
            f" && {_OPEN}"
        )
    return lines


def _requirement(dependency: Dependency) -> str:
    """Return it as PEP 508 has it, quoted for sh."""
    pinned = f"=={dependency.version}" if dependency.version else ""
    return shlex.quote(dependency.package + pinned)
