"""Files in and out of a run, through commands executed inside.

Never through an engine's archive API: under gVisor that one does not see what a started container wrote, and what
it puts in can vanish (the root overlay is private to the sandbox). Streams through ``exec`` mean the same under
every OCI runtime. The shell's own tests tell the errors apart, by exit code; nothing that the sandbox says is
parsed.
"""

from __future__ import annotations

import functools
import os
import posixpath
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from moat_core.errors import PathDenied, PathIsDirectory, PathMissing, PathNotDirectory, SandboxError
from moat_core.runtime.exec import beside, exec_command
from moat_core.runtime.unpack import unpack
from moat_core.types import Command, ExecResult, Output

if TYPE_CHECKING:
    from moat_core.runtime.base import Sandbox

__all__ = ["READ_LIMIT_BYTES", "download", "read", "upload", "write"]

READ_LIMIT_BYTES = 100 * 1024 * 1024
"""The most that `read` returns unless asked otherwise."""
DOWNLOAD_LIMIT_BYTES = 4 * 1024 * 1024 * 1024
"""The most that `download` takes of the host's disk unless asked otherwise."""
_MISSING, _IS_DIRECTORY, _DENIED, _NOT_DIRECTORY, _SPECIAL = 91, 92, 93, 94, 95
_CHUNK = 256 * 1024
_STDERR_BYTES = 16 * 1024

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
cd "$2" && exec tar -cf - -- "$3" """
_UNPACK = f"""mkdir -p -- "$1" 2>/dev/null || exit {_DENIED}
[ -w "$1" ] || exit {_DENIED}
exec tar -xf - -C "$1" """


async def read(sandbox: Sandbox, path: str, *, limit_bytes: int = READ_LIMIT_BYTES) -> bytes:
    """Return the content of the file PATH (absolute, or relative to the working folder).

    Raises:
        PathMissing, PathIsDirectory, PathDenied: As `open` would (they are its errors, too).
        SandboxError: It has more than LIMIT_BYTES, or cannot be read for another reason.
    """
    result = await exec_command(sandbox, _sh(_READ, path, str(limit_bytes + 1)), limit_bytes=limit_bytes)
    _check(result, path)
    if result.truncated:
        raise SandboxError(f"{path} has more than {limit_bytes} bytes.", hint="Raise limit_bytes, or download it.")
    return result.stdout


async def write(sandbox: Sandbox, path: str, data: bytes) -> None:
    """Write DATA to the file PATH, making the folders above it.

    Raises:
        PathIsDirectory, PathNotDirectory, PathDenied: As `open` would.
    """
    result = await exec_command(sandbox, _sh(_WRITE, path, posixpath.dirname(path) or "."), stdin=data)
    _check(result, path)


async def upload(sandbox: Sandbox, source: str | os.PathLike[str], target: str) -> None:
    """Copy the host's file or folder SOURCE into the folder TARGET, under its own name.

    Raises:
        FileNotFoundError: No such file on the host.
        PathDenied: The run's user may not write there.
    """
    if not await anyio.Path(source).exists():
        raise FileNotFoundError(f"There is no {source} to upload.")
    reader, writer = os.pipe()
    # A thread packs into a pipe of bounded size; whoever leaves first closes its end, and the other one stops.
    async with beside(functools.partial(_pack, Path(source), writer)):
        with open(reader, "rb", buffering=0) as pipe:
            chunks = functools.partial(anyio.wrap_file(pipe).read, _CHUNK)
            result = await exec_command(sandbox, _sh(_UNPACK, target), stdin=chunks, limit_bytes=_STDERR_BYTES)
        _check(result, target)


async def download(
    sandbox: Sandbox, source: str, target: str | os.PathLike[str], *, limit_bytes: int = DOWNLOAD_LIMIT_BYTES
) -> None:
    """Copy the file or folder SOURCE out of the run into the host's folder TARGET.

    The archive comes from code that nobody trusts, see `moat_core.runtime.unpack`.

    Raises:
        PathMissing: There is nothing at SOURCE.
        SandboxError: The archive is broken, has more than LIMIT_BYTES or wants to reach outside TARGET.
    """
    parent, name = posixpath.split(source.rstrip("/") or "/")
    folder = Path(target)
    await anyio.Path(folder).mkdir(parents=True, exist_ok=True)
    async with anyio.TemporaryFile(dir=str(folder)) as spool:

        async def keep(output: Output) -> None:
            if output.stream == "stdout":
                if await spool.tell() + len(output.data) > limit_bytes:
                    raise SandboxError(f"{source} has more than {limit_bytes} bytes.", hint="Raise limit_bytes.")
                await spool.write(output.data)

        command = _sh(_PACK, source, parent or ".", name or ".")
        _check(await exec_command(sandbox, command, limit_bytes=_STDERR_BYTES, on_output=keep), source)
        await spool.seek(0)
        await anyio.to_thread.run_sync(unpack, spool.wrapped, folder)


async def _pack(source: Path, writer: int) -> None:
    def pack() -> None:
        with tarfile.open(fileobj=pipe, mode="w|") as tar:
            tar.add(source, arcname=source.resolve().name)

    try:
        with open(writer, "wb") as pipe:
            await anyio.to_thread.run_sync(pack)
    except BrokenPipeError:
        pass  # the reader has left


def _sh(script: str, *arguments: str) -> Command:
    return Command(("/bin/sh", "-c", script, "moat-files", *arguments))


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
