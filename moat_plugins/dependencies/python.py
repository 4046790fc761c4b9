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
_UV_SETTINGS = (
    "UV_LINK_MODE=copy",
    "UV_NO_CACHE=1",
    "UV_PYTHON_INSTALL_DIR=/opt/moat/pythons",
    "UV_PYTHON_PREFERENCE=system",
    "UV_TOOL_BIN_DIR=/usr/local/bin",
    "UV_TOOL_DIR=/opt/moat/tools",
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
    lines = [f"ARG {setting}" for setting in _UV_SETTINGS]
    make = f"python3 -m venv {ENVIRONMENT}"
    if uv or packages or programs or not is_native:
        wanted = shlex.quote(f"uv=={uv.version if uv else REGISTRY['uv'].default}")
        # The index knows the digests of what pip fetches from it, which a release's file on its own has not.
        get_uv = "pip install --no-cache-dir --disable-pip-version-check"
        if is_native:
            make += f" && {ENVIRONMENT}/bin/{get_uv} --prefix {_UV} {wanted}"
        else:
            make = f"python3 -m venv {_UV} && {_UV}/bin/{get_uv} {wanted}"
            make += f" && {_UV}/bin/uv venv --seed --python {shlex.quote(python.version)} {ENVIRONMENT}"
    lines.append(f"RUN {make} && {_OPEN} && {_PROFILE}")
    lines.append(f"ENV VIRTUAL_ENV={ENVIRONMENT} PATH={ENVIRONMENT}/bin:$PATH")
    if uv:
        lines.append(f"RUN ln -s {_UV}/bin/uv {_UV}/bin/uvx /usr/local/bin/")
    install = f"install --compile-bytecode --python {ENVIRONMENT}/bin/python"
    lines += [f"RUN {_UV}/bin/uv tool {install} {_requirement(program)}" for program in programs]
    if packages:
        wanted = " ".join(_requirement(package) for package in packages)
        lines.append(f"RUN {_UV}/bin/uv pip {install} {wanted} && {_OPEN}")
    return lines


def _requirement(dependency: Dependency) -> str:
    """Return it as PEP 508 has it, quoted for sh."""
    pinned = f"=={dependency.version}" if dependency.version else ""
    return shlex.quote(dependency.package + pinned)
