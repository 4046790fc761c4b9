"""The table of attacks: each row is done twice, against the defence and, as its control, without it.

A row says what an attacker does and returns whether it worked, judged by the host's state afterwards. Defended, it
must not work; as a control it must, or the row proves nothing. How the defence is taken away is the row's own
business: a monkeypatch of the one function that decides, or the bare engine in the guard's place.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

__all__ = ["attack"]


def attack(kind: str, rows: Mapping[str, Any] | Iterable[str] | None = None) -> Callable[[Any], Any]:
    """Make a test function a row, or as many as ROWS has, of the table.

    Args:
        kind: What is attacked, in a word or two; ``pytest -m attack --collect-only`` lists the rows.
        rows: Spelling or moment of the attack -> what the function is given as ``row``; names alone are given as such.

    The function has an argument ``defended`` and returns whether the attack worked: ``bool``, or a text of evidence
    (``""``: it did not).
    """

    def decorate(function: Any) -> Any:
        def judge(worked: object, *, defended: bool) -> None:
            assert worked is not None, "an attack returns whether it worked"
            if defended:
                assert not worked, f"the attack worked: {worked}"
            else:
                assert worked, "without the defence the attack must work, or the row proves nothing"

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def wrapper(*args: Any, **arguments: Any) -> None:
                judge(await function(*args, **arguments), defended=arguments["defended"])
        else:

            @functools.wraps(function)
            def wrapper(*args: Any, **arguments: Any) -> None:
                judge(function(*args, **arguments), defended=arguments["defended"])

        made: Any = pytest.mark.parametrize("defended", [True, False], ids=["defended", "control"])(wrapper)
        if rows is not None:
            table = rows if isinstance(rows, Mapping) else {name: name for name in rows}
            made = pytest.mark.parametrize("row", list(table.values()), ids=list(table))(made)
        return pytest.mark.attack(kind)(made)

    return decorate
