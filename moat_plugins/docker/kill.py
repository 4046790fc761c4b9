"""Signalling a command's whole tree, from inside its container.

The engine cannot: it knows an exec's first process only. So a second exec runs a small sh script, as the same user
(never with more rights: it runs in a place that the agent may have prepared), which finds the command's processes by
the mark in their environment, and whatever descends from or shares a session with one of those. That reaches children
that called setsid or forked twice. One that also emptied its environment and lost its parent is only ended with the
container.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from moat_core.errors import EngineError
from moat_plugins.docker.gone import gone_if_missing
from moat_plugins.docker.hijack import hijack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moat_plugins.docker.client import Engine

__all__ = ["MARK", "signal_tree"]

MARK = "MOAT_EXEC_ID"
"""The variable that marks a command's processes."""
_ROUNDS = 30
_TEXT_BYTES = 4096
_ATTEMPTS = 5
_PAUSE_S = 0.3
_SPARE = 64

# $1 the mark, $2 the signal, $3 how often to look again. What carries the mark is completed by passes over
# /proc/*/stat, read with the shell alone: parent and session, after the last parenthesis. A zombie has no environment
# any more, and nothing to be killed. grep reads all environments at once; without it (a process cannot be had in a
# container that is full of them) the shell reads them itself: slower, and it drops the NULs between the entries.
SCRIPT = """\
has_mark() {
  while read -r line; do
    case $line in *MOAT_EXEC_ID=$1*) return 0 ;; esac
  done
  case $line in *MOAT_EXEC_ID=$1*) return 0 ;; esac
  return 1
}
find_marked() {
  if [ -n "$frugal" ]; then
    marked=
    for file in /proc/[0-9]*/environ; do
      { has_mark "$1" <"$file" && marked="$marked $file"; } 2>/dev/null
    done
  else
    marked=$(grep -lsz "^MOAT_EXEC_ID=$1\\$" /proc/[0-9]*/environ)
  fi
}
find_tree() {
  tree=" "
  find_marked "$1"
  for file in $marked; do
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
mark=$1 signal=$2 rounds=$3 frugal=$4
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

    A container that is out of processes (a fork bomb) cannot run the script; it is given some for that time.

    Raises:
        SandboxGone: The container is not running.
        EngineError: Some are still there after many rounds.
    """
    rounds = _ROUNDS if number == 9 else 1  # noqa: PLR2004 - SIGKILL, everywhere
    argv = ["/bin/sh", "-c", SCRIPT, "moat-kill", mark, str(number), str(rounds)]
    code, text = await _run(engine, container, [*argv, ""], user)
    if code == 0:
        return
    async with _more_processes(engine, container):
        for _ in range(_ATTEMPTS):
            code, text = await _run(engine, container, [*argv, "frugal"], user)
            if code == 0:
                return
            await anyio.sleep(_PAUSE_S)
    raise EngineError(
        "The command's processes could not all be signalled.",
        hint="`moat stop` ends the whole container.",
        exit_code=code,
        output=text,
    )


@asynccontextmanager
async def _more_processes(engine: Engine, container: str) -> AsyncIterator[None]:
    """Let the container have some more processes for a moment: to begin an exec takes about ten threads."""
    with gone_if_missing():
        limit = (await engine.containers.inspect(container))["HostConfig"].get("PidsLimit") or 0
        if limit > 0:
            await engine.containers.limit_processes(container, limit + _SPARE)
    try:
        yield
    finally:
        if limit > 0:
            with anyio.CancelScope(shield=True), gone_if_missing():
                await engine.containers.limit_processes(container, limit)


async def _run(engine: Engine, container: str, argv: list[str], user: str) -> tuple[int, str]:
    config = {"Cmd": argv, "User": user, "AttachStdout": True, "AttachStderr": True}
    with gone_if_missing(), engine.calling("signal a command"):
        exec_id = await engine.containers.create_exec(container, config)
        stream = await hijack(engine, "signal a command", f"/exec/{exec_id}/start", body={"Detach": False}, raw=False)
        text = b""
        try:
            while (piece := await stream.receive()) is not None:
                text += piece.data
                if len(text) > _TEXT_BYTES:
                    raise EngineError(
                        "The command's processes could not be signalled: the image's sh is none.",
                        hint="`moat stop` ends the whole container.",
                    )
        finally:
            await stream.aclose()
        while (found := await engine.containers.inspect_exec(exec_id))["Running"]:  # noqa: ASYNC110 - no event for it
            await anyio.sleep(0.01)
    return int(found["ExitCode"] or 0), text.decode("utf-8", "replace").strip()
