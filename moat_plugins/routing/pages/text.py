"""Text of agents made fit to be shown: no control characters, no escape sequences, bounded."""

from __future__ import annotations

import difflib
import functools
import re
import unicodedata
from collections.abc import Iterable

__all__ = ["LINE_CHARACTERS", "age", "clean", "clean_line", "join", "nearest", "shorten"]

LINE_CHARACTERS = 1000
"""What is shown of a line of a log."""
_LINE_BYTES = 4 * LINE_CHARACTERS

# ECMA-48 (5th edition), 5.4 and 8.3; a sequence that never ends is cut where it begins. Each alternative stops where
# the next could begin, so that the time is linear in the line's length.
_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # CSI: colours, the cursor
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x90\x98\x9c-\x9f]*(?:\x07|\x1b\\|\x9c)"  # OSC and such: titles
    r"|\x1b[ -/]*[0-~]?"  # anything else
)


_UNSEEN = re.compile(r"[^ -~\n\t]+")


def clean(text: str) -> str:
    """Return TEXT without what is not seen: control characters and overrides of direction are written out."""
    return text if text.isprintable() else _UNSEEN.sub(_write_out, text)


def _write_out(match: re.Match[str]) -> str:
    return match[0] if match[0].isprintable() else "".join(map(_seen, match[0]))


@functools.lru_cache(maxsize=1024)
def _seen(character: str) -> str:
    # The joiner holds emoji together; it cannot turn or hide anything.
    if character.isprintable() or character == "\u200d":
        return character
    if unicodedata.category(character) == "Zs":
        return " "
    code = ord(character)
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004


def clean_line(data: bytes) -> str:
    """Return what a terminal would show of a line of a log: one line, `clean`, at most so long."""
    # Hundreds of lines are shown at once: none may cost much, whatever it is made of.
    text = data[:_LINE_BYTES].decode("utf-8", errors="replace").rstrip("\r\n")
    text = _SEQUENCE.sub("", text)
    # A progress bar writes over itself.
    text = text.rpartition("\r")[2].replace("\n", " ")
    is_cut = len(data) > _LINE_BYTES
    return shorten(clean(text[: LINE_CHARACTERS + 1]) + ("…" if is_cut else ""), LINE_CHARACTERS)


def shorten(text: str, length: int) -> str:
    """Return TEXT, or its beginning with an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"


def age(seconds: float) -> str:
    """Return a span of time as ``moat list`` writes it: ``12s``, ``5m``, ``3h``, ``2d``. The script does the same."""
    whole = max(0, int(seconds))
    for limit, unit, size in ((60, "s", 1), (3600, "m", 60), (172800, "h", 3600)):
        if whole < limit:
            return f"{whole // size}{unit}"
    return f"{whole // 86400}d"


def nearest(word: str, names: Iterable[str]) -> str:
    """Return the one of NAMES that was probably meant, or ``""``."""
    found = difflib.get_close_matches(word[:64].lower(), list(names), n=1, cutoff=0.6)
    return found[0] if found else ""


def join(names: Iterable[str]) -> str:
    """Return ``a, b and c``."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
