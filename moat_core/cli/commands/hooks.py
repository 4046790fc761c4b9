"""``moat hooks``: every hook with its contract, and who implements it in which order."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import click

from moat_core.cli.context import CliContext, pass_cli
from moat_core.cli.options import json_option
from moat_core.cli.render import print_json, print_table, style

if TYPE_CHECKING:
    from moat_core.hooks.manager import PluginManager

__all__ = ["hooks"]


@click.command("hooks")
@click.argument("name", required=False)
@json_option
@pass_cli
def hooks(context: CliContext, /, *, name: str | None, as_json: bool) -> None:
    """Show hooks and who implements them, in call order.

    The fields of --json: name, phase, kind (collect, first, context, event), asynchronous, signature, doc,
    implementers.

    \b
    moat hooks
    moat hooks moat_open_run
    """
    manager = context.quiet_moat().plugins
    names = [_full_name(manager, name)] if name else list(manager.hook_names)
    described = [_describe(manager, each) for each in names]
    if as_json:
        print_json(described)
    elif name:
        _print(described[0])
    else:
        rows = [(each["name"], each["phase"], each["kind"], ", ".join(each["implementers"])) for each in described]
        print_table(("HOOK", "PHASE", "KIND", "IMPLEMENTED BY"), rows, shrink=3)


def _full_name(manager: PluginManager, name: str) -> str:
    return f"moat_{name}" if f"moat_{name}" in manager.hook_names else name


def _describe(manager: PluginManager, name: str) -> dict[str, Any]:
    function, info = manager.spec(name), manager.info(name)
    return {
        "name": name,
        "phase": function.__module__.rpartition(".")[2],
        "kind": str(info.kind),
        "asynchronous": info.asynchronous,
        "signature": f"{'async ' if inspect.iscoroutinefunction(function) else ''}def {name}{_signature(function)}",
        "doc": inspect.getdoc(function) or "",
        "implementers": [impl.plugin_name for impl in manager.implementations(name)],
    }


def _signature(function: Any) -> str:
    # Annotations are strings already; str() of the whole would quote each.
    signature = inspect.signature(function)
    words = [f"{each.name}: {each.annotation}" for each in signature.parameters.values()]
    return f"({', '.join(words)}) -> {signature.return_annotation}"


def _print(hook: dict[str, Any]) -> None:
    print(style(hook["signature"], "bold"))
    print(f"  {hook['kind']}, phase {hook['phase']}\n")
    for line in hook["doc"].splitlines():
        print(f"  {line}".rstrip())
    print("\n  Implemented by, in call order:")
    for number, plugin in enumerate(hook["implementers"], 1):
        print(f"  {number}. {plugin}")
    if not hook["implementers"]:
        print("  nobody")
