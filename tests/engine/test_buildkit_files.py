"""What our client sends is what `docker buildx build` sends: the same trees, for generated contexts and puzzles."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import socket
import stat
import subprocess

import anyio
import pytest

from moat_plugins.buildkit.api import BuildKit, ContextError, Output

pytestmark = pytest.mark.engine
COPY_ALL = "FROM scratch\nCOPY . /\n"


@pytest.fixture
async def buildkit(engine):
    """The engine's own."""
    async with BuildKit.connect(f"docker+{engine}") as connected:
        yield connected


def tree(root):
    """Everything of a folder: path -> type and mode, content or target; times of files; names of one file."""
    found, inodes = {}, {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            what = os.readlink(path) if stat.S_ISLNK(info.st_mode) else None
            if stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:
                    what = (file.read(), info.st_mtime_ns)
            short = os.path.relpath(path, os.fsencode(root))
            first = inodes.setdefault(info.st_ino, short) if info.st_nlink > 1 and what else None
            found[short] = (info.st_mode, what, first)
    return found


def buildx(context, dest, dockerfile=COPY_ALL, *argv):
    """The oracle's result. Permissions are given back so that it can be read and removed."""
    done = subprocess.run(
        ["docker", "buildx", "build", "-q", "-f", "-", "--output", f"type=local,dest={dest}", *argv, str(context)],
        input=dockerfile.encode(), capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr.decode()


async def both(buildkit, context, tmp_path, dockerfile=COPY_ALL, **options):
    """The trees that ours and theirs make of CONTEXT."""
    await buildkit.build(context, dockerfile_text=dockerfile, outputs=[Output("local", tmp_path / "ours")], **options)
    code, err = await anyio.to_thread.run_sync(buildx, context, tmp_path / "theirs", dockerfile)
    assert code == 0, err
    return tree(tmp_path / "ours"), tree(tmp_path / "theirs")


NAMES = [
    "a",
    "b",
    "ab",
    "a.txt",
    "b.log",
    "x y",
    "ä",
    "A",
    "src",
    "node_modules",
    ".git",
    "-d",
    "+",
    "(1)",
    "[x]",
    "c$",
]
PIECES = [
    "*",
    "**",
    "?",
    "a*",
    "*.log",
    "*.txt",
    "[ab]",
    "[^a]",
    "[a-c]*",
    "**/a",
    "a/**",
    "src/*",
    "src",
    "b/",
    "/a",
    "..",
]


def random_tree(rng, root):
    """Some folders and files, none of them empty of meaning."""
    folders = [root]
    for _ in range(rng.randrange(4, 14)):
        folder = rng.choice(folders) / rng.choice(NAMES)
        if not folder.exists():
            folder.mkdir()
            folders.append(folder)
    for _ in range(rng.randrange(5, 30)):
        path = rng.choice(folders) / rng.choice(NAMES)
        if not path.exists():
            path.write_bytes(rng.randbytes(rng.randrange(40)))
            path.chmod(rng.choice([0o644, 0o755, 0o600]))


def random_patterns(rng):
    """Lines of a .dockerignore."""
    lines = ["# a comment", ""]
    for _ in range(rng.randrange(1, 7)):
        parts = [rng.choice([*NAMES, *PIECES]) for _ in range(rng.choice([1, 1, 2, 3]))]
        lines.append(rng.choice(["", "", "!"]) + "/".join(parts) + rng.choice(["", "", " ", "/"]))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("seed", range(16))
async def test_ignored_alike(buildkit, tmp_path, seed):
    """Random trees and patterns: both leave out the same, or both refuse."""
    rng = random.Random(seed)
    context = tmp_path / "context"
    context.mkdir()
    random_tree(rng, context)
    (context / ".dockerignore").write_text(random_patterns(rng))
    (context / "keep").write_text("so that there is something")
    ours, theirs = await both(buildkit, context, tmp_path)
    assert ours == theirs, (context / ".dockerignore").read_text()


async def test_odd_files_alike(buildkit, tmp_path):
    """Modes, links, several names, names that are not UTF-8, times, what is no file, what is empty."""
    context = tmp_path / "context"
    (context / "dir" / "deep").mkdir(parents=True)
    (context / "dir").chmod(0o1777)
    (context / "empty").touch()
    (context / "run").write_bytes(b"#!/bin/sh\n")
    (context / "run").chmod(0o4755)
    (context / "dir/group").write_bytes(b"x" * 70_000)
    (context / "dir/group").chmod(0o2711)
    (context / "link").symlink_to("dir/group")
    (context / "dangling").symlink_to("/nowhere/at/all")
    os.link(context / "run", context / "dir/same")
    os.link(context / "run", context / "zz")
    (context / os.fsdecode(b"latin-\xe4\xff")).write_bytes(b"bytes")
    os.utime(context / "empty", ns=(1_000_000_001, 1_234_567_890_123_456_789))
    os.mkfifo(context / "dir/pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(context / "socket"))
        ours, theirs = await both(buildkit, context, tmp_path)
    assert ours == theirs
    assert ours[b"latin-\xe4\xff"][1][0] == b"bytes"
    assert ours[b"zz"][2] == theirs[b"zz"][2]


async def test_only_what_is_copied_is_asked_for(buildkit, tmp_path):
    """COPY of a link brings what it leads to; of a pattern, what matches."""
    context = tmp_path / "context"
    (context / "real/deep").mkdir(parents=True)
    (context / "real/deep/file").write_text("through links")
    (context / "one").symlink_to("two")
    (context / "two").symlink_to("/real/deep")
    (context / "loop").symlink_to("loop")
    for name in ("a1", "a2", "b1"):
        (context / name).write_text(name)
    dockerfile = "FROM scratch\nCOPY one/file /out\nCOPY a* real/deep/f?le /all/\n"
    ours, theirs = await both(buildkit, context, tmp_path, dockerfile)
    assert ours == theirs
    assert {b"out", b"all/a1", b"all/a2", b"all/file"} < set(ours)


async def test_what_changed_is_sent_again(buildkit, tmp_path):
    """The same folder: changed, removed and new files; and another folder never gets this one's."""
    context = tmp_path / "context"
    shutil.copytree(os.path.dirname(__file__), context, ignore=shutil.ignore_patterns("__pycache__"))
    # What was built before from the same contents would come with its own times.
    (context / "mark").write_text(secrets.token_hex(8))
    for new in ("", "1", "22"):
        if new:
            (context / "new").write_text(new)
        out = tmp_path / "out"
        await buildkit.build(context, dockerfile_text=COPY_ALL, outputs=[Output("local", out)])
        assert tree(out) == tree(context)
        shutil.rmtree(out)
    for text in (b"same size 1", b"same size 2"):  # in memory, where times tell nothing
        await buildkit.build({"f": text}, dockerfile_text=COPY_ALL, outputs=[Output("local", tmp_path / "memory")])
        assert (tmp_path / "memory/f").read_bytes() == text


async def test_many_and_large_files(buildkit, tmp_path):
    """5,000 small ones, and one of 64 MB with a hole in it, arrive as they are."""
    context = tmp_path / "context"
    for number in range(5000):
        folder = context / str(number % 50)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(number)).write_bytes(b"%d\n" % number)
    with open(context / "large", "wb") as file:
        file.seek(63 * 1024 * 1024)
        file.write(os.urandom(1024 * 1024))
    await buildkit.build(context, dockerfile_text=COPY_ALL, outputs=[Output("local", tmp_path / "ours")])
    assert tree(tmp_path / "ours") == tree(context)


async def test_a_file_that_cannot_be_sent_ends_the_build(buildkit, tmp_path):
    """With the reason, at once; what has gone since it was listed is an empty file, as for the docker command."""
    from moat_plugins.buildkit.fs.source import DiskSource

    (tmp_path / "good").write_text("x")
    (tmp_path / "bad").write_text("x")

    class Broken(DiskSource):
        def open(self, path):
            if path == b"bad":
                raise PermissionError(13, "Permission denied", "bad")
            if path == b"gone":
                raise FileNotFoundError(2, "No such file", "gone")
            return super().open(path)

    with anyio.fail_after(20), pytest.raises(ContextError, match="bad: Permission denied"):
        await buildkit.build(Broken(tmp_path), dockerfile_text=COPY_ALL, outputs=[])
    (tmp_path / "bad").rename(tmp_path / "gone")
    await buildkit.build(Broken(tmp_path), dockerfile_text=COPY_ALL, outputs=[Output("local", tmp_path / "out")])
    assert (tmp_path / "out/gone").read_bytes() == b""


async def test_a_walker_that_raises_ends_the_build(buildkit):
    """It would wait for ever."""
    from moat_plugins.buildkit.fs.source import MemorySource

    class Broken(MemorySource):
        def walk(self, **options):
            yield from super().walk(**options)
            raise OSError(5, "Input/output error", "disk")

    with anyio.fail_after(20), pytest.raises(ContextError, match="disk: Input/output error"):
        await buildkit.build(Broken({"a": b"1"}), dockerfile_text=COPY_ALL, outputs=[])
