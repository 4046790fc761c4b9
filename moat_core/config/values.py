"""What single values of a config may be: names, images, ports, mounts, sizes, durations.

Every function takes one value and returns what it means, or raises `BadValue` with a reason that reads well
after "… cannot be 'x': ". The config file, flags and the library's arguments all go through these, so that
the same mistake gets the same words everywhere.
"""

from __future__ import annotations

import math
import os
import posixpath
import re
from typing import TYPE_CHECKING, Any

from moat_core import checks
from moat_core.checks import is_name
from moat_core.errors import ArgumentTooLong, InvalidValue
from moat_core.types import Mount

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = [
    "WORKSPACE",
    "BadValue",
    "check_address",
    "check_argument",
    "check_command",
    "check_endpoint",
    "check_env_name",
    "check_env_value",
    "check_image",
    "check_mounts",
    "check_name",
    "check_port",
    "check_ports",
    "check_word",
    "duration_s",
    "expand_path",
    "make_mount",
    "nearest",
    "parse_mount",
    "show",
    "size_bytes",
]

WORKSPACE = "/workspace"
"""Where the workspace appears in the container."""

_SHOWN = 60
_NO_TEXT = "it holds something that is not Unicode text"
_PORT_MAX = 65535
_SIZE_MAX = 2**63 - 1
_DURATION_MAX = 10 * 365 * 86400
_MIB = 1024 * 1024

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?(?:([kmgt])(?:i?b)?|(b))?", re.IGNORECASE)
_SIZE_UNITS = {"k": 1024, "m": _MIB, "g": 1024 * _MIB, "t": 1024 * 1024 * _MIB}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

# The grammar of github.com/distribution/reference: [domain[:port]/]path[:tag][@digest].
_IMAGE_PART = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_IMAGE_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?(?::[0-9]{1,5})?"
_IMAGE = re.compile(
    rf"(?:{_IMAGE_HOST}/)?{_IMAGE_PART}(?:/{_IMAGE_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9]*:[0-9a-fA-F]{32,128})?"
)
_IMAGE_MAX = 255


class BadValue(ValueError):
    """A value that may not be.

    Args:
        reason: A clause that follows a colon: "a port is a number from 1 to 65535".
        hint: What to write instead; ``""`` if the reason says it.
    """

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


def show(value: Any) -> str:
    """Return VALUE as it may stand in a message: quoted, on one line, at most about 60 characters.

    Control and other unprintable characters are escaped: a file that an agent can write must not be able to
    steer the terminal of whoever reads the message.
    """
    text = value if isinstance(value, str) else str(value)
    cut = text if len(text) <= _SHOWN else text[: _SHOWN - 1]
    safe = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in cut)
    return f"'{safe}'" if cut is text else f"'{safe}…' ({len(text)} characters)"


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """Return what of ALLOWED looks most like WORD, or ``None`` if nothing does."""
    import difflib  # a few milliseconds, needed for mistakes only

    by_fold = {name.casefold(): name for name in allowed}
    # Comparing is quadratic, and no key is longer than this.
    found = difflib.get_close_matches(word[:64].casefold(), by_fold, n=1, cutoff=0.6)
    return by_fold[found[0]] if found else None


def check_name(value: str) -> None:
    """Refuse what cannot be an agent's name."""
    if not is_name(value):
        raise BadValue(
            "a name is a DNS label: lower-case letters, digits and hyphens, 1 to 63 characters, no hyphen at either end"
        )


def check_endpoint(value: str) -> None:
    """Refuse what cannot be an endpoint's name."""
    if not is_name(value):
        raise BadValue("an endpoint's name is a DNS label: lower-case letters, digits and hyphens, 1 to 63 characters")


def check_port(value: int) -> None:
    """Refuse what is no TCP port."""
    if not 1 <= value <= _PORT_MAX:
        raise BadValue(f"a port is a number from 1 to {_PORT_MAX}")


def check_ports(value: dict[str, int]) -> None:
    """Refuse two endpoints on one port."""
    seen: dict[int, str] = {}
    for endpoint, number in value.items():
        if number in seen:
            raise BadValue(
                f"the endpoints {show(seen[number])} and {show(endpoint)} name the same port, {number}",
                "Give every endpoint a port of its own.",
            )
        seen[number] = endpoint


def check_env_name(value: str) -> None:
    """Refuse what no shell takes as a variable's name (POSIX.1-2017, 8.1)."""
    if not checks.ENV_NAME_RE.fullmatch(value):
        raise BadValue("a variable's name has letters, digits and underscores, and starts with no digit")


def check_word(value: str) -> None:
    """Refuse what the kernel cannot hand to a program: NUL, half a surrogate pair, more than 128 KiB."""
    try:
        checks.word(value)
    except InvalidValue:
        raise BadValue("it holds a NUL character" if "\0" in value else _NO_TEXT) from None
    except ArgumentTooLong:
        size = len(value.encode(errors="surrogateescape"))
        raise BadValue(
            f"it has {size} bytes, and Linux takes at most {checks.ARGUMENT_BYTES} in one argument or variable",
            "Put large contents into a file of the workspace.",
        ) from None


def check_argument(value: str) -> None:
    """Refuse what `check_word` refuses, and bytes that are no Unicode: a config is text."""
    check_word(value)
    if not checks.is_utf8(value):
        raise BadValue(_NO_TEXT)


def check_env_value(value: str) -> None:
    """Refuse what cannot be a variable's value."""
    check_argument(value)


def check_command(value: tuple[str, ...]) -> None:
    """Refuse a command without a program."""
    if not value or not value[0].strip():
        raise BadValue("a command starts with a program", 'Write it as a list: ["npm", "start"].')


def check_image(value: str) -> None:
    """Refuse what is no image reference."""
    if len(value) > _IMAGE_MAX or not _IMAGE.fullmatch(value):
        lower = f"Repository names are lower case: {show(value.lower())}."
        raise BadValue(
            "it is no image reference like debian:bookworm-slim or registry:5000/team/image:tag",
            lower if len(value) <= _IMAGE_MAX and _IMAGE.fullmatch(value.lower()) else "",
        )


def check_address(value: str) -> None:
    """Refuse what is no IP address."""
    import ipaddress  # milliseconds, for those who set `dns` only

    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        raise BadValue("a name server is given by its IP address, like 9.9.9.9") from None
    if getattr(address, "scope_id", None):
        raise BadValue("an address with a zone means nothing in the container")


def size_bytes(value: Any) -> int:
    """Read a size: ``512m``, ``1.5g``, ``64MiB``, or a bare number of MiB. Units are powers of 1024.

    Returns:
        Bytes.

    Raises:
        BadValue: It is no size, or beyond 2**63.
    """
    reason = "a size is a number with b, k, m, g or t, like 512m or 2g (a bare number is MiB)"
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadValue(reason)
    if not isinstance(value, str):
        if not math.isfinite(value) or not 0 <= value * _MIB <= _SIZE_MAX:
            raise BadValue(reason)
        return int(value * _MIB)
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise BadValue(reason)
    number, unit, byte = match.groups()
    factor = _SIZE_UNITS[unit.lower()] if unit else 1 if byte else _MIB
    size = int(float(number) * factor) if "." in number else int(number) * factor
    if size > _SIZE_MAX:
        raise BadValue("it is larger than any machine's memory")
    return size


def duration_s(value: Any) -> float:
    """Read a duration: ``30s``, ``500ms``, ``1h30m``, or a bare number of seconds.

    Returns:
        Seconds, from 0 to ten years.

    Raises:
        BadValue: It is no duration.
    """
    reason = "a duration is a number with ms, s, m, h or d, like 30s or 1h30m (a bare number is seconds)"
    if isinstance(value, str):
        text = value.strip()
        parts = _DURATION.findall(text)
        if parts and "".join(number + unit for number, unit in parts) == text:
            value = math.fsum(float(number) * _DURATION_UNITS[unit] for number, unit in parts)
        elif re.fullmatch(r"[0-9]{1,12}(?:\.[0-9]{1,6})?", text):
            value = float(text)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _DURATION_MAX:
        raise BadValue(reason)
    return float(value)


def expand_path(text: str, base: Path | None, home: str | None) -> str:
    """Return the absolute path that TEXT means.

    Args:
        text: ``/a``, ``~/a`` or, where BASE is given, a path relative to it.
        base: The folder of the config file.
        home: The user's home, ``None`` if unknown.

    Raises:
        BadValue: It is empty, ``~user``, relative where that means nothing, or holds a NUL.
    """
    if not text:
        raise BadValue("the path is empty")
    try:
        checks.path(text)
    except InvalidValue:
        raise BadValue("the path holds a NUL character" if "\0" in text else _NO_TEXT) from None
    if text == "~" or text.startswith("~/"):
        if not home:
            raise BadValue("~ means nothing here, because HOME is not set", "Write the whole path.")
        text = home + text[1:]
    elif text.startswith("~"):
        raise BadValue("only ~/ (your own home) is expanded", "Write the whole path.")
    if not text.startswith("/"):
        if base is None:
            raise BadValue("the path is relative", "Write a path that starts with / or ~/ here.")
        text = os.path.join(os.path.abspath(base), text)
    return os.path.normpath(text)


def make_mount(source: str, target: str, mode: str, *, base: Path | None, home: str | None) -> Mount:
    """Return the mount of SOURCE (see `expand_path`) at TARGET (absolute), MODE being ``ro`` or ``rw``.

    Raises:
        BadValue: One of them cannot be.
    """
    if mode not in {"ro", "rw"}:
        raise BadValue(f"the mode {show(mode)} is neither ro nor rw")
    path = "/" + posixpath.normpath(target).lstrip("/")  # POSIX lets normpath keep a leading //
    if not target.startswith("/") or any(not char.isprintable() for char in target):
        raise BadValue(f"the target {show(target)} is no absolute path in the container")
    if path == WORKSPACE:
        raise BadValue("/workspace is the workspace itself", f"Mount below it or elsewhere: {WORKSPACE}/data.")
    if path == "/" or path.split("/")[1] in {"proc", "sys"}:
        raise BadValue(f"{path} belongs to the container's system")
    return Mount(expand_path(source, base, home), path, read_only=mode == "ro")


def parse_mount(text: str, *, base: Path | None, home: str | None) -> Mount:
    """Read ``SRC:DST[:ro|rw]``; a source that holds a colon needs the long form of the config file.

    Raises:
        BadValue: It is no mount.
    """
    parts = text.split(":")
    if len(parts) not in {2, 3}:
        raise BadValue("a mount is source:target, with :ro after it if it is read-only")
    return make_mount(parts[0], parts[1], parts[2] if parts[2:] else "rw", base=base, home=home)


def check_mounts(value: Iterable[Mount]) -> None:
    """Refuse two mounts at one target."""
    seen: set[str] = set()
    for mount in value:
        if mount.target in seen:
            raise BadValue(f"two mounts have the target {show(mount.target)}")
        seen.add(mount.target)
