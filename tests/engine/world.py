"""What is on the machine that may be a run's."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

REPO = Path(__file__).parents[2]
BUILDKIT_IMAGE = "moat-test/buildkitd"
"""The stand-in for buildkitd, see `conftest.stand_in`."""
MOAT = [sys.executable, "-m", "moat_core.cli"]


def remove_volumes(name):
    """Remove what is kept on purpose: the volumes with NAME in theirs."""
    listing = ["docker", "volume", "ls", "-q", "--filter", f"name={name}"]
    for volume in subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split():
        subprocess.run(["docker", "volume", "rm", volume], capture_output=True, check=True)


def ask_engine(address, path, label):
    """Return what the engine lists at PATH, ``/networks?``, with a LABEL.

    Asked by ourselves: a `docker` for each look would take more of the machine than what is tested.
    """
    assert address.startswith("unix://"), address
    connection = http.client.HTTPConnection("docker")
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.settimeout(120)
        connection.sock.connect(address.removeprefix("unix://"))
        connection.request("GET", f"{path}filters={quote(json.dumps({'label': [label]}))}")
        answer = connection.getresponse()
        data = json.loads(answer.read())
    finally:
        connection.close()
    assert answer.status == 200, data
    return data


class World:
    """What is on the machine that may be a run's: by label on the engine, by MOAT_HOME among the processes."""

    def __init__(self, home, engine=None):
        self.home = Path(home)
        # Remembered now: a test may point DOCKER_HOST elsewhere.
        self._environ = {**os.environ, "DOCKER_HOST": engine} if engine else dict(os.environ)

    def containers(self, run_id=""):
        return [item["Id"][:12] for item in self._labelled("/containers/json?all=1&", run_id)]

    def networks(self, run_id=""):
        return [item["Id"][:12] for item in self._labelled("/networks?", run_id)]

    def volumes(self, run_id=""):
        return [item["Name"] for item in self._labelled("/volumes?", run_id)]

    def _labelled(self, path, run_id):
        label = f"moat.run-id={run_id}" if run_id else "moat.run-id"
        found = ask_engine(self._environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"), path, label)
        items = found.get("Volumes") or [] if isinstance(found, dict) else found
        known = self.run_ids()
        return [item for item in items if (item.get("Labels") or {}).get("moat.run-id", "") in known]

    def run_ids(self):
        """Every run that this home has ever heard of."""
        folder = self.home / "runs"
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    def rows(self):
        import sqlite3

        if not (self.home / "moat.db").exists():
            return []
        with sqlite3.connect(self.home / "moat.db") as connection:
            return connection.execute("SELECT run_id, kind, state FROM ledger").fetchall()

    def processes(self):
        """Processes (not this one) whose environment names this home."""
        found = []
        for path in Path("/proc").iterdir():
            if path.name.isdigit() and int(path.name) != os.getpid():
                try:
                    environ = (path / "environ").read_bytes()
                    command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    state = (path / "stat").read_text().rpartition(")")[2].split()[0]
                except OSError:
                    continue
                if f"MOAT_HOME={self.home}\0".encode() in environ and state != "Z" and command:
                    found.append((int(path.name), command))
        return found

    def stop_proxy(self):
        """Stop the proxy of this home: it serves all runs, and would wait for the next one."""
        if (self.home / "proxy").exists():
            environ = {**self._environ, "MOAT_HOME": str(self.home)}
            done = subprocess.run([*MOAT, "proxy", "stop"], capture_output=True, check=False, env=environ)
            assert done.returncode == 0, done.stderr.decode()

    def left(self):
        """Everything that should not be there when no run is alive."""
        looks = {
            each.__name__: each for each in (self.containers, self.networks, self.volumes, self.rows, self.processes)
        }
        return {name: found for name, look in looks.items() if (found := look())}

    def wait_until_empty(self, seconds):
        """Return what is left after SECONDS at the most."""
        deadline = time.monotonic() + seconds
        while (left := self.left()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left
