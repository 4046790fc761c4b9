"""Signalling a command's whole tree, from inside its container.

The engine cannot: it knows an exec's first process only. So a second exec runs a small sh script, as the same user
(never with more rights: it runs in a place that the agent may have prepared), which finds the command's processes by
the mark in their environment, and whatever descends from or shares a session with one of those. That reaches children
that called setsid or forked twice. One that also emptied its environment and lost its parent is only ended with the
container.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from moat_core.errors import EngineError
from moat_plugins.docker.gone import gone_if_missing
from moat_plugins.docker.hijack import hijack

if TYPE_CHECKING:
    from moat_plugins.docker.client import Engine

__all__ = ["MARK", "signal_tree"]

MARK = "MOAT_EXEC_ID"
"""The variable that marks a command's processes."""
_ROUNDS = 30
_TEXT_BYTES = 4096
_ATTEMPTS = 5
_PAUSE_S = 0.3

# $1 the mark, $2 the signal, $3 how often to look again. grep reads all environments in one process. What it finds is
# completed by passes over /proc/*/stat, read with the shell alone: parent and session, after the last parenthesis.
# A zombie has no environment any more, and nothing to be killed.
SCRIPT = """\
find_tree() {
  tree=" "
  for file in $(grep -lsz "^MOAT_EXEC_ID=$1\\$" /proc/[0-9]*/environ); do
    pid=${file#/proc/}; tree="$tree${pid%%/*} "
  done
  [ "$tree" != " " ] || return 0
  more=1
  while [ -n "$more" ]; do
    more=
    for file in /proc/[0-9]*/stat; do
      pid=${file#/proc/}; pid=${pid%%/*}
      case $tree in *" $pid "*) continue ;; esac
      { read -r line <"$file"; } 2>/dev/null || continue
      set -- ${line##*) }
      [ "$1" != Z ] && [ "$pid" != 1 ] && [ "$pid" != $$ ] || continue
      case $tree in *" $2 "* | *" $4 "*) tree="$tree$pid "; more=1 ;; esac
    done
  done
}
mark=$1 signal=$2 rounds=$3
while [ "$rounds" -gt 0 ]; do
  find_tree "$mark"
  [ "$tree" != " " ] || exit 0
  kill -"$signal" $tree 2>/dev/null
  rounds=$((rounds - 1))
done
[ "$3" = 1 ] || { echo "still there:$tree" >&2; exit 1; }
"""


async def signal_tree(engine: Engine, container: str, mark: str, number: int, *, user: str) -> None:
    """Send signal NUMBER to all processes with MARK and what belongs to them; for SIGKILL until none is left.

    A container that is short of processes (a fork bomb) may not be able to run the script at once; it is tried again.

    Raises:
        SandboxGone: The container is not running.
        EngineError: Some are still there after many rounds.
    """
    rounds = _ROUNDS if number == 9 else 1  # noqa: PLR2004 - SIGKILL, everywhere
    argv = ["/bin/sh", "-c", SCRIPT, "moat-kill", mark, str(number), str(rounds)]
    code, text = -1, ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            await anyio.sleep(_PAUSE_S)
        code, text = await _run(engine, container, argv, user)
        if code == 0:
            return
    raise EngineError(
        "The command's processes could not all be signalled.",
        hint="`moat stop` ends the whole container.",
        exit_code=code,
        output=text,
    )


async def _run(engine: Engine, container: str, argv: list[str], user: str) -> tuple[int, str]:
    config = {"Cmd": argv, "User": user, "AttachStdout": True, "AttachStderr": True}
    with gone_if_missing(), engine.calling("signal a command"):
        exec_id = await engine.containers.create_exec(container, config)
        stream = await hijack(engine, "signal a command", f"/exec/{exec_id}/start", body={"Detach": False}, raw=False)
        text = b""
        try:
            while (piece := await stream.receive()) is not None:
                text = (text + piece.data)[:_TEXT_BYTES]
        finally:
            await stream.aclose()
        while (found := await engine.containers.inspect_exec(exec_id))["Running"]:  # noqa: ASYNC110 - no event for it
            await anyio.sleep(0.01)
    return int(found["ExitCode"] or 0), text.decode("utf-8", "replace").strip()
