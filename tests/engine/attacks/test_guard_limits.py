"""Attacks on the limits of guests: an engine does what the guard lets through, and says afterwards what it did."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess

import pytest
from attack import attack
from guarded import make_scope

from moat_plugins.docker_host.policy.containers import check_create
from moat_plugins.docker_host.policy.limits import check_update
from moat_plugins.docker_host.policy.networks import check_network
from moat_plugins.docker_host.policy.verdict import Refused

pytestmark = pytest.mark.slow
IMAGE = "debian:bookworm-slim"
MEMORY = 1 << 28
SCOPE = make_scope(limits={"memory_bytes": MEMORY, "cpus": 0.5, "pids": 100})
FREE = make_scope()
ALWAYS, STUBBORN = {"RestartPolicy": {"Name": "always"}}, {"RestartPolicy": {"Name": "unless-stopped"}}
LARGE = {"Memory": 1 << 32, "MemorySwap": 1 << 33}

UPDATES = {
    "a quota of -1": ("v1.45", {"CpuQuota": -1}),
    "a quota of -1 by an older API": ("v1.41", {"CpuQuota": -1}),
    "another quota of less than nothing": ("v1.45", {"CpuQuota": -1000, "CpuShares": 2}),
    "swap without end": ("v1.45", {"MemorySwap": -1}),
    "much swap": ("v1.45", {"MemorySwap": 1 << 34}),
    "more memory, and more swap": ("v1.45", LARGE),
    "more memory, and swap without end": ("v1.45", {"Memory": 1 << 32, "MemorySwap": -1}),
    "more processors": ("v1.45", {"NanoCpus": 1_500_000_000}),
    "any number of processes": ("v1.45", {"PidsLimit": -1}),
    "many processes": ("v1.45", {"PidsLimit": 100_000}),
    "a heavy weight": ("v1.45", {"CpuShares": 262_144}),
    "coming back always": ("v1.45", ALWAYS),
    "coming back unless stopped": ("v1.45", STUBBORN),
}
CREATES = {
    "a quota beyond the run's": {"CpuQuota": 150_000, "CpuPeriod": 100_000},
    "swap without end": {"Memory": MEMORY, "MemorySwap": -1},
    "a heavy weight": {"CpuShares": 262_144},
    "real time": {"Ulimits": [{"Name": "rtprio", "Soft": 99, "Hard": 99}]},
    "niceness": {"Ulimits": [{"Name": "nice", "Soft": 40, "Hard": 40}]},
    "coming back always": ALWAYS,
}


class Local(http.client.HTTPConnection):
    """To the engine itself."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))


def ask(method, path, body=None):
    connection = Local("docker", timeout=60)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text.strip() else None
    finally:
        connection.close()


@pytest.fixture
def container(engine):
    """One that the guard made, with the run's limits; it need not start for the engine to keep what it is told."""
    made = []

    def make(host):
        body = {"Image": IMAGE, "Cmd": ["true"], "HostConfig": {"NetworkMode": "none", **host}}
        status, answer = ask("POST", "/v1.45/containers/create", body)
        if status == 201:
            made.append(answer["Id"])
        return answer.get("Id", "")

    yield make
    for identity in made:
        ask("DELETE", f"/v1.45/containers/{identity}?force=1")


def lifted(identity):
    """What of the container is beyond the run's limits."""
    if not identity:
        return ""
    host = ask("GET", f"/v1.45/containers/{identity}/json")[1]["HostConfig"]
    beyond = {
        "quota": (host["CpuQuota"] or 0) < 0 or (host["CpuQuota"] or 0) > 50_000,
        "memory": not 0 < host["Memory"] <= MEMORY,
        "swap": host["MemorySwap"] != host["Memory"],
        "processors": host["NanoCpus"] > 500_000_000,
        "processes": not 0 < (host["PidsLimit"] or 0) <= 100,
        "weight": host["CpuShares"] > 1024,
        "ulimits": bool(host["Ulimits"]),
        "restart": host["RestartPolicy"]["Name"] in {"always", "unless-stopped"},
    }
    return ", ".join(name for name, is_so in beyond.items() if is_so)


@attack("limits by update", UPDATES)
def test_update(row, defended, container):
    """POST /containers/{id}/update, with what the guard makes of it and as it is."""
    version, body = row
    made = container(check_create({"Image": IMAGE}, SCOPE)["HostConfig"])
    assert not lifted(made)
    if defended:
        try:
            version, body = "v1.45", check_update(body, SCOPE)
        except Refused:
            return ""
    status, answer = ask("POST", f"/{version}/containers/{made}/update", body)
    assert status == 200, answer
    return lifted(made)


@attack("limits by create", CREATES)
def test_create(row, defended, container):
    """POST /containers/create likewise; the rest is as the run's limits say."""
    held = check_create({"Image": IMAGE}, SCOPE)["HostConfig"]
    if not defended:
        held = {key: value for key, value in held.items() if "CpuQuota" not in row or key != "NanoCpus"}
        return lifted(container({**held, **row}))
    try:
        return lifted(container(check_create({"Image": IMAGE, "HostConfig": row}, SCOPE)["HostConfig"]))
    except Refused:
        return ""


NETWORKS = {
    "IPv6 that nothing filters": {"EnableIPv6": True, "IPAM": {"Config": [{"Subnet": "fd9d:1:2::/64"}]}},
    "IPv6 of the machine's own": {"EnableIPv6": True, "IPAM": {"Config": [{"Subnet": "fd9d:7:7::/64"}]}},
}


@attack("networks", NETWORKS)
def test_networks(row, defended, engine):
    """An engine before Docker 27 keeps networks with IPv6 apart by nothing; a range that is routed is taken over."""
    taken = "7:7" in json.dumps(row)
    if taken:
        subprocess.run(["ip", "-6", "address", "add", "fd9d:7:7::1/64", "dev", "docker0", "nodad"], check=True)
    body = {"Name": "attacked", **row}
    scope = make_scope(version="1.46") if taken else FREE
    try:
        if defended:
            try:
                body = check_network(body, scope)
            except Refused:
                return ""
        status, answer = ask("POST", "/v1.45/networks/create", body)
        if status != 201:
            return ""
        found = ask("GET", f"/v1.45/networks/{answer['Id']}")[1]["EnableIPv6"]
        ask("DELETE", f"/v1.45/networks/{answer['Id']}")
        return "it has IPv6" if found else ""
    finally:
        if taken:
            subprocess.run(["ip", "-6", "address", "del", "fd9d:7:7::1/64", "dev", "docker0"], check=True)
