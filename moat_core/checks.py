"""The border: what comes from a caller is what it has to be, or is refused before anything is made of it.

Whatever goes on to an engine, a file system or an argv passes one of these functions; the types in
`moat_core.types` and `moat_core.plan.RunRequest` call them when they are made, so none exists with a bad value. They
raise what Python's own calls raise for the same mistake (`subprocess.Popen`, `open`, `os.fsencode`), as errors that
are also ours. Names of files are bytes to the kernel: those that are not UTF-8 are kept as `os.fsdecode` has them.
No value is ever shown, since it may be a secret. Stdlib only.
"""

from __future__ import annotations

import math
import operator
import os
import re

from moat_core.errors import ArgumentTooLong, InvalidType, InvalidValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")

__all__ = [
    "ARGUMENT_BYTES",
    "ENV_NAME_RE",
    "NAME_RE",
    "Content",
    "PathName",
    "amount",
    "amount_or_none",
    "anything",
    "argv",
    "content",
    "count",
    "count_or_none",
    "env",
    "fields",
    "flag",
    "instance",
    "is_name",
    "is_utf8",
    "items",
    "mapping",
    "optional",
    "path",
    "port",
    "positive_s",
    "seconds",
    "sections",
    "size",
    "storable",
    "text",
    "user",
    "whole",
    "word",
]

PathName = str | bytes | os.PathLike[str] | os.PathLike[bytes]
"""What may name a file."""
Content = str | bytes | bytearray | memoryview
"""What may be written, beside whatever else has a buffer."""
NAME_RE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""A DNS label (RFC 1123 §2.1), lower case: what an agent and an endpoint may be called."""
ENV_NAME_RE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""What shells take as a variable's name (POSIX.1-2017, 8.1)."""
ARGUMENT_BYTES = 128 * 1024 - 1
"""Linux's MAX_ARG_STRLEN (32 pages) without the final NUL: the most that one argument or ``K=V`` may have."""

_USER_RE = re.compile(r"(?:[0-9]{1,10}|[A-Za-z_][A-Za-z0-9_.-]{0,63}\$?)(?::(?:[0-9]{1,10}|[A-Za-z_][A-Za-z0-9_.-]*))?")
_ID_MAX = 2**31 - 1
_LARGEST = 2**62
_NANO_MAX = 9_000_000_000
"""The most of what kernels and engines count in billionths of it, in 63 bits: seconds, processors."""
_SIDE_MAX = 2**16 - 1
_PORT_MAX = 2**16 - 1


def is_name(text: str) -> bool:
    """Tell whether TEXT may name an agent or an endpoint: a DNS label of 1 to 63 characters."""
    return NAME_RE.fullmatch(text) is not None


def is_utf8(text: str) -> bool:
    """Tell whether TEXT is text throughout, and no name of a file that is not UTF-8."""
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def storable(values: Any) -> Any:
    """Return VALUES, a mapping or a sequence, with bytes that are no text escaped (``\\udcff``): SQLite takes text."""
    if isinstance(values, dict):
        return dict(zip(values, storable(list(values.values())), strict=True))
    return [
        each if not isinstance(each, str) or is_utf8(each) else each.encode(errors="backslashreplace").decode()
        for each in values
    ]


def optional(check: Callable[..., T]) -> Callable[[Any, str], T | None]:
    """Return CHECK for what may also be ``None``."""

    def checked(value: Any, what: str) -> T | None:
        return None if value is None else check(value, what)

    return checked


def fields(**table: Callable[[Any, str], Any]) -> Callable[[type, list[Any]], list[Any]]:
    """Return attrs' ``field_transformer`` that puts each value of a class through its check, under its own name."""
    import attrs

    def converter(check: Callable[[Any, str], Any]) -> attrs.Converter[Any, Any]:
        return attrs.Converter(lambda value, field: check(value, field.name), takes_field=True)

    def transform(_: type, found: list[Any]) -> list[Any]:
        return [each.evolve(converter=converter(table[each.name])) if each.name in table else each for each in found]

    return transform


def text(value: Any, what: str = "It") -> str:
    """Return VALUE, a string without NUL.

    Raises:
        InvalidType: It is no string.
        InvalidValue: It holds a NUL, or half of a surrogate pair, which is no byte's escape either.
    """
    if not isinstance(value, str):
        raise _wrong(what, "a string", value)
    if "\0" in value:
        raise InvalidValue(f"{what} has an embedded null byte.")
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidValue(f"{what} has a lone surrogate in it, which is no text.") from None
    return value if type(value) is str else str.__str__(value)


def path(value: Any, what: str = "The path") -> str:
    """Return the path that VALUE is: a string, bytes, or an `os.PathLike`.

    Raises:
        InvalidType: It is none of these.
        InvalidValue: It holds a NUL, or is empty.
    """
    try:
        found = os.fspath(value)
    except TypeError:
        raise _wrong(what, "a string, bytes or an os.PathLike", value) from None
    checked = text(found.decode("utf-8", "surrogateescape") if isinstance(found, bytes) else found, what)
    if not checked:
        raise InvalidValue(f"{what} is an empty path.")
    return checked


def word(value: Any, what: str = "The argument") -> str:
    """Return VALUE as one argument of a program: a string, bytes, or an `os.PathLike`.

    Raises:
        InvalidType, InvalidValue: See `path`.
        ArgumentTooLong: It is more than the kernel takes.
    """
    checked = path(value, what) if value not in ("", b"") else ""
    if len(checked) > ARGUMENT_BYTES // 4 and len(checked.encode("utf-8", "surrogateescape")) > ARGUMENT_BYTES:
        raise ArgumentTooLong(
            f"{what} has more than {ARGUMENT_BYTES} bytes, the most that Linux takes in one.",
            hint="Put large contents into a file, or send them to standard input.",
        )
    return checked


def argv(value: Any, what: str = "argv") -> tuple[str, ...]:
    """Return VALUE as program and arguments; each see `word`.

    Raises:
        InvalidType: It is one string, or nothing that can be iterated over.
        InvalidValue: It is empty, or its program is.
    """
    try:
        made = items(word, value, what)
    except InvalidType as error:
        error.hint = 'For a shell: ["sh", "-c", "a | b"].'
        raise
    if not made or not made[0]:
        raise InvalidValue(f"{what} must begin with a program.", hint='For a shell: ["sh", "-c", "a | b"].')
    return made


def env(value: Any, what: str = "env") -> dict[str, str]:
    """Return VALUE, or nothing for ``None``, as environment variables; names see `ENV_NAME_RE`, values `word`.

    Raises:
        InvalidType: It is no mapping, or a name is no string.
        InvalidValue: A name cannot be one, or a value holds a NUL.
        ArgumentTooLong: ``NAME=value`` is more than the kernel takes.
    """
    made = mapping(word, {} if value is None else value, what)
    for name in made:
        if not ENV_NAME_RE.fullmatch(name):
            raise InvalidValue(
                f"{name!r} is an illegal environment variable name.",
                hint="It has letters, digits and underscores, and starts with no digit.",
            )
        if len(name) > ARGUMENT_BYTES // 8 or len(made[name]) > ARGUMENT_BYTES // 8:
            word(f"{name}={made[name]}", f"{what}[{name!r}]")
    return made


def user(value: Any, what: str = "user") -> str:
    """Return VALUE as the engine takes users: a name or number, and perhaps a group's after a colon."""
    checked = text(value, what)
    if not _USER_RE.fullmatch(checked) or any(int(id_) > _ID_MAX for id_ in re.findall(r"\b[0-9]{10}\b", checked)):
        raise InvalidValue(f"{what} must be like 'root' or '1000:1000'.")
    return checked


def flag(value: Any, what: str = "It") -> bool:
    """Return VALUE, which is ``True`` or ``False``: any text, "no" among them, would be true."""
    if not isinstance(value, bool):
        raise _wrong(what, "True or False", value)
    return value


def count(value: Any, what: str = "It", minimum: int = 0, maximum: int = _LARGEST) -> int:
    """Return VALUE, a whole number from MINIMUM to MAXIMUM, which is no bool.

    Raises:
        InvalidType: It is no whole number.
        InvalidValue: It is too small or too large.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise _wrong(what, "a whole number", value)
    if not minimum <= number <= maximum:
        raise InvalidValue(
            f"{what} must be at least {minimum}." if number < minimum else f"{what} must be at most {maximum}."
        )
    return number


def count_or_none(value: Any, what: str = "It") -> int | None:
    """Return VALUE; see `count`."""
    return None if value is None else count(value, what)


def amount_or_none(value: Any, what: str = "It") -> float | None:
    """Return VALUE; see `amount`."""
    return None if value is None else amount(value, what)


def whole(value: Any, what: str = "It") -> int:
    """Return VALUE, a whole number, perhaps a negative one; see `count`."""
    return count(value, what, -_LARGEST)


def port(value: Any, what: str = "A port") -> int:
    """Return VALUE, the number of a TCP port."""
    return count(value, what, 1, _PORT_MAX)


def amount(value: Any, what: str = "It", unit: str = "") -> float:
    """Return VALUE, a finite number, 0 or more.

    Raises:
        InvalidType: It is no number.
        InvalidValue: It is negative, infinite or not a number.
    """
    if isinstance(value, (bool, str, bytes, bytearray)) or not hasattr(value, "__float__"):
        raise _wrong(what, f"a number{unit}", value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number < 0:
        raise InvalidValue(f"{what} must be a finite number{unit}, and not negative.")
    if number > _NANO_MAX:
        raise InvalidValue(f"{what} must be at most {_NANO_MAX}.")
    return number


def seconds(value: Any, what: str = "It") -> float:
    """Return VALUE, a number of seconds; see `amount`."""
    return amount(value, what, " of seconds")


def positive_s(value: Any, what: str = "The time limit") -> float:
    """Return VALUE, a finite number of seconds, more than 0; see `seconds`."""
    number = seconds(value, what)
    if number == 0:
        raise InvalidValue(f"{what} must be more than 0 seconds.")
    return number


def size(value: Any, what: str = "size") -> tuple[int, int]:
    """Return VALUE, rows and columns of a terminal, as the kernel's ``struct winsize`` can hold them."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__") or len(value) != 2:  # noqa: PLR2004
        raise _wrong(what, "a pair of rows and columns", value)
    rows, columns = value
    return count(rows, f"{what}[0]", 0, _SIDE_MAX), count(columns, f"{what}[1]", 0, _SIDE_MAX)


def content(value: Any, what: str = "data") -> bytes:
    """Return what is to be written, taken now: bytes, anything else with a buffer, or a string, as UTF-8.

    Raises:
        InvalidType: It is none of these; a number is not: `bytes` would make so many zeros of it.
        UnicodeEncodeError: It is a string that UTF-8 cannot write, as for `open`.
    """
    if isinstance(value, str):
        return value.encode()
    if type(value) is bytes:
        return value
    try:
        return memoryview(value).tobytes()
    except TypeError:
        raise _wrong(what, "a string or a bytes-like object", value) from None


def instance(kind: type) -> Callable[[Any, str], Any]:
    """Return a check for values of one KIND."""

    def checked(value: Any, what: str) -> Any:
        if not isinstance(value, kind):
            raise _wrong(what, kind.__name__, value)
        return value

    return checked


def anything(value: Any, what: str) -> Any:  # noqa: ARG001 - what a check has
    """Return VALUE, whatever it is."""
    return value


def items(check: Callable[[Any, str], T], value: Any, what: str) -> tuple[T, ...]:
    """Return VALUE, several of what CHECK checks, in a tuple; a single string or a mapping is not several.

    Raises:
        InvalidType: It is no list or the like.
    """
    if isinstance(value, (str, bytes, bytearray, memoryview)) or hasattr(value, "keys"):
        raise _wrong(what, "a list", value)
    try:
        found = tuple(value)
    except TypeError:
        raise _wrong(what, "a list", value) from None
    return tuple(check(each, f"{what}[{number}]") for number, each in enumerate(found))


def mapping(check: Callable[[Any, str], T], value: Any, what: str) -> dict[str, T]:
    """Return VALUE as a mapping of names to what CHECK checks.

    Raises:
        InvalidType: It is no mapping, or a name is no string.
    """
    if not hasattr(value, "keys") or not hasattr(value, "items"):
        raise _wrong(what, "a mapping", value)
    return {text(key, f"A name in {what}"): check(each, f"{what}[{key!r}]") for key, each in value.items()}


def sections(value: Any, what: str) -> dict[str, dict[str, Any]]:
    """Return VALUE, a mapping of mappings, as options are given."""
    return mapping(lambda each, name: mapping(anything, each, name), value, what)


def _wrong(what: str, wanted: str, value: Any) -> InvalidType:
    return InvalidType(f"{what} must be {wanted}, not {type(value).__name__}.")
