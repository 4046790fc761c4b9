"""What is on the machine that may be a run's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).parents[2]
BUILDKIT_IMAGE = "moat-test/buildkitd"
"""The stand-in for buildkitd, see `conftest.stand_in`."""
MOAT = [sys.executable, "-m", "moat_core.cli"]


def remove_volumes(name):
    """Remove what is kept on purpose: the volumes with NAME in theirs."""
    listing = ["docker", "volume", "ls", "-q", "--filter", f"name={name}"]
    for volume in subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split():
        subprocess.run(["docker", "volume", "rm", volume], capture_output=True, check=True)


class World:
    """What is on the machine that may be a run's: by label on the engine, by MOAT_HOME among the processes."""

    def __init__(self, home, engine=None):
        self.home = Path(home)
        # Remembered now: a test may point DOCKER_HOST elsewhere.
        self._environ = {**os.environ, "DOCKER_HOST": engine} if engine else dict(os.environ)

    def containers(self, run_id=""):
        return self._labelled("ps", "-a", run_id)

    def networks(self, run_id=""):
        return self._labelled("network", "ls", run_id)

    def volumes(self, run_id=""):
        return self._labelled("volume", "ls", run_id)

    def _labelled(self, *words):
        *command, run_id = words
        label = f"label=moat.run-id={run_id}" if run_id else "label=moat.run-id"
        answer = subprocess.run(
            ["docker", *command, "-q", "--filter", label], capture_output=True, text=True, check=True, env=self._environ
        )
        ours = []
        for name in answer.stdout.split():
            kind = {"ps": "container", "network": "network", "volume": "volume"}[command[0]]
            inspect = subprocess.run(
                ["docker", kind, "inspect", name], capture_output=True, text=True, check=False, env=self._environ
            )
            if inspect.returncode == 0 and self._is_ours(json.loads(inspect.stdout)[0]):
                ours.append(name)
        return ours

    def _is_ours(self, data):
        labels = data.get("Labels") or data.get("Config", {}).get("Labels") or {}
        return labels.get("moat.run-id", "") in self.run_ids()

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
        return {
            name: value
            for name, value in {
                "containers": self.containers(),
                "networks": self.networks(),
                "volumes": self.volumes(),
                "rows": self.rows(),
                "processes": self.processes(),
            }.items()
            if value
        }

    def wait_until_empty(self, seconds):
        """Return what is left after SECONDS at the most."""
        deadline = time.monotonic() + seconds
        while (left := self.left()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left
