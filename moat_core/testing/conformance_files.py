"""The part of `SandboxConformance` that is about files: they go in and out unchanged, and errors are Python's own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import anyio
import pytest

from moat_core.errors import SandboxError
from moat_core.runtime import files
from moat_core.runtime.exec import exec_command
from moat_core.types import Command

if TYPE_CHECKING:
    from pathlib import Path

    from moat_core.runtime.base import Sandbox

__all__ = ["FileConformance"]

_FOLDER = "/tmp/moat-files"
_MIB = 1024 * 1024
NAMES = ["plain", "with space", "-dash", "ä漢", "new\nline", "quote'\"", "$HOME", "back\\slash", ".hidden", "x" * 200]
NAMES += ["no\udcffutf8\udcfe", "\udce4"]  # bytes that are not UTF-8, as `os.fsdecode` has them


async def _sh(sandbox: Sandbox, script: str, *arguments: str) -> bytes:
    result = await exec_command(sandbox, Command(("/bin/sh", "-euc", script, "sh", *arguments)))
    assert result.exit_code == 0, result.stderr
    return result.stdout


class FileConformance:
    """Inherited by `SandboxConformance`, which puts all in one event loop."""

    @pytest.mark.parametrize("data", [b"", b"x", b"no newline", bytes(range(256)) * 3, b"\0" * (2 * _MIB)], ids=len)
    async def test_a_file_is_read_as_it_was_written(self, sandbox: Sandbox, data: bytes) -> None:
        """Empty ones, binary ones, large ones; an older and longer one is replaced."""
        path = f"{_FOLDER}/round-trip"
        await files.write(sandbox, path, b"older and longer than a few bytes")
        await files.write(sandbox, path, data)
        assert await files.read(sandbox, path) == data

    @pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
    async def test_any_name_will_do(self, sandbox: Sandbox, name: str) -> None:
        """No shell takes a name for something else; folders above it are made."""
        path = f"{_FOLDER}/{name}/deeper/{name}"
        await files.write(sandbox, path, os.fsencode(name))
        assert await files.read(sandbox, path) == os.fsencode(name)
        assert await _sh(sandbox, 'ls -A -- "$1"', f"{_FOLDER}/{name}/deeper") == os.fsencode(name) + b"\n"

    async def test_reading_what_is_not_there(self, sandbox: Sandbox) -> None:
        """FileNotFoundError."""
        with pytest.raises(FileNotFoundError):
            await files.read(sandbox, f"{_FOLDER}/nothing/here")

    async def test_reading_or_writing_a_folder(self, sandbox: Sandbox) -> None:
        """IsADirectoryError."""
        await _sh(sandbox, f"mkdir -p {_FOLDER}/folder")
        with pytest.raises(IsADirectoryError):
            await files.read(sandbox, f"{_FOLDER}/folder")
        with pytest.raises(IsADirectoryError):
            await files.write(sandbox, f"{_FOLDER}/folder", b"x")

    async def test_writing_below_a_file(self, sandbox: Sandbox) -> None:
        """NotADirectoryError."""
        await files.write(sandbox, f"{_FOLDER}/file", b"x")
        with pytest.raises(NotADirectoryError):
            await files.write(sandbox, f"{_FOLDER}/file/below", b"x")

    async def test_what_may_not_be_touched(self, sandbox: Sandbox) -> None:
        """PermissionError, for reading and for writing; root may all, so this needs another user."""
        if await _sh(sandbox, "id -u") == b"0\n":
            pytest.skip("The sandbox's user is root, to whom nothing is forbidden.")
        await _sh(sandbox, f"mkdir -p {_FOLDER}; echo x >{_FOLDER}/locked; chmod 0 {_FOLDER}/locked")
        with pytest.raises(PermissionError):
            await files.read(sandbox, f"{_FOLDER}/locked")
        with pytest.raises(PermissionError):
            await files.write(sandbox, f"{_FOLDER}/locked", b"x")
        with pytest.raises(PermissionError):
            await files.write(sandbox, "/usr/moat-not-mine", b"x")

    async def test_a_file_beyond_the_limit_is_an_error(self, sandbox: Sandbox) -> None:
        """And one that has exactly so many bytes is not; nor does an endless one take for ever."""
        await files.write(sandbox, f"{_FOLDER}/large", b"x" * 1000)
        assert len(await files.read(sandbox, f"{_FOLDER}/large", limit_bytes=1000)) == 1000
        with pytest.raises(SandboxError, match="more than 999 bytes"):
            await files.read(sandbox, f"{_FOLDER}/large", limit_bytes=999)
        with pytest.raises(SandboxError, match="more than 999 bytes"):
            await files.read(sandbox, "/dev/zero", limit_bytes=999)

    async def test_a_pipe_in_the_place_of_a_file_does_not_keep_us_waiting(self, sandbox: Sandbox) -> None:
        """What the sandbox puts there is not trusted."""
        await _sh(sandbox, f"mkdir -p {_FOLDER}; rm -f {_FOLDER}/pipe; mkfifo {_FOLDER}/pipe")
        with pytest.raises(SandboxError, match="pipe"):
            await files.read(sandbox, f"{_FOLDER}/pipe")
        with pytest.raises(SandboxError, match="pipe"):
            await files.write(sandbox, f"{_FOLDER}/pipe", b"x")

    async def test_folders_go_in_and_out_unchanged(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """Contents, modes and links, of whatever names; more than any pipe holds."""
        source = tmp_path / "tree"
        (source / "deep" / "er").mkdir(parents=True)
        for number, name in enumerate(NAMES):
            (source / name).write_bytes(os.urandom(number * 50_000))
        (source / "deep" / "er" / "script").write_text("#!/bin/sh\n")
        (source / "deep" / "er" / "script").chmod(0o755)
        (source / "deep" / "link").symlink_to("er/script")
        (source / "deep" / "up").symlink_to("../plain")
        (source / "empty").mkdir()
        await files.upload(sandbox, source, f"{_FOLDER}/uploaded")
        assert await files.read(sandbox, f"{_FOLDER}/uploaded/tree/deep/link") == b"#!/bin/sh\n"
        await files.download(sandbox, f"{_FOLDER}/uploaded/tree", tmp_path / "back")
        back = tmp_path / "back" / "tree"
        assert _listing(back) == _listing(source)

    async def test_one_file_goes_in_and_out(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """Under its own name."""
        (tmp_path / "one").write_bytes(b"1")
        await files.upload(sandbox, tmp_path / "one", f"{_FOLDER}/single")
        await files.download(sandbox, f"{_FOLDER}/single/one", tmp_path / "out")
        assert (tmp_path / "out" / "one").read_bytes() == b"1"

    async def test_transfers_of_what_is_not_there(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """FileNotFoundError, whichever side it is missing on."""
        with pytest.raises(FileNotFoundError):
            await files.upload(sandbox, tmp_path / "nothing", _FOLDER)
        with pytest.raises(FileNotFoundError):
            await files.download(sandbox, f"{_FOLDER}/nothing", tmp_path)

    async def test_an_upload_to_where_nothing_may_be(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """An error of the sandbox, with a word why, however much there is to send."""
        (tmp_path / "large").write_bytes(b"\0" * (3 * _MIB))
        await files.write(sandbox, f"{_FOLDER}/in-the-way", b"x")
        with pytest.raises(SandboxError, match="in-the-way"):
            await files.upload(sandbox, tmp_path / "large", f"{_FOLDER}/in-the-way")

    async def test_a_download_beyond_the_limit_is_stopped(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """The sandbox does not decide how much of the host's disk it fills; nothing is left of what came."""
        await _sh(sandbox, f"mkdir -p {_FOLDER}; head -c 3000000 /dev/zero >{_FOLDER}/bulk")
        with pytest.raises(SandboxError, match="more than 1000000 bytes"):
            await files.download(sandbox, f"{_FOLDER}/bulk", tmp_path / "out", limit_bytes=1_000_000)
        assert list((tmp_path / "out").iterdir()) == []

    @pytest.mark.parametrize("what", ["download", "read"])
    async def test_a_transfer_is_cancelled_within_a_second(self, sandbox: Sandbox, tmp_path: Path, what: str) -> None:
        """Of a file that does not end; nothing of it goes on inside. A busy machine may take as long as a command."""
        path = f"{_FOLDER}/endless"
        await _sh(sandbox, 'mkdir -p "${1%/*}" && rm -f "$1" && truncate -s 200G "$1"', path)
        before = anyio.current_time()
        await _sh(sandbox, "true")
        command_s = anyio.current_time() - before
        with anyio.move_on_after(0.5 + command_s) as scope:
            if what == "read":
                await files.read(sandbox, path, limit_bytes=_MIB * _MIB)
            else:
                await files.download(sandbox, path, tmp_path, limit_bytes=_MIB * _MIB)
        took = anyio.current_time() - scope.deadline
        assert scope.cancelled_caught
        assert took < max(1.0, 4 * command_s), (took, command_s)
        script = "for each in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$each; echo; done 2>/dev/null || :"
        assert b"endless" not in await _sh(sandbox, script)
        assert list(tmp_path.iterdir()) == []


def _listing(folder: Path) -> dict[str, tuple[object, ...]]:
    listing: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            listing[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            listing[name] = ("folder",)
        else:
            listing[name] = ("file", path.read_bytes(), path.stat().st_mode & 0o111)
    return listing
