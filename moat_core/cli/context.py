"""What every verb shares: the `Moat` it talks to, and how an async body is run from a click command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import click

from moat_core.cli.render import print_problem, say, warn

if TYPE_CHECKING:
    from moat_core.api import Moat

__all__ = ["CliContext", "pass_cli", "run_async"]

T = TypeVar("T")
_REAP_S = 15.0


class CliContext:
    """The options before the verb."""

    def __init__(self) -> None:
        self.without: tuple[str, ...] = ()
        self.verbose = False
        self._keep_going = self._quiet = False
        self._moat: Moat | None = None

    def set_options(self, *, without: tuple[str, ...] = (), verbose: bool = False) -> None:
        """Remember them; called once, before any verb."""
        self.without, self.verbose = without, verbose
        if without:
            from moat_core.hooks.dispatch import unknown
            from moat_core.hooks.manager import load_plugins

            # A misspelt name is told whatever the verb; a broken plugin only by verbs that cannot go without it.
            known = load_plugins(without=without, keep_going=True).plugins
            for name in without:
                if name not in known:
                    raise unknown("plugin", name, list(known))

    def keep_going(self) -> None:
        """Go without broken plugins, with a warning for each: for verbs that must always work."""
        self._keep_going = True

    def quiet_moat(self) -> Moat:
        """Return the library, which goes on without broken plugins: for verbs that tell of those themselves."""
        self._keep_going = self._quiet = True
        return self.moat

    @property
    def moat(self) -> Moat:
        """The library; not entered yet."""
        if self._moat is None:
            from moat_core.api import Moat

            self._moat = Moat(
                without=self.without, on_warning=warn, owner_kind="foreground", keep_going=self._keep_going
            )
            if self._keep_going and not self._quiet:
                for info in self._moat.plugin_infos():
                    if info.state == "broken":
                        warn(f"Going without a broken plugin. {info.error}")
        return self._moat


pass_cli = click.make_pass_decorator(CliContext, ensure=True)


def run_async(context: CliContext, body: Callable[[Moat], Awaitable[T]], *, reap: bool = True) -> T:
    """Enter the `Moat`, finish what dead owners left (the third layer of clean-up), and run BODY in it.

    Args:
        reap: Look for dead owners first. It costs a few file locks when there is none.
    """
    import anyio
    import anyio._backends._asyncio  # now: what is imported while an interrupt may come ends in a traceback

    from moat_core.cli.early import Interruptible

    async def run() -> T:
        async with context.moat as moat:
            if reap:
                await finish_dead_runs(moat)
            return await body(moat)

    with Interruptible():
        return anyio.run(run)


async def finish_dead_runs(moat: Moat) -> None:
    """Undo what dead owners left behind, if there is any; say so. An engine that is down holds nobody up for long."""
    import anyio

    upkeep = moat.upkeep(automatic=True)
    if not upkeep.dead_runs() and not moat.store.is_unsure():
        return
    with anyio.move_on_after(_REAP_S) as scope:
        reaped = await upkeep.reap(on_progress=say)
    if scope.cancelled_caught:
        warn(f"It could not all be undone in {_REAP_S:.0f} s; the next command, or `moat clean`, tries again.")
        return
    for problem in reaped.problems:
        print_problem(problem)
