"""The shell that outlives its owner, and the reaper that it becomes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moat_core.errors import HostError
from moat_core.ledger import Watchdog


@pytest.fixture
def watchdog(moat):
    """A watchdog that is ended in order."""
    made = Watchdog(moat.home)
    yield made
    made.stop()


def status(pid, key):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(key))


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_is_started_once_is_small_and_has_a_session_of_its_own(watchdog):
    """Neither Ctrl-C nor the end of a terminal reaches it, and it costs next to nothing."""
    assert watchdog.pid is None
    watchdog.start()
    pid = watchdog.pid
    watchdog.start()
    assert watchdog.pid == pid
    assert os.getsid(pid) == pid
    wait_for(lambda: "moat-watchdog" in Path(f"/proc/{pid}/cmdline").read_text())
    assert int(status(pid, "VmRSS:")) < 4096
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    watchdog.stop()
    assert watchdog.pid is None
    watchdog.stop()
    assert not Path(f"/proc/{pid}").exists()


def log_of(moat):
    return Path(moat.home.path, "reaper.log").read_text()


def test_an_orderly_end_starts_no_reaper(moat, watchdog):
    """It is told that all is well."""
    watchdog.start()
    watchdog.stop()
    assert log_of(moat) == ""


def test_left_without_a_word_it_becomes_the_reaper(moat, watchdog):
    """Even though its owner lives."""
    store = moat.store()
    row = store.add_intent("run-0000dead", "gone.thing", {})
    watchdog.start()
    watchdog.stop(orderly=False)
    wait_for(lambda: "gone.thing" in log_of(moat))
    store.forget_resource(row)  # it would be tried for a day
    store.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_watchdog_that_was_killed_harms_nobody(watchdog, number):
    """Ending in order still works, and another can be started."""
    watchdog.start()
    os.kill(watchdog.pid, number)
    wait_for(lambda: watchdog._process.poll() is not None)
    watchdog.start()
    watchdog.stop()


def test_without_a_process_to_be_had_it_says_so(watchdog, monkeypatch):
    """As an error of the host's."""

    def fail(*args, **kwargs):
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", fail)
    with pytest.raises(HostError, match="Resource temporarily unavailable") as caught:
        watchdog.start()
    assert "ulimit" in caught.value.hint


def test_the_reapers_log_does_not_grow_for_ever(moat):
    """It begins anew when it has become large."""
    log = Path(moat.home.path, "reaper.log")
    moat.home.make()
    log.write_bytes(b"x" * 2_000_000)
    with log.open("ab") as file:
        subprocess.run([sys.executable, "-m", "moat_core.ledger.reaper"], stderr=file, check=True, timeout=60)
    assert log.stat().st_size < 10_000


def test_the_reaper_does_its_work_whatever_else_is_broken(moat):
    """A broken plugin and a name that cannot be left out are told, and nobody's work is left undone."""
    moat.engine.make("networks", "lost", {"run_id": "run-0000dead", "labels": {}})
    environ = {
        **os.environ,
        "MOAT_PLUGINS": f"{os.environ['MOAT_PLUGINS']},no_such_module",
        "MOAT_DISABLE": os.environ["MOAT_DISABLE"] + ",typo",
    }
    done = subprocess.run(
        [sys.executable, "-m", "moat_core.ledger.reaper"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "network lost" in done.stderr
    assert "Traceback" not in done.stderr
    assert moat.engine.left() == []


def test_a_state_that_cannot_be_read_is_one_sentence_of_the_reapers(moat):
    """Not a traceback in its log."""
    moat.home.make()
    Path(moat.home.database).mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "moat_core.ledger.reaper"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "cannot be used" in done.stderr
    assert "Traceback" not in done.stderr
