"""Words that are not UTF-8, through an interface that carries text only.

An engine's API is JSON: what is no Unicode in an argument, a variable or a folder's name arrives as U+FFFD, and names
another file. So a command that holds such is handed over as a small sh text that makes the bytes inside and then
becomes the command; any other is left as it is.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import attrs

from moat_core.checks import is_utf8, word
from moat_core.types import Command

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["as_text", "raw_words"]

_CHANGE = """\
cd -- {folder} 2>/dev/null || {{ echo 'moat: the working folder: no such folder' >&2; exit 126; }}
"""
# Ends as the runtimes' own exec does for a program that is not there.
_BECOME = """\
if ! command -v -- "$1" >/dev/null; then
  if [ -e "$1" ]; then echo "moat: $1: permission denied" >&2; exit 126; fi
  echo "moat: $1: command not found" >&2; exit 127
fi
exec "$@"
"""
_PRINTF = {"\\": "\\\\", "%": "%%", "'": "\\047", "-": "\\055"}
"""What means something in printf's format (POSIX.1-2017, XBD 5) or around it."""


def as_text(command: Command) -> Command:
    """Return COMMAND if it is UTF-8 throughout, else one that is and does the same; it needs ``/bin/sh`` inside.

    Raises:
        ArgumentTooLong: It is more than fits into that text.
    """
    odd = {key: value for key, value in command.env.items() if not is_utf8(value)}
    folder = command.cwd or ""
    if not odd and all(map(is_utf8, (*command.argv, folder))):
        return command
    prelude, names = raw_words([*odd.values(), folder, *command.argv])
    lines = [prelude, *(f"export {key}={name}\n" for key, name in zip(odd, names, strict=False))]
    if not is_utf8(folder):
        lines.append(_CHANGE.format(folder=names[len(odd)]))
    lines += ["set -- ", *(f"{name} " for name in names[len(odd) + 1 :]), "\n", _BECOME]
    return attrs.evolve(
        command,
        argv=("/bin/sh", "-c", word("".join(lines), "The command"), "moat-raw"),
        env={key: value for key, value in command.env.items() if key not in odd},
        cwd=command.cwd if is_utf8(folder) else None,
    )


def raw_words(words: Iterable[str]) -> tuple[str, list[str]]:
    """Return sh text to run first, and what then stands for each of WORDS, byte for byte, in the text after it.

    A process is forked for each word that is not UTF-8, and for no other.
    """
    prelude, names = "", []
    for each in words:
        if is_utf8(each):
            names.append(shlex.quote(each))
            continue
        name = f"moat_word_{len(names)}"
        # The last letter keeps newlines at the end, which the substitution of a command would drop.
        prelude += f"{name}=$(printf '{_escape(each)}x')\n{name}=${{{name}%x}}\n"
        names.append(f'"${name}"')
    return prelude, names


def _escape(each: str) -> str:
    return "".join(f"\\{ord(char) - 0xDC00:03o}" if not is_utf8(char) else _PRINTF.get(char, char) for char in each)
