"""What a hostile daemon may send as a `local` export, and what becomes of it."""

from __future__ import annotations

import os
import stat

import pytest
from grpclib.exceptions import GRPCError
from multidict import MultiDict

from moat_plugins.buildkit.session import filesend
from moat_plugins.buildkit.wire.control import BytesMessage
from moat_plugins.buildkit.wire.session import Packet, PacketType, Stat

DIR, LINK = 1 << 31, 1 << 27


class Sender:
    """The daemon's side of one call: sends what it is told, answers requests with the contents it has."""

    def __init__(self, entries, contents=(), number=""):
        self.metadata = MultiDict({"buildkit-attachable-exporter-id": number} if number else {})
        self.queue = [Packet(type=PacketType.STAT, stat=entry) for entry in entries] + [Packet(type=PacketType.STAT)]
        self.contents = dict(contents)
        self.told = []

    async def recv_message(self):
        return filesend._Raw(self.queue.pop(0).encode()) if self.queue else None

    async def send_message(self, raw):
        packet = Packet.decode(raw.encode())
        self.told.append(packet.type)
        if packet.type == PacketType.REQ:
            content = self.contents.get(packet.id, b"content")
            for data in (content, b"") if content else (b"",):
                self.queue.append(Packet(type=PacketType.DATA, id=packet.id, data=data))
        elif packet.type == PacketType.FIN:
            self.queue.append(Packet(type=PacketType.FIN))


async def receive(root, entries, contents=(), given=None):
    """Receive into ROOT; return why it failed."""
    why = []
    (handler, *_) = filesend.methods({"0": root}, why.append, given)["/moby.filesync.v1.FileSend/DiffCopy"]
    sender = Sender(entries, contents)
    try:
        await handler(sender)
    except GRPCError:
        assert why
    return why


@pytest.mark.parametrize(
    "path",
    [b"../out", b"/etc/x", b"a/../../x", b"", b".", b"..", b"a//b", b"a/", b"a\0b", b"./a"],
)
async def test_a_path_that_leaves_the_folder_is_refused(tmp_path, path):
    """Whatever its kind."""
    for mode in (0o644, DIR | 0o755, LINK | 0o777):
        root = tmp_path / "root"
        assert await receive(root, [Stat(path=b"a", mode=DIR | 0o755), Stat(path=path, mode=mode, linkname=b"x")])
        assert sorted(os.listdir(tmp_path)) == ["root"]
        assert os.listdir(root) in ([], ["a"])


async def test_nothing_is_written_through_a_link(tmp_path):
    """Neither one that was sent before nor one that was there."""
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "root"
    link = Stat(path=b"l", mode=LINK | 0o777, linkname=os.fsencode(outside))
    assert await receive(root, [link, Stat(path=b"l/file", mode=0o644)])
    assert await receive(root, [Stat(path=b"l/dir", mode=DIR | 0o755)])
    assert list(outside.iterdir()) == []
    (root / "over").symlink_to(outside / "target")
    assert not await receive(root, [Stat(path=b"over", mode=0o600, mod_time=5)], {0: b"mine"})
    assert list(outside.iterdir()) == []
    assert ((root / "over").read_bytes(), (root / "over").is_symlink()) == (b"mine", False)


async def test_a_target_that_is_a_link_is_refused(tmp_path):
    """An agent may have left it; the error says what to do. What was given is known: below that, no link at all."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "root").symlink_to("outside")
    (why,) = await receive(tmp_path / "root", [Stat(path=b"f", mode=0o644)])
    assert "root is a link: nothing is written through it. Take the link away" in str(why)
    (why,) = await receive(tmp_path / "root/sub", [Stat(path=b"f", mode=0o644)], given=lambda *_: True)
    assert "in a folder that a run can write to" in str(why)
    assert os.listdir(tmp_path / "outside") == []


async def test_a_name_of_a_file_outside_is_refused(tmp_path):
    """A hard link leads to what was sent only."""
    (tmp_path / "secret").write_text("s")
    root = tmp_path / "root"
    for target in (b"../secret", os.fsencode(tmp_path / "secret"), b"nothing"):
        assert await receive(root, [Stat(path=b"h", mode=0o644, linkname=target)])
        assert not (root / "h").exists()


async def test_what_arrives_is_as_it_was_sent(tmp_path):
    """Modes, times, links, names of one file, a folder that nobody may write, over what was there."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "f").write_text("old")
    entries = [
        Stat(path=b"d", mode=DIR | 1 << 20 | 0o555, mod_time=7_000_000_000),
        Stat(path=b"d/x", mode=0o640, mod_time=1_234_567_891),
        Stat(path=b"d/y", mode=0o640, linkname=b"d/x"),
        Stat(path=b"f", mode=1 << 23 | 0o755, mod_time=3),
        Stat(path=b"l", mode=LINK | 0o777, linkname=b"d/x"),
        Stat(path=b"\xff", mode=0o600),
    ]
    assert not await receive(root, entries, {1: b"X", 3: b"", 5: b"\0"})
    info = (root / "d").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_mtime_ns) == (0o1555, 7_000_000_000)
    assert ((root / "d/x").read_bytes(), (root / "d/y").stat().st_nlink) == (b"X", 2)
    assert (root / "d/x").stat().st_mtime_ns == 1_234_567_891
    assert stat.S_IMODE((root / "f").stat().st_mode) == 0o4755
    assert os.readlink(root / "l") == "d/x"
    assert (root / os.fsdecode(b"\xff")).read_bytes() == b"\0"


async def test_a_file_that_another_took_the_place_of_is_not_written_to(tmp_path):
    """Between its name and its content, by somebody who can write to the folder as well."""
    root = tmp_path / "root"
    (handler, *_) = filesend.methods({"0": root}, lambda _: None)["/moby.filesync.v1.FileSend/DiffCopy"]
    sender = Sender([Stat(path=b"f", mode=0o644), Stat(path=b"g", mode=0o644)])
    real = sender.send_message

    async def send(raw):
        if Packet.decode(raw.encode()).type == PacketType.REQ and not (root / "moved").exists():
            (root / "f").rename(root / "moved")
            (root / "f").write_text("theirs")
        await real(raw)

    sender.send_message = send
    with pytest.raises(GRPCError, match="another file in the place"):
        await handler(sender)
    assert (root / "f").read_text() == "theirs"


async def test_what_is_in_the_way_makes_way(tmp_path):
    """A file for a folder, an empty folder for a file; a full one does not."""
    root = tmp_path / "root"
    (root / "empty").mkdir(parents=True)
    (root / "full/sub").mkdir(parents=True)
    (root / "file").write_text("old")
    entries = [Stat(path=b"empty", mode=0o644), Stat(path=b"file", mode=DIR | 0o755)]
    assert not await receive(root, entries, {0: b"new"})
    assert ((root / "empty").read_bytes(), (root / "file").is_dir()) == (b"new", True)
    assert await receive(root, [Stat(path=b"full", mode=0o644)])
    assert os.listdir(root / "full") == ["sub"]


async def test_a_sender_that_breaks_off_or_lies_is_told(tmp_path):
    """It ends; data that nobody asked for is not taken."""
    (handler, *_) = filesend.methods({"0": tmp_path / "r"}, lambda _: None)["/moby.filesync.v1.FileSend/DiffCopy"]
    for queue in (
        [],
        [Packet(type=PacketType.DATA, id=3, data=b"x")],
        [Packet(type=PacketType.ERR, data=b"no space")],
    ):
        sender = Sender([])
        sender.queue = queue
        with pytest.raises(GRPCError, match="written"):
            await handler(sender)


async def test_archives_go_to_their_sink(tmp_path):
    """By the exporter's number; an unknown one is refused."""
    got = {"0": b"", "1": b""}

    def sink(number):
        async def take(data):
            got[number] += data

        return take

    (handler, *_) = filesend.methods({"0": sink("0"), "1": sink("1")}, lambda _: None)[
        "/moby.filesync.v1.FileSend/DiffCopy"
    ]
    for number in ("1", "0"):
        sender = Sender([], number=number)
        sender.queue = [BytesMessage(b"to "), BytesMessage(number.encode())]
        await handler(sender)
    assert got == {"0": b"to 0", "1": b"to 1"}
    with pytest.raises(GRPCError, match="no exporter"):
        await handler(Sender([], number="7"))
