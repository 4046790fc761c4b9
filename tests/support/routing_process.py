"""Proxies in processes of their own: who runs, where they listen, and how they are got rid of."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from moat_plugins.routing.process import find

OPTIONS = {"idle": None, "timeout": 30.0}
STARTER = """
import json, sys, anyio
from pathlib import Path
from moat_core.errors import MoatError
from moat_plugins.routing.process import ensure
home, port, options = json.loads(sys.argv[1])
sys.stdin.readline()
try:
    print(json.dumps(anyio.run(ensure, Path(home), port, options).to_json()))
except MoatError as error:
    print(json.dumps(error.to_json()))
"""


def begin(home, port, options=OPTIONS):
    """A process that asks for the proxy as soon as its stdin says so."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-c", STARTER, json.dumps([str(home), port, options])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ,
    )  # fmt: skip


def start_at_once(number, home, port, options=OPTIONS):
    """What NUMBER processes are told that ask for the proxy at the same moment."""
    starters = [begin(home, port, options) for _ in range(number)]
    for starter in starters:
        starter.stdin.write("\n")
        starter.stdin.flush()
    return [json.loads(starter.communicate(timeout=60)[0]) for starter in starters]


def proxies(home):
    """The pids of proxies under HOME, those that are just starting or ending included."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            argv = Path(f"/proc/{pid}/cmdline").read_bytes()
            environ = Path(f"/proc/{pid}/environ").read_bytes()
            if b"moat_plugins.routing.serve" in argv and f"MOAT_HOME={home}\0".encode() in environ:
                found.append(int(pid))
    return found


def kill(home):
    """SIGKILL the proxy under HOME, and see it gone."""
    running = find(home)
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    wait_until(lambda: find(home) is None)
    return running


def sweep(home):
    """End whatever a test has left under HOME."""
    for pid in proxies(home):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not proxies(home))


def wait_until(is_so, limit_s=20.0):
    """Look until it is so."""
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.005)


def get(port, host="localhost", address="127.0.0.1"):
    """Status, and error code or body, of one request; `ConnectionError` if nobody is there."""
    connection = http.client.HTTPConnection(address, port, timeout=10)
    try:
        connection.request("GET", "/", headers={"Host": f"{host}:{port}", "Accept": "application/json"})
        answer = connection.getresponse()
        body = answer.read().decode()
        return answer.status, answer.headers.get("Moat-Error") or body
    finally:
        connection.close()


def listening(pid):
    """Where PID listens, as addresses of /proc/net/tcp and tcp6."""
    inodes = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                words = line.split()
                if f"socket:[{words[9]}]" in inodes and (words[3] == "0A" or "udp" in table):
                    found.append(words[1])
    return sorted(found)
