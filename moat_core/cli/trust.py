"""Asking whether a workspace's config file is trusted: once a workspace and content, and at a terminal only."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from moat_core.cli.render import say
from moat_core.errors import ConfigError
from moat_core.store.trusted import TrustedFiles
from moat_core.types import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moat_core.api import Moat
    from moat_core.config import ConfigFile, Trust, Widening

__all__ = ["ask", "can_ask", "show_widenings", "truster"]


def truster(moat: Moat, word: bool | None) -> Trust:
    """Return what decides for a verb that makes something.

    Args:
        word: The user's, by flag: ``True`` trusts, and that is remembered; ``False`` goes without; ``None`` is to be
            asked.
    """

    def decide(file: ConfigFile, widenings: tuple[Widening, ...]) -> bool:
        if word is False:
            return False
        trusted = TrustedFiles(moat.home)
        if trusted.covers(file, widenings):
            return True
        if word is None and not ask(file, widenings):
            raise _untrusted(widenings)
        trusted.add(file, widenings)
        say(f"{file.name} is trusted until it changes. `moat config trust --revoke` takes that back.")
        return True

    return decide


def ask(file: ConfigFile, widenings: tuple[Widening, ...]) -> bool:
    """Show what widens, and ask; "no" where nobody can be asked."""
    if not can_ask():
        return False
    say(f"{file.name} in {file.folder.absolute()} gives the run more than it has without:")
    show_widenings(widenings)
    with suppress(ImportError, OSError):
        import termios

        termios.tcflush(sys.stdin, termios.TCIFLUSH)  # what was typed before is no answer to this
    what = "this" if len(widenings) == 1 else f"all {len(widenings)} of these"
    return click.confirm(f"Do you trust {what}, until the file changes?", default=False, err=True)


def can_ask() -> bool:
    """Whether somebody sits there who sees the question and can answer it."""
    return bool(sys.stdin and sys.stdin.isatty() and sys.stderr.isatty())


def show_widenings(widenings: Iterable[Widening]) -> None:
    """Say on stderr what widens, and why: two lines each, nothing cut short."""
    for each in widenings:
        say(f"  {each.where}  {each.key}: {each.value}")
        say(f"      {each.why}")


def _untrusted(widenings: tuple[Widening, ...]) -> ConfigError:
    problems = [Problem(f"{each.key}: {each.value} needs trust: {each.why}.", where=each.where) for each in widenings]
    return ConfigError(
        problems,
        hint="Look at the file. Then `moat config trust` (or `moat run --trust`) has it heeded until it changes; "
        "`moat run --no-trust` goes without what is named here.",
        needs_trust=[each.to_json() for each in widenings],
    )
