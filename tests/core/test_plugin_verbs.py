"""Verbs that plugins bring: what goes wrong in them is their plugin's, in one sentence."""

from __future__ import annotations

import pytest

VERB = """\
import click
from moat_core import hookimpl
from moat_core.errors import UsageError
from moat_core.types import CommandInfo

@click.command()
def odd():
    {body}

@hookimpl
def moat_register_commands():
    return [CommandInfo("odd", "Odd.", "{load}")]
"""


@pytest.mark.parametrize(
    ("body", "load", "code", "said"),
    [
        ("raise ValueError('no')", "oddity:odd", 125, "Plugin 'oddity' failed in the verb odd: ValueError: no"),
        ("raise ExceptionGroup('g', [KeyError('k')])", "oddity:odd", 125, "the verb odd: KeyError: 'k'"),
        ("raise UsageError('Mine.')", "oddity:odd", 2, "Mine."),
        ("raise SystemExit(7)", "oddity:odd", 7, ""),
        ("click.get_current_context().exit(5)", "oddity:odd", 5, ""),
        ("pass", "oddity:even", 125, "Plugin 'oddity'"),
        ("pass", "no_such_module:odd", 125, "Plugin 'oddity'"),
    ],
)
def test_a_verb_that_raises_is_its_plugins_fault(moat, body, load, code, said):
    """Exit 125, its plugin and one sentence, no traceback; its own ends and ours stay what they are."""
    moat.file("oddity.py", VERB.format(body=body, load=load))
    environ = {"MOAT_PLUGINS": "moat_core.testing.fake,oddity", "PYTHONPATH": str(moat.workspace)}
    done = moat.cli("odd", env=environ)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert said in done.stderr
