"""The host's side of copying: what is packed, what is made, and that nothing below a run's folder is followed."""

from __future__ import annotations

import io
import os
import socket
import tarfile

import pytest

from moat_core.errors import HostPathError
from moat_core.host_path import hold, nobody
from moat_core.runtime import host_files
from moat_core.runtime.host_files import make_folder, pack


def packed(path):
    """Return what is in the archive of PATH: name -> (type, content or where it leads)."""
    out = io.BytesIO()
    with hold(path) as held:
        pack(held, out)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        return {
            member.name: (member.type, tar.extractfile(member).read() if member.isreg() else member.linkname)
            for member in tar
        }


def test_all_kinds_of_files_are_packed_as_what_they_are(tmp_path):
    """But a socket, which no archive knows; and nobody waits for a pipe."""
    tree = tmp_path / "tree"
    (tree / "b/c").mkdir(parents=True)
    (tree / "a").write_bytes(b"1")
    os.link(tree / "a", tree / "b/same")
    (tree / "link").symlink_to("/etc/passwd")
    (tree / "b/folders").symlink_to("c")
    os.mkfifo(tree / "pipe")
    os.mknod(os.fsencode(tree) + b"/\xff")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "socket"))
        found = packed(tree)
    assert found == {
        "tree": (tarfile.DIRTYPE, ""),
        "tree/a": (tarfile.REGTYPE, b"1"),
        "tree/b": (tarfile.DIRTYPE, ""),
        "tree/b/c": (tarfile.DIRTYPE, ""),
        "tree/b/folders": (tarfile.SYMTYPE, "c"),
        "tree/b/same": (tarfile.LNKTYPE, "tree/a"),
        "tree/link": (tarfile.SYMTYPE, "/etc/passwd"),
        "tree/pipe": (tarfile.FIFOTYPE, ""),
        "tree/\udcff": (tarfile.REGTYPE, b""),
    }
    assert packed(tree / "a") == {"a": (tarfile.REGTYPE, b"1")}


@pytest.mark.parametrize("name", ["f", "sub"])
def test_what_is_swapped_while_it_is_packed_is_not_followed(tmp_path, monkeypatch, name):
    """Between the look at it and its opening there is a link in its place."""
    tree, secret = tmp_path / "tree", tmp_path / "secret"
    (tree / "sub").mkdir(parents=True)
    secret.mkdir()
    for folder in (tree, tree / "sub", secret):
        (folder / "f").write_text("precious" if folder == secret else "mine")
    real = host_files._add

    def swap(tar, inside, entry, *rest):
        real(tar, inside, entry, *rest)
        if inside == "tree/f" and name == "sub":
            (tree / "sub").rename(tmp_path / "aside")
            (tree / "sub").symlink_to(secret)

    if name == "f":
        real_file = host_files._add_file

        def swap_file(tar, inside, entry, folder):
            if inside == "tree/f":
                (tree / "f").unlink()
                (tree / "f").symlink_to(secret / "f")
            real_file(tar, inside, entry, folder)

        monkeypatch.setattr(host_files, "_add_file", swap_file)
    monkeypatch.setattr(host_files, "_add", swap)
    try:
        found = packed(tree)
    except OSError:
        return
    assert b"precious" not in {content for _, content in found.values()}


def test_a_folder_is_made_with_those_above(tmp_path):
    """And held: what is put in its place afterwards is not written to."""
    with make_folder(tmp_path / "a/b", nobody) as place:
        (tmp_path / "a/b").rename(tmp_path / "a/old")
        (tmp_path / "a/b").symlink_to("/nowhere")
        (place / "f").touch()
    assert (tmp_path / "a/old/f").exists()


@pytest.mark.parametrize("where", ["file", "file/deep", "dangling", "dangling/deep"])
def test_where_no_folder_can_be(tmp_path, where):
    """As `os.makedirs` says it, nothing is made elsewhere."""
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("elsewhere")
    with pytest.raises(OSError), make_folder(tmp_path / where, nobody):  # noqa: PT011 - FileExists or NotADirectory
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_link_in_a_runs_folder_is_not_followed(tmp_path):
    """The user's own is, above it."""
    (tmp_path / "real/ws").mkdir(parents=True)
    (tmp_path / "mine").symlink_to("real")
    (tmp_path / "real/ws/out").symlink_to(tmp_path)

    def given(identity, path):
        return path == str(tmp_path / "real/ws")

    with make_folder(tmp_path / "mine/ws/new", given):
        pass
    assert (tmp_path / "real/ws/new").is_dir()
    for target in ("mine/ws/out", "mine/ws/out/deep"):
        with pytest.raises(HostPathError), make_folder(tmp_path / target, given):
            pass
