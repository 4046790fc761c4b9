"""``moat completion``: what a shell has to read to complete verbs, options and the names of runs."""

from __future__ import annotations

import click

__all__ = ["completion"]

_SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, *, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    source <(moat completion bash)                                 now, in bash or zsh
    moat completion bash > /etc/bash_completion.d/moat             for good
    moat completion fish > ~/.config/fish/completions/moat.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # click has these three
    script = kind(ctx.find_root().command, {}, "moat", "_MOAT_COMPLETE")
    # Not .source(): it runs bash to see its version, which need not be here.
    print(script.source_template % script.source_vars())
