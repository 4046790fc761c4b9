"""Whose the state folder must be: what is refused, what passes, and that the hint mends it."""

from __future__ import annotations

import os
import subprocess

import pytest

from moat_core.errors import StoreError
from moat_core.store import Home, Store


@pytest.fixture
def home(tmp_path):
    """A state folder that has been used."""
    found = Home(tmp_path / "way/home")
    store = Store(found)
    store.set_note("key", "value")
    store.close()
    return found


def refused(home):
    """What is said; ``None`` if it passes."""
    try:
        Home(home.path).check()
    except StoreError as error:
        return error
    return None


def test_what_moat_makes_is_ours_alone(home):
    """Whatever the umask."""
    assert refused(home) is None
    assert os.stat(home.path).st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o720, 0o702, 0o2775])
@pytest.mark.parametrize("what", ["", "locks", "runs", "moat.db"])
def test_modes_that_let_others_write_are_refused_and_the_hint_mends_them(home, mode, what):
    """The folder, and what in it decides; the sticky bit does not help inside."""
    path = os.path.join(home.path, what) if what else home.path
    os.chmod(path, mode)
    error = refused(home)
    assert error is not None
    assert error.exit_code == 2
    assert "may write to it" in error.message
    subprocess.run(error.hint.splitlines()[-1], shell=True, check=True)
    assert refused(home) is None


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o750, 0o711])
def test_modes_that_let_others_look_pass(home, mode):
    """Reading is another question."""
    os.chmod(home.path, mode)
    assert refused(home) is None


def test_a_folder_above_that_others_may_write_to_is_refused(home):
    """They would put another one in its place; in one with the sticky bit they cannot."""
    above = os.path.dirname(home.path)
    os.chmod(above, 0o777)
    assert above in refused(home).message
    os.chmod(above, 0o1777)
    assert refused(home) is None


def test_a_link_in_an_open_folder_is_followed_to_what_is_behind(home, tmp_path):
    """Ours in a sticky folder is fine, and what it leads through is looked at."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o1777)
    (tmp_path / "open/link").symlink_to(home.path)
    assert refused(Home(tmp_path / "open/link")) is None
    (tmp_path / "open").chmod(0o777)
    assert refused(Home(tmp_path / "open/link")) is not None


def test_another_owner_is_refused(home):
    """Of the folder, of a file in it, of what is above."""
    for path in (home.path, os.path.join(home.path, "moat.db"), os.path.dirname(home.path)):
        os.chown(path, 4321, -1)
        assert "4321" in refused(home).message
        os.chown(path, 0, -1)
    assert refused(home) is None


def test_what_reads_is_refused_as_what_writes(home):
    """A listing would call what a forged file names."""
    os.chmod(home.path, 0o777)
    store = Store(Home(home.path))
    with pytest.raises(StoreError, match="not yours alone"):
        store.runs()
    with pytest.raises(StoreError, match="not yours alone"):
        Home(home.path).make()


def test_what_is_not_there_passes_and_is_made_safe(tmp_path):
    """And is looked at once it is."""
    home = Home(tmp_path / "a/b")
    home.check()
    home.make()
    assert os.stat(home.path).st_mode & 0o777 == 0o700
