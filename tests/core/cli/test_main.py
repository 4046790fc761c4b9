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
