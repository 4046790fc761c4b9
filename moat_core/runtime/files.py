"""Files in and out of a run, through commands executed inside.

Never through an engine's archive API: under gVisor that one does not see what a started container wrote, and what
it puts in can vanish (the root overlay is private to the sandbox). Streams through ``exec`` mean the same under
every OCI runtime. The shell's own tests tell the errors apart, by exit code; nothing that the sandbox says is
parsed.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import anyio
import anyio.to_thread

from moat_core.errors import PathDenied, PathIsDirectory, PathMissing, PathNotDirectory, SandboxError
from moat_core.runtime.exec import exec_command
from moat_core.types import Command, ExecResult

if TYPE_CHECKING:
    from moat_core.runtime.base import Sandbox

__all__ = ["READ_LIMIT_BYTES", "download", "read", "upload", "write"]

READ_LIMIT_BYTES = 100 * 1024 * 1024
_MISSING, _IS_DIRECTORY, _DENIED, _NOT_DIRECTORY = 91, 92, 93, 94
_CHUNK = 256 * 1024

_READ = f"""[ -e "$1" ] || exit {_MISSING}
[ ! -d "$1" ] || exit {_IS_DIRECTORY}
[ -r "$1" ] || exit {_DENIED}
exec cat -- "$1" """
_WRITE = f"""[ ! -d "$1" ] || exit {_IS_DIRECTORY}
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
    result = await exec_command(sandbox, _sh(_READ, path), limit_bytes=limit_bytes)
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
    local = anyio.Path(source)
    if not await local.exists():
        raise FileNotFoundError(f"There is no {source} to upload.")
    async with sandbox.open_process(_sh(_UNPACK, target, stdin=True)) as process:
        async for chunk in _packed(Path(source)):
            try:
                await process.write(chunk)
            except (BrokenPipeError, ConnectionError):
                break
        await process.close_stdin()
        stderr = b"".join([output.data async for output in process if output.stream == "stderr"])
        code = await process.wait()
    _check(ExecResult(("tar",), code, stderr=stderr), target)


async def download(sandbox: Sandbox, source: str, target: str | os.PathLike[str]) -> None:
    """Copy the file or folder SOURCE out of the run into the host's folder TARGET.

    The archive comes from code that nobody trusts: only plain files, folders and links that stay inside TARGET
    are made (`tarfile.data_filter`), and device files or set-uid bits never.

    Raises:
        PathMissing: There is nothing at SOURCE.
        SandboxError: The archive is broken or wants to reach outside TARGET.
    """
    parent, name = posixpath.split(source.rstrip("/") or "/")
    command = _sh(_PACK, source, parent or ".", name or ".")
    folder = Path(target)
    await anyio.Path(folder).mkdir(parents=True, exist_ok=True)
    async with anyio.TemporaryFile() as spool:
        async with sandbox.open_process(command) as process:
            async for output in process:
                if output.stream == "stdout":
                    await spool.write(output.data)
            _check(ExecResult(("tar",), await process.wait()), source)
        await spool.seek(0)
        await anyio.to_thread.run_sync(_extract, spool.wrapped, folder)


def _extract(archive: IO[bytes], folder: Path) -> None:
    try:
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            tar.extractall(folder, filter="data")
    except tarfile.TarError as error:
        raise SandboxError(f"What the run sent cannot be unpacked: {error}.") from error


async def _packed(source: Path) -> AsyncIterator[bytes]:
    """Yield a tar of SOURCE, made in a thread, through a pipe of bounded size."""
    reader, writer = os.pipe()

    def pack() -> None:
        with open(writer, "wb") as pipe, tarfile.open(fileobj=pipe, mode="w|") as tar:
            tar.add(source, arcname=source.name)

    async with anyio.create_task_group() as group:
        group.start_soon(_quietly, pack)
        async with await anyio.open_file(reader, "rb") as pipe:
            while chunk := await pipe.read(_CHUNK):
                yield chunk


async def _quietly(pack: object) -> None:
    try:
        await anyio.to_thread.run_sync(pack)  # type: ignore[arg-type]
    except BrokenPipeError:
        pass  # the reader has left


def _sh(script: str, *arguments: str, stdin: bool = False) -> Command:
    return Command(("/bin/sh", "-c", script, "moat-files", *arguments), stdin=stdin)


def _check(result: ExecResult, path: str) -> None:
    kinds: dict[int, tuple[type[SandboxError], str]] = {
        _MISSING: (PathMissing, "does not exist in the run"),
        _IS_DIRECTORY: (PathIsDirectory, "is a folder"),
        _DENIED: (PathDenied, "may not be accessed by the run's user"),
        _NOT_DIRECTORY: (PathNotDirectory, "has a file where a folder must be"),
    }
    if result.exit_code in kinds:
        kind, what = kinds[result.exit_code]
        raise kind(f"{path} {what}.")
    if result.exit_code != 0:
        said = result.stderr.decode("utf-8", "replace").strip()
        raise SandboxError(f"{path} cannot be accessed (exit code {result.exit_code}).", hint=said)
