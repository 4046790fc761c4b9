"""Build contexts, registry credentials, locks and text: what needs no engine."""

from __future__ import annotations

import base64
import io
import json
import tarfile

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moat_core.errors import HostError
from moat_core.types import ImageSpec
from moat_plugins.docker.filelock import hold_lock
from moat_plugins.docker.images import find_auth, make_context
from moat_plugins.docker.text import last_lines, printable


def test_context_is_the_same_for_the_same_content():
    """Order and time do not change a byte; every file is there with what it holds."""
    one = make_context(ImageSpec("x", "FROM x", "t", {"b/c": b"2", "a": b"1"}))
    two = make_context(ImageSpec("x", "FROM x", "t", {"a": b"1", "b/c": b"2"}))
    assert one == two
    with tarfile.open(fileobj=io.BytesIO(one)) as tar:
        held = {entry.name: tar.extractfile(entry).read() for entry in tar}
        assert {(entry.uid, entry.gid, entry.mtime, entry.mode) for entry in tar} == {(0, 0, 0, 0o644)}
    assert held == {"Dockerfile": b"FROM x", "a": b"1", "b/c": b"2"}


@pytest.mark.parametrize(
    ("reference", "server"),
    [
        ("debian", "https://index.docker.io/v1/"),
        ("library/debian:x", "https://index.docker.io/v1/"),
        ("ghcr.io/a/b", "ghcr.io"),
        ("localhost/a", "localhost"),
        ("host:5000/a", "host:5000"),
    ],
)
def test_credentials_are_those_of_the_images_registry(tmp_path, monkeypatch, reference, server):
    """What `docker login` wrote is sent to the registry that it was written for, and to no other."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    auths = {server: {"auth": base64.b64encode(b"me:se:cret").decode()}}
    (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))
    sent = json.loads(base64.urlsafe_b64decode(find_auth(reference)))
    assert sent == {"username": "me", "password": "se:cret", "serveraddress": server}
    assert find_auth("other.example/x") == ""


@pytest.mark.parametrize("auth", ["", "!", "bm9jb2xvbg", None])
def test_unreadable_credentials_are_none(tmp_path, monkeypatch, auth):
    """A credential store's empty entry, or garbage, is no credential and no error."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"ghcr.io": {"auth": auth}}}))
    assert find_auth("ghcr.io/x") in ("", find_auth("ghcr.io/y"))


async def test_lock_is_held_by_one_at_a_time(tmp_path):
    """Who comes second waits; who waits too long, or cannot write, is told."""
    inside = []
    async with hold_lock(tmp_path / "new", "a thing", 5):
        with pytest.raises(HostError, match="busy with a thing"):
            async with hold_lock(tmp_path / "new", "a thing", 0.01):
                inside.append("wrong")
        async with hold_lock(tmp_path / "new", "another thing", 0.01):
            inside.append("other")
    async with hold_lock(tmp_path / "new", "a thing", 0.01):
        inside.append("again")
    assert inside == ["other", "again"]
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="cannot be opened"):
        async with hold_lock(tmp_path / "file", "x", 1):
            pytest.fail("there is no such folder")


async def test_waiting_for_a_lock_can_be_cancelled(tmp_path):
    """A waiter that is cancelled leaves the lock to others."""
    async with hold_lock(tmp_path, "a thing", 5):
        with anyio.move_on_after(0.01):
            async with hold_lock(tmp_path, "a thing", 60):
                pytest.fail("it is held")
    async with hold_lock(tmp_path, "a thing", 0.01):
        pass


@given(st.text())
def test_shown_text_has_nothing_that_a_terminal_acts_on(text):
    """Escape sequences, returns and other controls from inside do not reach a terminal."""
    shown = printable(text)
    assert len(shown) == len(text)
    assert all(char.isprintable() or char in "\n\t" for char in shown)


def test_last_lines_are_the_last():
    """The end of a long output, without what is empty, whatever its line ends."""
    assert last_lines(b"1\r\n2\n\n3\xff\x1b[0m\n\n", 2) == "\n3\ufffd\ufffd[0m"
    assert last_lines(b"", 5) == ""
