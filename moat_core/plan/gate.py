"""How a container that has been started is held until its owner has looked at it.

`moat-init` begins by waiting for a word on its standard input, which the owner holds since before the start: nothing
of the run's own, and no step that could touch what is mounted, comes before it. It costs neither a process nor a call
of the engine's. Nobody else has that stream; that its owner dies opens nothing.
"""

from __future__ import annotations

__all__ = ["hold_init", "word"]

_WORD = b"moat-go"

# From a pipe `read` takes byte by byte, and no more than the line: what follows is the command's input.
_PIPE = """\
IFS= read -r moat_word || :
[ "$moat_word" = {word} ] || {{ echo 'moat: the container was started without its owner.' >&2; exit 125; }}
unset moat_word
"""

# A terminal would show the word. The end-of-file character at the beginning of a line is not shown, and ends `read`.
_TERMINAL = """\
IFS= read -r moat_word || :
unset moat_word
"""


def hold_init(argv: tuple[str, ...], *, tty: bool, stdin: bool) -> tuple[str, ...]:
    """Return ARGV, of `make_init`, so that it waits for `word` first.

    Args:
        tty: Standard input is a terminal.
        stdin: The command reads it, too; else it reads end-of-file at once, as if it had none.
    """
    shell, option, text, *rest = argv
    held = _TERMINAL if tty else _PIPE.format(word=_WORD.decode())
    if not stdin and not tty:
        held += "exec </dev/null\n"
    return (shell, option, held + text, *rest)


def word(*, tty: bool) -> bytes:
    """Return what is written to a held container's standard input to let it go on."""
    return b"\x04" if tty else _WORD + b"\n"
