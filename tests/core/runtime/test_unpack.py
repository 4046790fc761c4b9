"""Archives that hostile code has written: nothing outside the folder is touched, and nothing but errors of ours comes."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from moat_core.errors import HostPathError, SandboxError
from moat_core.runtime.unpack import unpack


def member(name, *, kind=tarfile.REGTYPE, data=b"", link="", mode=0o644):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname, info.mode = kind, len(data), link, mode
    return info, data


def link(name, target):
    return member(name, kind=tarfile.SYMTYPE, link=target)


def hard(name, target):
    return member(name, kind=tarfile.LNKTYPE, link=target, mode=0o755)


def folder(name):
    return member(name, kind=tarfile.DIRTYPE, mode=0o755)


def archive(*members):
    """Make an archive of MEMBERS, however odd."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    made.seek(0)
    return made


@pytest.fixture
def target(tmp_path):
    """Where it is unpacked; beside it lies what must not be touched."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("precious")
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def untouched(target):
    """Whether all outside is as it was."""
    outside = target.parent / "outside"
    return (
        sorted(os.listdir(target.parent)) == ["outside", "target"]
        and os.listdir(outside) == ["precious"]
        and (outside / "precious").read_text() == "precious"
        and (outside / "precious").stat().st_nlink == 1
    )


LONG = "d" * 247
# A chain of folders and short links whose real path is longer than the system can tell (CVE-2025-4517).
CHAIN = [
    step
    for number in range(16)
    for step in (
        folder(
            "/".join([LONG] * (number + 1))
            if number == 0
            else f"{'abcdefghijklmnop'[:number].replace('', '/').strip('/')}/{LONG}"
        ),
        link("/".join("abcdefghijklmnop"[: number + 1]), LONG),
    )
]

ATTACKS = {
    "above": [member("../outside/precious", data=b"x")],
    "above, hidden": [member("a/../../outside/precious", data=b"x")],
    "through a link": [link("a", "../outside"), member("a/precious", data=b"x")],
    "through a link made later": [member("a/precious", data=b"x"), link("a", "../outside")],
    "through an absolute link": [link("a", "/etc"), member("a/moat-test", data=b"x")],
    "link to above": [link("a", "../outside/precious")],
    "absolute link": [link("a", "/etc/passwd")],
    "link through a link": [folder("d"), link("d/up", ".."), link("a", "d/up/../outside/precious")],
    "link in a linked folder": [folder("d/e"), link("l", "d/e"), link("l/x", "../../../outside")],
    "hard link to above": [hard("a", "../outside/precious")],
    "hard link to an absolute path": [hard("a", "/etc/passwd")],
    "hard link to a link": [folder("d/e"), link("d/e/l", "../../x"), hard("l", "d/e/l")],
    "hard link through a link": [link("a", "."), hard("b", "a/../../outside/precious")],
    "a link put in a folder's place": [folder("a"), link("a", "../outside"), member("a/new", data=b"x")],
    "a very long chain": [
        *CHAIN,
        link("/".join("abcdefghijklmnop") + "/" + "l" * 254, "../" * 16),
        member("l/x", data=b"x"),
    ],
    "device": [member("a", kind=tarfile.CHRTYPE)],
    "pipe": [member("a", kind=tarfile.FIFOTYPE)],
    "nul in a name": [member("a\0/../../outside/precious", data=b"x")],
    "nothing at the hard link's end": [hard("a", "nowhere")],
    "hard link to itself": [hard("a", "a")],
    "hard links in a circle": [member("a"), hard("b", "a"), hard("a", "b")],
    "hard link to itself over a folder": [folder("a"), hard("a", "a")],
    "a path too long": [member("a/" * 2000 + "b", data=b"x")],
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_an_error_and_touches_nothing_outside(target, attack):
    """Whatever way out of the folder it tries."""
    try:
        unpack(archive(*ATTACKS[attack]), target)
    except SandboxError as error:
        refused = str(error)
    else:
        refused = ""
    assert untouched(target)
    escaped = [path for path in target.rglob("*") if path.is_symlink() and not is_inside(path, target)]
    assert escaped == []
    if attack not in {"nul in a name"}:  # its name ends there: a harmless file
        assert refused


def is_inside(path, target):
    """Whether a link leads to somewhere below TARGET, followed by the system itself."""
    real = os.path.realpath(path)
    return real == str(target) or real.startswith(f"{target}/")


def test_what_is_harmless_is_made(target):
    """Files, folders, links within, hard links, modes without set-uid bits."""
    unpack(
        archive(
            folder("p"),
            member("p/file", data=b"content", mode=0o6755),
            link("p/link", "file"),
            link("p/dangling", "nothing"),
            link("up", "p/file"),
            folder("q"),
            link("q/back", "../p/file"),
            hard("same", "p/file"),
            member("./dotted", data=b"d"),
        ),
        target,
    )
    assert (target / "p/link").read_bytes() == b"content"
    assert (target / "q/back").read_bytes() == b"content"
    assert (target / "same").read_bytes() == b"content"
    assert (target / "dotted").read_bytes() == b"d"
    assert (target / "p/dangling").is_symlink()
    assert (target / "p/file").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("data", [b"", b"not a tar", b"\0" * 100, b"\0" * 10240])
def test_what_is_no_archive_makes_nothing(target, data):
    """An error, or an empty archive."""
    try:
        unpack(io.BytesIO(data), target)
    except SandboxError as error:
        assert "cannot be unpacked" in str(error)  # noqa: PT017 - either is right
    assert list(target.iterdir()) == []


def test_too_many_entries_are_an_error(target, monkeypatch):
    """Each would be a file on the host."""
    monkeypatch.setattr("moat_core.runtime.unpack._MEMBERS", 10)
    with pytest.raises(SandboxError, match="more than 10 files"):
        unpack(archive(*(member(str(number)) for number in range(11))), target)
    assert list(target.iterdir()) == []


parts = st.sampled_from(["a", "b", "c", "..", ".", "", "d"])
paths = st.lists(parts, min_size=1, max_size=4).map("/".join)
members = st.one_of(
    st.builds(lambda name: member(name, data=b"x"), paths),
    st.builds(folder, paths),
    st.builds(link, paths, paths | paths.map("/".__add__)),
    st.builds(hard, paths, paths),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.lists(members, max_size=6))
def test_no_archive_reaches_outside(tmp_path_factory, contents):
    """Whatever is in it: the only error is ours (or the file system's), and all links end inside."""
    target = tmp_path_factory.mktemp("unpack") / "target"
    target.mkdir()
    (target.parent / "outside").mkdir()
    (target.parent / "outside" / "precious").write_text("precious")
    try:
        unpack(archive(*contents), target)
    except (SandboxError, OSError):
        pass
    assert untouched(target)
    assert all(is_inside(path, target) for path in Path(target).rglob("*") if path.is_symlink())


plain = st.lists(st.sampled_from("abcd"), min_size=1, max_size=3).map("/".join)
modes = st.integers(0, 0o7777)
honest = st.one_of(
    st.builds(lambda name, mode: member(name, data=b"x", mode=mode), plain, modes),
    st.builds(folder, plain),
    st.builds(link, plain, plain | plain.map("../".__add__)),
    st.builds(hard, plain, plain),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.lists(honest, max_size=6))
def test_what_is_made_is_what_tarfile_would_make(tmp_path_factory, contents):
    """By its filter for data: the same things, modes and times; and it refuses what that refuses."""
    for number, (info, _) in enumerate(contents):
        info.mtime = 1_000_000_000 + number
    # It has odd ways with what has one name: a folder in a file's place, or a link in a folder's, is left out without a
    # word, a file is written through its other names, and another name of a folder is a new folder.
    files = [info.name for info, _ in contents if not info.isdir()]
    folders = {info.name for info, _ in contents if info.isdir()}
    folders |= {str(above) for info, _ in contents for above in PurePosixPath(info.name).parents}
    assume(not folders & set(files) and len(set(files)) == len(files))
    assume(not any(info.islnk() and info.linkname in folders for info, _ in contents))
    for info, _ in contents:  # a hard link's mode is the file's
        if info.islnk():
            info.mode = next((each.mode for each, _ in contents if each.name == info.linkname), 0)
            info.mtime = next((each.mtime for each, _ in contents if each.name == info.linkname), 0)
    found = []
    for make in (unpack, by_tarfile):
        target = tmp_path_factory.mktemp("unpack")
        try:
            make(archive(*contents), target)
        except (SandboxError, OSError):
            found.append(None)
        else:
            found.append(listing(target, {info.name for info, _ in contents}))
    assert found[0] == found[1]


def by_tarfile(data, target):
    """Look through DATA as we do, and have the rest done by `tarfile`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "moat_core.runtime.unpack._extract",
            lambda tar, members, folder, only: tar.extractall(folder, members=members, filter="data"),
        )
        unpack(data, target)


def listing(folder, named):
    """What is in FOLDER, with the times of what was NAMED in the archive."""
    found = {}
    for path in folder.rglob("*"):
        name, status = str(path.relative_to(folder)), path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        known = name in named and not path.is_symlink()
        found[name] = (status.st_mode, status.st_nlink, content, status.st_mtime if known else None)
    return found


def sparse(size, *pieces):
    """An archive with one file of SIZE, in GNU's old format, of PIECES that lie at their offsets."""
    info = tarfile.TarInfo("holes")
    info.type, info.size, info.mode = tarfile.GNUTYPE_SPARSE, sum(len(data) for _, data in pieces), 0o644
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT)[-512:])
    for number, (offset, data) in enumerate(pieces):
        place = 386 + 24 * number
        block[place : place + 24] = b"%011o\0%011o\0" % (offset, len(data))
    block[482] = 0
    block[483:495] = b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    content = b"".join(data for _, data in pieces)
    return io.BytesIO(bytes(block) + content.ljust(-len(content) % 512 + len(content), b"\0") + b"\0" * 1024)


@pytest.mark.parametrize("pieces", [[(0, b"a"), (2**30, b"b" * 700)], [(2**20, b"c")], [(2**31, b"")]])
def test_holes_stay_holes(target, pieces):
    """A file of gigabytes that takes a few blocks."""
    size = 2**31
    unpack(sparse(size, *pieces), target)
    status = (target / "holes").stat()
    assert (status.st_size, status.st_blocks * 512 < 2**20) == (size, True)
    with (target / "holes").open("rb") as file:
        for offset, data in pieces:
            file.seek(max(0, offset - 3))
            assert file.read(len(data) + 3).strip(b"\0") == data


def test_a_file_that_ends_too_soon_is_an_error(target):
    """And nothing of it appears under the name that was asked for."""
    whole = archive(member("a", data=b"x" * 1000)).getvalue()
    with pytest.raises(SandboxError, match="unexpected end of data"):
        unpack(io.BytesIO(whole[:1000]), target, only="a")
    assert list(target.iterdir()) == []


def test_what_is_there_is_replaced_and_not_written_to(target):
    """Another name of a file keeps what it had; a second time the same archive gives the same."""
    (target / "out").mkdir()
    (target / "out/file").write_text("old")
    os.link(target / "out/file", target / "kept")
    os.mkfifo(target / "out/other")
    for _ in range(2):
        unpack(
            archive(folder("out"), member("out/file", data=b"new"), member("out/other"), hard("out/x", "out/file")),
            target,
            only="out",
        )
        assert (target / "out/file").read_bytes() == (target / "out/x").read_bytes() == b"new"
    assert ((target / "out/other").read_bytes(), (target / "kept").read_text()) == (b"", "old")


def test_a_link_in_a_folders_place_is_named_in_the_error(target):
    """It may be the user's own, and lead to within; what to do is said."""
    (target / "out").mkdir()
    (target / "big").mkdir()
    (target / "out/sub").symlink_to("../big")
    with pytest.raises(HostPathError, match="out/sub is a link"):
        unpack(archive(folder("out"), member("out/sub/file")), target, only="out")
    assert list((target / "big").iterdir()) == []


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP])
def test_where_there_are_no_links_what_they_lead_to_is_made_again(target, monkeypatch, code):
    """A stick, or a folder that is shared with a virtual machine. What leads nowhere is an error."""

    def no_link(*arguments, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", no_link)
    monkeypatch.setattr(os, "symlink", no_link)
    contents = [folder("p"), member("p/f", data=b"x", mode=0o755), hard("p/same", "p/f"), hard("again", "p/same")]
    unpack(archive(*contents, link("p/l", "same"), link("to-folder", "p")), target)
    for name in ("p/same", "again", "p/l"):
        made = target / name
        assert (made.read_bytes(), made.is_symlink(), made.stat().st_nlink) == (b"x", False, 1)
        assert made.stat().st_mode & 0o777 == 0o755
    assert list((target / "to-folder").iterdir()) == []
    with pytest.raises(OSError):  # noqa: PT011 - as the system says it
        unpack(archive(link("dangling", "nothing")), target)
