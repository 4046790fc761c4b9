"""Where the state lies, and the locks that prove who is alive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from moat_core.errors import StoreError
from moat_core.store.paths import Home, Lock, default_home, is_locked

HOMES = [
    ({"MOAT_HOME": "/x/y"}, "/x/y"),
    ({"MOAT_HOME": "/x/../y"}, "/y"),
    ({"MOAT_HOME": "", "XDG_STATE_HOME": "/state"}, "/state/moat"),
    ({"XDG_STATE_HOME": "relative"}, os.path.expanduser("~/.local/state/moat")),
    ({}, os.path.expanduser("~/.local/state/moat")),
]


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS keeps state elsewhere")
@pytest.mark.parametrize(("environ", "path"), HOMES)
def test_the_home_is_found_as_xdg_says(environ, path):
    """MOAT_HOME first; a relative XDG_STATE_HOME is ignored."""
    assert default_home(environ) == path


def test_each_home_has_a_mark_of_its_own(tmp_path):
    """The same folder by another path is the same owner; another is not."""
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    owner = Home(tmp_path / "a").owner
    assert owner == Home(str(tmp_path / "link")).owner != Home(tmp_path / "b").owner
    assert len(bytes.fromhex(owner)) == 8


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "a.lock")


def test_only_one_holds_a_lock(path):
    """The second gets it when the first has let go."""
    first, second = Lock(path), Lock(path)
    assert first.acquire()
    assert is_locked(path)
    assert not second.acquire()
    first.release()
    assert not is_locked(path)
    assert not Path(path).exists()
    assert second.acquire()
    second.release(unlink=False)
    assert Path(path).exists()


def test_looking_makes_nothing(path):
    """Asking whether a lock is held leaves no file."""
    assert not is_locked(path)
    assert not Path(path).exists()


def test_a_lock_whose_file_was_unlinked_meanwhile_is_taken_anew(path, monkeypatch):
    """Between open and flock the last holder may remove the file; what then is locked guards nothing."""
    import fcntl

    real = fcntl.flock
    stolen = []

    def flock(fd, operation):
        if not stolen:
            stolen.append(True)
            os.unlink(path)
        return real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    lock = Lock(path)
    assert lock.acquire()
    assert os.path.samestat(os.fstat(lock.fd), os.stat(path))
    lock.release()


def test_waiting_for_a_lock(path):
    """With wait=True it is had as soon as it is free."""
    first, second = Lock(path), Lock(path)
    first.acquire()
    had = threading.Event()

    def wait():
        second.acquire(wait=True)
        had.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert not had.is_set()
    first.release()
    waiter.join(10)
    assert had.is_set()
    second.release()


def test_a_dead_process_holds_nothing(path):
    """The kernel lets go for it, however it died."""
    code = "import os, sys; from moat_core.store.paths import Lock; print(Lock(sys.argv[1]).acquire()); os.abort()"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert done.returncode == -6
    assert not is_locked(path)


def test_a_forked_child_lets_go(path):
    """A child of the holder neither holds the lock nor takes it away."""
    lock = Lock(path)
    lock.acquire()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"h" if lock.held else b"-")
        os.close(writer)
        signal.pause()
        os._exit(0)
    os.close(writer)
    assert os.read(reader, 1) == b"-"
    assert is_locked(path)
    lock.close()
    assert not is_locked(path)  # although the child lives
    os.close(reader)
    os.kill(child, 9)
    os.waitpid(child, 0)


def test_a_lock_can_be_handed_to_another_process(path):
    """The open file goes along, and the lock is held without a moment in between."""
    lock = Lock(path)
    lock.acquire()
    code = (
        "import sys; from moat_core.store.paths import Lock; lock = Lock(sys.argv[1]); lock.adopt(int(sys.argv[2]));"
        "print('mine', flush=True); sys.stdin.read(); lock.release()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, path, str(lock.fd)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[lock.fd],
        text=True,
    ) as process:
        assert process.stdout.readline() == "mine\n"
        lock.close()
        assert is_locked(path)
        process.stdin.close()
        process.wait(10)
    assert not is_locked(path)


def test_a_lock_that_cannot_be_made_is_one_clear_error(tmp_path):
    """The error names the folder."""
    with pytest.raises(StoreError, match="nowhere"):
        Lock(str(tmp_path / "nowhere" / "a.lock")).acquire()
    assert not is_locked(str(tmp_path / "nowhere" / "a.lock"))


def test_making_a_home_twice_is_fine(tmp_path):
    """And it holds what it says it does."""
    home = Home(tmp_path / "home")
    home.make()
    home.make()
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["locks", "runs"]
