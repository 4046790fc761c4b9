"""What the command makes of its arguments before and after any verb."""

from __future__ import annotations

import json

import pytest


@pytest.mark.parametrize(
    ("argv", "as_json"),
    [
        (["stop", "nobody", "--", "--json"], False),
        (["run", "nowhere", "--", "tool", "--json"], False),
        (["exec", "nobody", "tool", "--json"], False),
        (["-v", "exec", "nobody", "tool", "--json"], False),
        (["--without", "exec", "status", "--json"], True),
        (["run", "nowhere", "--dry-run", "--json", "--", "tool"], True),
        (["run", "exec", "--dry-run", "--json"], True),
    ],
)
def test_the_users_json_is_not_ours(machine, moat, argv, as_json):
    """An error is an object if --json was meant for us, and a sentence if it is the command's inside."""
    result = moat(*argv)
    assert result.status != 0
    if as_json:
        assert "message" in json.loads(result.err.splitlines()[-1])["error"]
    else:
        assert "error: " in result.err
        assert "{" not in result.err


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("bogus", None),
        ("ps", None),
        ("frobnicate", None),
        ("lst", "list"),
        ("satus", "status"),
        ("destory", "destroy"),
        ("log", "logs"),
        ("plugin", "plugins"),
        ("rnu", "run"),
    ],
)
def test_a_typo_is_told_from_another_word(moat, word, meant):
    """What is near is offered; a wholly different word gets the list of verbs instead."""
    result = moat(word)
    assert result.status == 2
    assert (f"Did you mean {meant}" if meant else "See `moat --help`") in result.err


def test_a_command_without_dashes_is_told_where_it_goes(machine, moat):
    """What new users do wrong first is told with its mending, and nothing is made."""
    result = moat("run", "ls")
    assert (result.status, result.out) == (2, "")
    assert "There is no folder 'ls' here" in result.err
    assert "moat run -- ls" in result.err


@pytest.mark.parametrize("verb", ["logs", "stop", "run", "exec", "config", "system"])
def test_usage_says_what_may_be_left_out(moat, verb):
    """In brackets is what need not be there; nothing is cut off."""
    result = moat(verb, "--help")
    usage = result.out.splitlines()[0]
    assert "  " not in usage
    assert ("[RUN]" in usage) == (verb in {"logs", "stop"})
    assert "..." not in result.out.partition("Commands:")[2]
