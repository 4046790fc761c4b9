"""Files in and out of a run, through commands executed inside.

Never through an engine's archive API: under gVisor that one does not see what a started container wrote, and what
it puts in can vanish (the root overlay is private to the sandbox). Streams through ``exec`` mean the same under
every OCI runtime. The shell's own tests tell the errors apart, by exit code; nothing that the sandbox says is
parsed.
"""

from __future__ import annotations

import errno
import functools
import os
import posixpath
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import attrs

from moat_core import checks
from moat_core.checks import Content, PathName
from moat_core.errors import PathDenied, PathIsDirectory, PathMissing, PathNotDirectory, SandboxError
from moat_core.host_path import hold, nobody
from moat_core.runtime.exec import Stdin, beside, exec_command
from moat_core.runtime.host_files import make_folder, pack
from moat_core.runtime.unpack import unpack
from moat_core.types import Command, ExecResult, Output

if TYPE_CHECKING:
    from moat_core.host_path import HeldPath, IsShared
    from moat_core.runtime.base import Sandbox

__all__ = ["DOWNLOAD_LIMIT_BYTES", "READ_LIMIT_BYTES", "download", "read", "upload", "write"]

READ_LIMIT_BYTES = 100 * 1024 * 1024
"""The most that `read` returns unless asked otherwise."""
DOWNLOAD_LIMIT_BYTES = 4 * 1024 * 1024 * 1024
"""The most that `download` takes of the host's disk unless asked otherwise."""
_MISSING, _IS_DIRECTORY, _DENIED, _NOT_DIRECTORY, _SPECIAL = 91, 92, 93, 94, 95
_CHUNK = 256 * 1024
_STDERR_BYTES = 16 * 1024
_NOISE_BYTES = 1024 * 1024
"""More than this of warnings no honest tar has."""
_TAR_BYTES = 1024 * 1024
"""What an archive may have of headers and padding without their being counted."""

# A pipe or a socket put where a file was would keep us waiting for ever, and /dev/zero would never end.
_PLAIN = f'[ ! -p "$1" ] && [ ! -S "$1" ] || exit {_SPECIAL}'

_READ = f"""[ -e "$1" ] || exit {_MISSING}
[ ! -d "$1" ] || exit {_IS_DIRECTORY}
{_PLAIN}
[ -r "$1" ] || exit {_DENIED}
exec head -c "$2" -- "$1" """
_WRITE = f"""[ ! -d "$1" ] || exit {_IS_DIRECTORY}
{_PLAIN}
mkdir -p -- "$2" 2>/dev/null || {{ [ -e "$2" ] && [ ! -d "$2" ] && exit {_NOT_DIRECTORY}; exit {_DENIED}; }}
if [ -e "$1" ]; then [ -w "$1" ] || exit {_DENIED}; else [ -w "$2" ] || exit {_DENIED}; fi
exec cat >"$1" """
_PACK = f"""[ -e "$1" ] || exit {_MISSING}
cd -- "$2" && exec tar -cf - -- "$3" """
_UNPACK = f"""mkdir -p -- "$1" 2>/dev/null || exit {_DENIED}
[ -w "$1" ] || exit {_DENIED}
exec tar -xf - -C "$1" """


async def read(sandbox: Sandbox, path: PathName, *, limit_bytes: int = READ_LIMIT_BYTES) -> bytes:
    """Return the content of the file PATH (absolute, or relative to the working folder).

    Args:
        limit_bytes: The most that it may have; checked while it comes, whatever sends it.

    Raises:
        PathMissing, PathIsDirectory, PathDenied: As `open` would (they are its errors, too).
        InvalidType, InvalidValue: As `open` would, if PATH cannot be one (a `TypeError`, a `ValueError`).
        SandboxError: It has more than LIMIT_BYTES, or cannot be read for another reason.
    """
    name = _inside(path, "path")
    limit = checks.count(limit_bytes, "limit_bytes")
    too_much = SandboxError(f"{name} has more than {limit} bytes.", hint="Raise limit_bytes, or download it.")
    guard = _Guard(limit, too_much)
    result = await _run(sandbox, (_READ, name, str(limit + 1)), guard=guard, kept=limit)
    _check(result, name)
    return result.stdout


async def write(sandbox: Sandbox, path: PathName, data: Content) -> None:
    """Write DATA to the file PATH, making the folders above it.

    Args:
        data: Bytes, or whatever else has a buffer, as it is now; a string is written as UTF-8.

    Raises:
        PathIsDirectory, PathNotDirectory, PathDenied: As `open` would.
        InvalidType, InvalidValue: PATH or DATA cannot be such; the file is as it was.
    """
    name = _inside(path, "path")
    whole = checks.content(data)
    _check(await _run(sandbox, (_WRITE, name, posixpath.dirname(name) or "."), stdin=whole), name)


async def upload(sandbox: Sandbox, source: PathName, target: PathName, *, given: IsShared = nobody) -> None:
    """Copy the host's file or folder SOURCE into the folder TARGET, under its own name.

    Args:
        given: Tells which folders of the host runs were ever given to write to: no link is followed below them.

    Raises:
        FileNotFoundError: No such file on the host.
        HostPathError: A link leads to SOURCE, in a folder that a run can write to.
        InvalidType, InvalidValue: SOURCE or TARGET cannot be a path.
        PathDenied: The run's user may not write there.
    """
    origin = Path(checks.path(source, "source"))
    folder = _inside(target, "target")
    try:
        held = hold(os.path.abspath(origin), given)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, f"There is no {origin} to upload") from None
    with held:
        reader, writer = os.pipe()
        # A thread packs into a pipe of bounded size; whoever leaves first closes its end, and the other one stops.
        async with beside(functools.partial(_pack, held, writer)):
            with open(reader, "rb", buffering=0) as pipe:
                chunks = functools.partial(anyio.wrap_file(pipe).read, _CHUNK)
                result = await _run(sandbox, (_UNPACK, folder), stdin=chunks)
            _check(result, folder)


async def download(
    sandbox: Sandbox,
    source: PathName,
    target: PathName,
    *,
    limit_bytes: int = DOWNLOAD_LIMIT_BYTES,
    given: IsShared = nobody,
) -> None:
    """Copy the file or folder SOURCE out of the run into the host's folder TARGET.

    The archive comes from code that nobody trusts, see `moat_core.runtime.unpack`: it is taken whole, looked through,
    and unpacked only if it holds nothing but SOURCE. What is new in TARGET appears at once when all of it is there;
    where a folder of that name is already, the files are put into it one by one, and an error may leave some.

    Args:
        limit_bytes: The most that the files may have together, holes counted, and the archive (beyond its first MiB of
            headers); checked while it comes. For a moment twice as much lies in TARGET.
        given: As for `upload`.

    Raises:
        HostPathError: A link leads to TARGET, in a folder that a run can write to.
        PathMissing: There is nothing at SOURCE.
        InvalidType, InvalidValue: SOURCE or TARGET cannot be a path.
        SandboxError: The archive is broken, has more than LIMIT_BYTES or wants to reach outside TARGET.
    """
    origin = _inside(source, "source")
    folder = Path(checks.path(target, "target"))
    limit = checks.count(limit_bytes, "limit_bytes")
    parent, name = posixpath.split(origin.rstrip("/") or "/")
    with make_folder(folder, given) as place:
        async with anyio.TemporaryFile(dir=str(place)) as spool:
            too_much = SandboxError(f"{origin} has more than {limit} bytes.", hint="Raise limit_bytes.")
            guard = _Guard(limit + _TAR_BYTES, too_much, spool.write)
            _check(await _run(sandbox, (_PACK, origin, parent or ".", name or "."), guard=guard), origin)
            await spool.seek(0)
            job = functools.partial(unpack, spool.wrapped, place, only=name or ".", limit_bytes=limit)
            await anyio.to_thread.run_sync(job)


@attrs.define
class _Guard:
    """Sees what a program of the image says while it comes: who says too much is not what it seems, and is stopped.

    Args:
        limit_bytes: The most of its stdout.
        error: What is raised beyond that.
        keep: Given each piece of it.
    """

    limit_bytes: int
    error: SandboxError
    keep: Callable[[bytes], Awaitable[object]] | None = None
    _seen: int = 0
    _noise: int = 0

    async def __call__(self, output: Output) -> None:
        if output.stream == "stderr":
            self._noise += len(output.data)
            if self._noise > _NOISE_BYTES:
                raise SandboxError("The run's own programs for files do not do what they are asked for.")
            return
        self._seen += len(output.data)
        if self._seen > self.limit_bytes:
            raise self.error
        if self.keep is not None:
            await self.keep(output.data)


async def _run(
    sandbox: Sandbox, words: tuple[str, ...], *, stdin: Stdin | None = None, guard: _Guard | None = None, kept: int = 0
) -> ExecResult:
    """Run the script that is the first of WORDS, with the others as its arguments."""
    script, *arguments = words
    strange = SandboxError("The run's own programs for files do not do what they are asked for.")
    command = Command(("/bin/sh", "-c", script, "moat-files", *arguments))
    return await exec_command(
        sandbox,
        command,
        stdin=stdin,
        limit_bytes=max(kept, _STDERR_BYTES),
        on_output=guard or _Guard(_STDERR_BYTES, strange),
    )


def _inside(path: PathName, what: str) -> str:
    """Return PATH as the scripts take it: a file called ``-`` would be standard input to some programs."""
    if isinstance(path, (str, bytes)) and not path:
        raise PathMissing("The empty path names no file.")  # as `open` says it
    name = checks.path(path, what)
    return f"./{name}" if name.startswith("-") else name


async def _pack(source: HeldPath, writer: int) -> None:
    try:
        with open(writer, "wb") as pipe:
            await anyio.to_thread.run_sync(pack, source, pipe)
    except BrokenPipeError:
        pass  # the reader has left


def _check(result: ExecResult, path: str) -> None:
    kinds: dict[int, tuple[type[SandboxError], str]] = {
        _MISSING: (PathMissing, "does not exist in the run"),
        _IS_DIRECTORY: (PathIsDirectory, "is a folder"),
        _DENIED: (PathDenied, "may not be accessed by the run's user"),
        _NOT_DIRECTORY: (PathNotDirectory, "has a file where a folder must be"),
        _SPECIAL: (SandboxError, "is a pipe or a socket"),
    }
    if result.exit_code in kinds:
        kind, what = kinds[result.exit_code]
        raise kind(f"{path} {what}.")
    if result.exit_code != 0:
        said = result.stderr.decode("utf-8", "replace").strip()
        raise SandboxError(f"{path} cannot be accessed (exit code {result.exit_code}).", hint=said)
