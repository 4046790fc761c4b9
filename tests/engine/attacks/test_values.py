"""Attacks through values: what a program hands on for somebody else, judged by the files inside and outside."""

from __future__ import annotations

import re

import anyio
import pytest
import pytest_asyncio
from attack import attack

from moat_core import Moat, checks
from moat_core.errors import MoatError
from moat_core.runtime import files
from moat_core.runtime.unpack import unpack
from moat_plugins.docker import exec as docker_exec

pytestmark = pytest.mark.asyncio(loop_scope="module")
MIB = 1024 * 1024
LONG_S = 4
FOLDER = "/tmp/values"
OTHER = f"{FOLDER}/�"
"""What becomes of a name that is not UTF-8 on its way through JSON."""
ODD = f"{FOLDER}/".encode() + b"\xff"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def run(engine, tmp_path_factory):
    folder = tmp_path_factory.mktemp("values")
    (folder / "workspace").mkdir()
    async with Moat(home=folder / "home") as moat:
        async with moat.run(folder / "workspace", sandbox=False) as handle:
            yield handle


async def sh(run, script):
    result = await run.exec(["sh", "-c", script], user="root")
    assert result.exit_code == 0, result.stderr
    return result.stdout


async def fresh(run):
    await sh(
        run,
        f"rm -rf {FOLDER}; mkdir -m 777 {FOLDER}; echo precious >{OTHER}; echo old >{FOLDER}/f; chmod 666 {FOLDER}/*",
    )


async def tried(awaitable):
    """Whatever it says: the state afterwards is what counts."""
    try:
        return await awaitable
    except (MoatError, OSError, ValueError, TypeError, AttributeError, UnicodeError):
        return None


def undefended(monkeypatch):
    """Names go to the engine as they are."""
    monkeypatch.setattr(docker_exec, "as_text", lambda command: command)


async def write(run, _):
    await run.write(ODD, b"evil\n")


async def upload(run, tmp_path):
    (tmp_path / "f").write_text("evil\n")
    await run.exec(["sh", "-c", f"rm {OTHER}; mkdir {OTHER}"], user="root")
    await run.upload(tmp_path / "f", ODD)


async def remove(run, _):
    await run.exec(["rm", "-f", ODD])


async def append(run, _):
    await run.exec(["sh", "-c", 'echo evil >>"$F"'], env={"F": ODD})


async def below(run, _):
    await run.exec(["sh", "-c", f"rm {OTHER}; mkdir {OTHER}"], user="root")
    await run.exec(["sh", "-c", "echo evil >evil"], cwd=ODD)


async def program(run, _):
    await sh(run, f"printf '#!/bin/sh\\necho evil >{FOLDER}/evil' >{OTHER}; chmod 755 {OTHER}")
    await run.exec([ODD])


@attack("values", {each.__name__: each for each in (write, upload, remove, append, below, program)})
async def test_a_name_that_is_not_utf8_changes_another_file(row, run, tmp_path, monkeypatch, *, defended):
    """The file whose name only looks alike is changed, or something lies in that folder."""
    await fresh(run)
    if not defended:
        undefended(monkeypatch)
    await tried(row(run, tmp_path))
    left = await sh(
        run, f"cat {OTHER} 2>/dev/null || ls {OTHER} 2>/dev/null || echo gone; ls {FOLDER}/evil 2>/dev/null || :"
    )
    return (
        left.replace(b"precious\n", b"").replace(b"#!/bin/sh\n", b"").replace(f"echo evil >{FOLDER}/evil".encode(), b"")
    )


@attack("values", ["read", "download"])
async def test_another_file_is_read(row, run, tmp_path, monkeypatch, *, defended):
    """What is shown is not what was asked for."""
    await fresh(run)
    if not defended:
        undefended(monkeypatch)
    if row == "read":
        return await tried(run.read(ODD)) == b"precious\n"
    if not defended:  # it would notice, too
        monkeypatch.setattr(files, "unpack", lambda archive, folder, **_: unpack(archive, folder))
    await tried(run.download(ODD, tmp_path))
    return [path.name for path in tmp_path.iterdir()]


BUFFERS = {
    "bytearray": bytearray(b"new"),
    "number": 5,
    "list": [1],
    "half a pair": "\udcff",
}


@attack("values", BUFFERS)
async def test_a_file_is_emptied_by_what_cannot_be_written(row, run, monkeypatch, *, defended):
    """The mistake is found when the old content is gone."""
    await fresh(run)
    if not defended:
        monkeypatch.setattr(checks, "content", lambda value, what="": value)
    await tried(run.write(f"{FOLDER}/f", row))
    return await run.read(f"{FOLDER}/f") == b""


NAMES = ["PATH=/tmp/values:", "LD_PRELOAD=/tmp/values/evil.so:", "IFS=x"]


@attack("values", NAMES)
async def test_a_variable_that_is_forbidden_is_set_by_another_name(row, run, monkeypatch, *, defended):
    """Whoever lets no ``PATH`` through compares names; ``PATH=/evil:`` is another name."""
    if not defended:
        monkeypatch.setattr(checks, "ENV_NAME_RE", re.compile("(?s).*"))
    result = await tried(run.exec(["/usr/bin/env"], env={row: ""}))
    return result is not None and row.encode() in result.stdout


FLOODS = {
    "a tar that never ends": ("tar", "exec cat /dev/zero", lambda run, at: run.download("/etc/passwd", at, limit_bytes=MIB)),
    "a tar that complains for ever": ("tar", "exec cat /dev/zero >&2", lambda run, at: run.download("/etc/passwd", at)),
    "a head that never ends": ("head", "exec cat /dev/zero", lambda run, _: run.read("/etc/passwd", limit_bytes=MIB)),
    "a head that complains for ever": ("head", "exec cat /dev/zero >&2", lambda run, _: run.read("/etc/passwd")),
    "a tar that answers while it is sent to": ("tar", "exec /bin/dd if=/dev/zero 2>/dev/null", lambda run, at: run.upload("/etc/hostname", "/tmp/up")),
}  # fmt: skip


@attack("values", FLOODS)
async def test_a_program_of_the_image_floods_us(row, run, tmp_path, monkeypatch, *, defended):
    """Still there after some seconds, with ever more of it on our disk, or read by us."""
    program, script, action = row
    place = f"/usr/local/bin/{program}"  # earlier in PATH than the true one
    await sh(run, f"printf '#!/bin/sh\\n{script}\\n' >{place}; chmod 755 {place}")
    try:
        if not defended:

            async def keep(self, output):
                if self.keep is not None and output.stream == "stdout":
                    await self.keep(output.data)

            monkeypatch.setattr(files._Guard, "__call__", keep)
        with anyio.move_on_after(3 if not defended else 15) as scope:
            await tried(action(run, tmp_path))
        left = await sh(run, "ps -e 2>/dev/null | grep -c ' cat$\\| dd$' || true")
        return scope.cancelled_caught or (left.strip() not in {b"0", b""} and f"left inside: {left!r}")
    finally:
        await sh(run, f"rm {place}")


@attack("values", ["read", "write"])
async def test_a_shell_that_is_none_floods_us(row, engine, tmp_path, monkeypatch, *, defended):
    """Not even ``/bin/sh`` is what it seems, so that nothing inside can be killed by it: we do not wait for that."""
    (tmp_path / "workspace").mkdir()
    fake = "#!/usr/bin/perl\nwhile (1) { print 'x' x 65536 }\n"
    async with Moat(home=tmp_path / "home") as moat:
        async with moat.run(tmp_path / "workspace", sandbox=False) as run:
            await run.write("/bin/fake", fake)
            await sh(run, "chmod 755 /bin/fake; mv /bin/fake /bin/sh")
            if not defended:

                async def ignore(self, output):
                    """Take it all."""

                monkeypatch.setattr(files._Guard, "__call__", ignore)
            started = anyio.current_time()
            with anyio.move_on_after(LONG_S + 1):
                try:
                    await (run.read("/etc/passwd", limit_bytes=MIB) if row == "read" else run.write("/tmp/x", b"y"))
                except MoatError:
                    pass
            return anyio.current_time() - started > LONG_S
