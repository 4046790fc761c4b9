"""Whoever connects is let in, and may take as much as they like: floods of a guard and of the proxy.

The owner under attack is a process of 128 or 256 descriptors. An attack has worked if it ends that process, or if the run's
own client is not answered while the attack goes on.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from attack import attack
from victim import FILES

from moat_core.fds import raise_file_limit
from moat_core.listen import serve
from moat_core.tls import Authority, client_context

VICTIM = Path(__file__).parents[2] / "support" / "victim.py"
COUNT = 300
PING = b"GET /_ping HTTP/1.1\r\nHost: web.app.localhost\r\n\r\n"
EVENTS = b"GET /events HTTP/1.1\r\nHost: web.app.localhost\r\n\r\n"
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
OTHER = 65534


class Victim:
    """The process, and how its own clients and others reach it."""

    def __init__(self, process, address, folder, most_files):
        self.process, self.address, self.folder = process, address, folder
        self.most_files = most_files
        self.stack = AsyncExitStack()

    def context(self, authority=None):
        """The client's side of TLS as the run has it; AUTHORITY: with another one's certificate, or none (False)."""
        context = client_context((self.folder / "ca.pem").read_bytes())
        context.check_hostname = False
        if authority is None:
            context.load_cert_chain(self.folder / "cert.pem", self.folder / "key.pem")
        elif authority:
            context = client_context((self.folder / "ca.pem").read_bytes(), authority.issue_client("run"))
            context.check_hostname = False
        return context

    async def connect(self, source="127.0.0.1", **tls):
        if isinstance(self.address, str):
            return await asyncio.open_unix_connection(self.address)
        return await asyncio.open_connection(*self.address, local_addr=(source, 0), **tls)

    async def knock(self, say=b"", source="127.0.0.2", **tls):
        """Connect, say something and stay, if one may."""
        try:
            async with asyncio.timeout(8):
                loop, name = asyncio.get_running_loop(), "guard" if tls else None
                transport, _ = await loop.create_connection(
                    asyncio.Protocol, *self.address, local_addr=(source, 0), server_hostname=name, **tls
                )
                transport.write(say)
                self.stack.callback(transport.abort)
        except OSError:
            pass

    async def is_served(self):
        """Whether the run's own client is."""
        tls = {"ssl": self.context()} if (self.folder / "key.pem").exists() else {}
        for _ in range(3):
            try:
                async with asyncio.timeout(8):
                    reader, writer = await self.connect(**tls)
                    writer.write(PING)
                    said = await reader.read(15)
                    writer.transport.abort()
                    return said[:13] in {b"HTTP/1.1 404 ", b"HTTP/1.1 200 "}
            except OSError:
                await asyncio.sleep(0.2)  # as any client does
        return False

    async def judge(self):
        """What the attack did; "" if nothing."""
        if not await self.is_served():
            return f"its own client is not answered (exit code {self.process.returncode})"
        if self.process.returncode is not None:
            return "the owner has died"
        files = len(os.listdir(f"/proc/{self.process.pid}/fd"))
        return "" if files < self.most_files else f"it holds {files} files"


@asynccontextmanager
async def victim(kind, folder, defended):
    """A process under attack; DEFENDED may also be the name of a part of the defence."""
    raise_file_limit()
    folder.mkdir(mode=0o700, exist_ok=True)
    word = {True: "yes", False: "no"}.get(defended, defended)
    argv = [sys.executable, str(VICTIM), kind, str(folder), word]
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(100):
            address = json.loads(await process.stdout.readline())
            attacked = Victim(process, address, folder, FILES[kind])
            async with attacked.stack:
                yield attacked
            for _ in range(5):
                await asyncio.sleep(0)  # what was aborted is closed in the loop's next turns
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def by(victim, say=b"", *, count=COUNT, source=lambda number: "127.0.0.2", **tls):
    """COUNT connections that stay, some at once."""
    for start in range(0, count, 50):
        await asyncio.gather(*(victim.knock(say, source(number), **tls) for number in range(start, start + 50)))


async def many_addresses(victim):
    await by(victim, source=lambda number: f"127.0.{number // 4 + 1}.7")


async def no_certificate(victim):
    await by(victim, ssl=victim.context(authority=False), count=150)


async def anothers(victim):
    await by(victim, ssl=victim.context(Authority.make("moat run-ffffffff", organization="moat")), count=150)


async def speak_http(victim):
    await by(victim, PING)


async def speak_noise(victim):
    await by(victim, b"\0" * 100)


async def own_and_idle(victim):
    await by(victim, ssl=victim.context(), count=150)


async def own_and_slow(victim):
    await by(victim, PING[:20], ssl=victim.context(), count=150)


async def own_and_busy(victim):
    await by(victim, EVENTS, ssl=victim.context(), count=150)


STRANGERS = {
    "that say nothing": by,
    "that send a byte of TLS": lambda victim: by(victim, HELLO[:1]),
    "that send half a hello": lambda victim: by(victim, HELLO),
    "from many addresses": many_addresses,
    "of a guest, idle": own_and_idle,
    "of a guest, with slow heads": own_and_slow,
    "of a guest, each with a request": own_and_busy,
}


@attack("crowds at a guard with TLS", STRANGERS)
async def test_crowds_at_a_guard(row, defended, tmp_path):
    """Connections of another run, or of a guest of the run itself."""
    async with victim("tls", tmp_path / "run", defended) as attacked:
        await row(attacked)
        return await attacked.judge()


FLOOD = """
import socket, sys, time
{before}
kept = []
for _ in range({count}):
    client = socket.socket({family})
    try:
        client.connect({address!r})
        client.sendall({say!r})
        kept.append(client)
    except OSError:
        pass
print(len(kept), flush=True)
time.sleep(100)
"""


@asynccontextmanager
async def flooding(attacked, say, *, uid=None, count=COUNT):
    """Another process floods; yields how many connections it could open."""
    address = attacked.address if isinstance(attacked.address, str) else tuple(attacked.address)
    program = FLOOD.format(
        address=address, say=say, count=count,
        family="socket.AF_UNIX" if isinstance(address, str) else "socket.AF_INET",
        before="import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n"
        + (f"import os; os.setgid({uid}); os.setuid({uid})" if uid else ""),
    )  # fmt: skip
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=subprocess.PIPE)
    try:
        yield int(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()


@attack("crowds at a guard's socket", {"idle": b"", "with slow heads": PING[:20]})
async def test_crowds_at_a_socket(row, defended, tmp_path):
    """One process inside floods; another one of the same run is served."""
    async with victim("unix", tmp_path / "run", defended) as attacked, flooding(attacked, row):
        return await attacked.judge()


@attack("another user at a guard's socket")
async def test_another_user_at_a_guards_socket(defended, tmp_path):
    """The folder and the socket are the run's user's alone."""
    assert os.geteuid() == 0, "only root can be another user, too"
    async with victim("unix", tmp_path / "run", True) as attacked:
        for folder in tmp_path.parents:
            if str(folder).startswith("/tmp/pytest"):
                folder.chmod(0o755)  # pytest's own are closed as well, which is not our doing
        tmp_path.chmod(0o755)
        if not defended:
            attacked.folder.chmod(0o755)
            Path(attacked.address).chmod(0o666)
        async with flooding(attacked, PING, uid=OTHER, count=3) as opened:
            return opened > 0


@attack(
    "crowds at the proxy",
    {"idle": b"", "with a byte of TLS": HELLO[:1], "with slow heads": PING[:20], "refused": b"x\r\n\r\n"},
)
async def test_crowds_at_the_proxy(row, defended, tmp_path):
    """A local process, of whichever user, opens more than there may be."""
    async with victim("proxy", tmp_path / "proxy", defended) as attacked, flooding(attacked, row):
        return await attacked.judge()


@attack("another user at the proxy")
async def test_another_user_fills_the_proxy(defended, tmp_path):
    """With requests that are never answered, which nobody hangs up on: they have half of the room at most."""
    assert os.geteuid() == 0, "only root can be another user, too"
    kind = True if defended else "uncounted"
    async with victim("proxy", tmp_path / "proxy", kind) as attacked, flooding(attacked, EVENTS, uid=OTHER):
        return await attacked.judge()


@attack("an error of one connection", ["raised", "a group"])
async def test_an_error_of_one_connection(row, defended, monkeypatch):
    """Whoever finds a way to make the handler fail ends their own connection, and nothing else."""

    async def handle(visitor):
        if b"boom" in await visitor.receive():
            raise ExceptionGroup("g", [ValueError()]) if row == "a group" else RuntimeError("that was odd")
        await visitor.send(b"served")

    async def plainly(listener, handler):
        from anyio.abc import SocketListener

        await (await SocketListener.from_socket(listener)).serve(handler)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        task = asyncio.create_task((serve if defended else plainly)(listener, handle))
        said = b""
        for word in (b"boom", b"ask"):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(word)
            try:
                async with asyncio.timeout(3):
                    said = await reader.read()
            except (OSError, TimeoutError):
                said = b""
            writer.transport.abort()
            if task.done():
                break
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return said != b"served"


@pytest.mark.attack("storms at a guard")
@pytest.mark.parametrize("how", ["resets", "ends", "hellos and resets"])
async def test_storms_at_a_guard(how, tmp_path):
    """No control: these did nothing before either, and must not."""
    async with victim("tls", tmp_path / "run", True) as attacked:
        for _ in range(1500):
            with socket.socket() as client:
                client.setblocking(False)
                if how != "ends":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.connect_ex(tuple(attacked.address))
                if how == "hellos and resets":
                    try:
                        client.send(HELLO)
                    except OSError:
                        pass
            await asyncio.sleep(0)
        assert await attacked.judge() == ""


@pytest.mark.attack("strangers at a guard")
@pytest.mark.parametrize("row", [no_certificate, anothers, speak_http, speak_noise])
async def test_strangers_at_a_guard(row, tmp_path):
    """Nor do these, whose handshake fails at once."""
    async with victim("tls", tmp_path / "run", True) as attacked:
        await row(attacked)
        assert await attacked.judge() == ""
