"""Archives that hostile code has written: nothing outside the folder is touched, and nothing but errors of ours comes."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moat_core.errors import SandboxError
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
