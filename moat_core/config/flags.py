"""What ``-e``, ``-m`` and ``-p`` on the command line say, with the same checks as in the config file."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from moat_core.config.values import (
    BadValue,
    check_endpoint,
    check_env_name,
    check_port,
    check_word,
    parse_mount,
    show,
)
from moat_core.errors import ConfigError
from moat_core.types import Mount, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["parse_env_flag", "parse_mount_flag", "parse_port_flag"]

T = TypeVar("T")
_PORT_DIGITS = 5


def parse_env_flag(text: str, environ: Mapping[str, str], *, where: str = "--env") -> tuple[str, str]:
    """Return name and value of ``K=V``.

    ``K`` alone takes the value from ENVIRON, so that no secret need be in an argv.

    Args:
        text: What was given.
        environ: The environment of the command.
        where: What problems name.

    Raises:
        ConfigError: The name or the value cannot be, or ``K`` is not set. The value is never shown.
    """
    name, equals, value = text.partition("=")
    _refuse(check_env_name, name, name, where)
    if not equals:
        if name not in environ:
            raise ConfigError(
                [Problem(f"The variable {name} is not set here.", f"Set it, or write {name}=value.", where)]
            )
        value = environ[name]
    _refuse(check_word, value, None, where, f"The value of {name}")
    return name, value


def parse_mount_flag(text: str, base: Path, *, home: str | None = None, where: str = "--mount") -> Mount:
    """Return the mount that ``SRC:DST[:ro|rw]`` names.

    Args:
        text: What was given.
        base: What a relative SRC starts from: the working folder.
        home: What ``~`` stands for, where the shell has left one.
        where: What problems name.

    Raises:
        ConfigError: It is no mount.
    """
    return _refuse(lambda value: parse_mount(value, base=base, home=home), text, text, where)


def parse_port_flag(text: str, *, where: str = "--port") -> tuple[str, int]:
    """Return endpoint and port of ``web=3000`` or ``web:3000``.

    Raises:
        ConfigError: It is neither.
    """
    endpoint, equals, number = text.partition("=")
    if not equals:
        endpoint, _, number = text.partition(":")

    def parse(_: str) -> tuple[str, int]:
        if not (number.isascii() and number.isdigit() and len(number) <= _PORT_DIGITS):
            raise BadValue("a port is given as name=number", "For example web=3000.")
        check_endpoint(endpoint)
        check_port(int(number))
        return endpoint, int(number)

    return _refuse(parse, text, text, where)


def _refuse(call: Callable[[str], T], value: str, shown: str | None, where: str, subject: str = "It") -> T:
    try:
        return call(value)
    except BadValue as error:
        verb = "cannot be used" if shown is None else f"cannot be {show(shown)}"
        raise ConfigError([Problem(f"{subject} {verb}: {error.reason}.", error.hint, where)]) from None
