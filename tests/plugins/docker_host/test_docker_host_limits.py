"""Limits: whatever a client names, on making or changing a container or in a build, is no more than the run has."""

from __future__ import annotations

import json

import pytest
from guarded import make_scope
from hypothesis import given, settings
from hypothesis import strategies as st

from moat_plugins.docker_host.policy.builds import _force_attributes
from moat_plugins.docker_host.policy.containers import check_create
from moat_plugins.docker_host.policy.limits import check_build_limits, check_update
from moat_plugins.docker_host.policy.networks import check_network, read_routes
from moat_plugins.docker_host.policy.verdict import Refused
from moat_plugins.docker_host.wire import write_entry

LIMITED = {"memory_bytes": 1 << 28, "cpus": 1.5, "pids": 100}
FIELDS = [
    "CpuShares",
    "Memory",
    "NanoCpus",
    "BlkioWeight",
    "CpuPeriod",
    "CpuQuota",
    "MemoryReservation",
    "MemorySwap",
    "MemorySwappiness",
    "KernelMemory",
    "PidsLimit",
]
NUMBERS = st.integers(-(1 << 40), 1 << 62) | st.sampled_from([None, 0, -1, 1, 1000, 100_000])


def is_held(config, *, whole):
    """Whether CONFIG, of a container that is new or has what it had, has no more than LIMITED says."""
    memory, nano, pids = config.get("Memory"), config.get("NanoCpus"), config.get("PidsLimit")
    if whole and None in (memory, nano, pids):
        return False
    return (
        (memory is None or 0 < memory <= 1 << 28)
        and config.get("MemorySwap") == memory
        and (nano is None or 0 < nano <= 1_500_000_000)
        and "CpuQuota" not in config
        and "CpuPeriod" not in config
        and (pids is None or 0 < pids <= 100)
        and config.get("CpuShares", 0) <= 1024
        and config.get("BlkioWeight", 0) <= 500
    )


@given(st.dictionaries(st.sampled_from(FIELDS), NUMBERS))
@settings(deadline=None)
def test_no_field_lifts_what_another_holds(asked):
    """However they are combined, making and changing hold the same; what an update does not name it leaves alone."""
    scope = make_scope(limits=LIMITED)
    for check, whole in ((lambda: check_update(asked, scope), False), (lambda: make(asked, scope), True)):
        try:
            made = check()
        except Refused:
            continue
        assert is_held(made, whole=whole), made
    if not any(asked.values()):
        assert check_update(asked, scope) == {}


def make(host, scope):
    return check_create({"Image": "x", "HostConfig": host}, scope)["HostConfig"]


@pytest.mark.parametrize(
    ("asked", "nano"),
    [
        ({"CpuQuota": 50_000}, 500_000_000),
        ({"CpuQuota": 50_000, "CpuPeriod": 200_000}, 250_000_000),
        ({"CpuQuota": 900_000}, 1_500_000_000),
        ({"CpuQuota": -1, "NanoCpus": 5}, 5),
    ],
)
def test_a_quota_is_so_many_processors(asked, nano):
    """Less than the run has is given as asked for, in the one field that counts."""
    scope = make_scope(limits=LIMITED)
    assert make(asked, scope)["NanoCpus"] == check_update(asked, scope)["NanoCpus"] == nano


def test_a_run_without_limits_sets_its_guests_none():
    """What it says is passed on, but for weights."""
    asked = {"CpuQuota": 7000, "MemorySwap": -1, "CpuShares": 9000}
    assert check_update(asked, make_scope()) == {**asked, "CpuShares": 1024}


@pytest.mark.parametrize("check", [check_update, make], ids=["update", "create"])
@pytest.mark.parametrize(
    "asked",
    [
        {"Future": 1},
        {"cpuQuota": -1},
        {"CPUQUOTA": -1},
        {"Memory": 1.5},
        {"Memory": "1"},
        {"Memory": 1 << 63},
        {"CpuShares": -1},
        {"CpuRealtimeRuntime": 1000},
        {"Ulimits": [{"Name": "rtprio", "Soft": 99, "Hard": 99}]},
        {"Ulimits": [{"Name": "nice", "Soft": 40, "Hard": 40}]},
        {"Ulimits": [{"Name": "NOFILE", "Soft": 1, "Hard": 1}]},
        {"OomKillDisable": True},
        {"RestartPolicy": {"Name": "Always"}},
    ],
    ids=str,
)
def test_what_neither_takes(check, asked):
    """An unknown field, another spelling, a wrong type and what nobody may have are refused by both."""
    with pytest.raises(Refused):
        check(asked, make_scope(limits=LIMITED))


def test_steps_of_the_classic_builder_are_held_likewise():
    """It knows a quota only."""
    scope = make_scope(limits=LIMITED)
    made = check_build_limits({"t": "x", "memory": "-1", "memswap": "-1", "cpuquota": "-1", "cpushares": "5000"}, scope)
    assert made == {
        "t": "x",
        "memory": str(1 << 28),
        "memswap": str(1 << 28),
        "cpuperiod": "100000",
        "cpuquota": "150000",
        "cpushares": "1024",
    }
    assert check_build_limits({"t": "x"}, make_scope()) == {"t": "x"}
    asked = {"ulimits": json.dumps([{"Name": "nofile", "Soft": 5, "Hard": 6}]), "cpusetcpus": "0"}
    assert check_build_limits(asked, make_scope()) == asked
    for bad in ({"ulimits": json.dumps([{"Name": "rtprio"}])}, {"memory": "[1]"}, {"cpuperiod": "x"}):
        with pytest.raises(Refused):
            check_build_limits(bad, scope)


@pytest.mark.parametrize(("limit", "fine"), [("nofile=1:2", True), ("nofile=1,rtprio=9:9", False), ("nice=40", False)])
def test_buildkits_steps_have_no_other_ulimits(limit, fine):
    """The option of its frontend says the same in other words."""
    fields = [write_entry(7, "ulimit", limit)]
    if fine:
        assert _force_attributes(fields, 7, make_scope())
    else:
        with pytest.raises(Refused):
            _force_attributes(fields, 7, make_scope())


def test_ranges_of_ipv6_are_compared_with_the_machines_routes(tmp_path, monkeypatch):
    """A route to a part of it, to more than it, or to an address of the machine's own; the default one says nothing."""
    table = tmp_path / "ipv6_route"
    table.write_text(
        "fd12000000000000000000000000abcd 80 "
        + "0" * 32
        + " 00 "
        + "0" * 32
        + " 00000000 00000001 00000000 80200001 lo\n"
        "fd340000000000000000000000000000 20 "
        + "0" * 32
        + " 00 "
        + "0" * 32
        + " 00000400 00000001 00000000 00000001 wg\n"
        "00000000000000000000000000000000 00 "
        + "0" * 32
        + " 00 "
        + "0" * 32
        + " ffffffff 00000001 00000000 00200200 lo\n"
        "truncated\n"
    )
    routes = read_routes("/nowhere", str(table))
    assert [str(each) for each in routes] == ["fd12::abcd/128", "fd34::/32"]
    monkeypatch.setattr("moat_plugins.docker_host.policy.networks.read_routes", lambda: routes)

    def ask(subnet):
        return check_network({"Name": "n", "EnableIPv6": True, "IPAM": {"Config": [{"Subnet": subnet}]}}, scope)

    scope = make_scope(version="1.46")
    for taken in ("fd34:0:1::/48", "fd34::/16", "fd12::/64", "fd12::abcd/128", "fd00::/8", "fc00::/7", "2001:db8::/32"):
        with pytest.raises(Refused):
            ask(taken)
    assert ask("fd56:1::/64")["EnableIPv6"]


def test_engines_that_do_not_filter_ipv6_give_none():
    """Before Docker 27 networks with IPv6 are reached by everybody; what does not ask for it goes on."""
    with pytest.raises(Refused, match="Docker 27"):
        check_network({"Name": "n", "EnableIPv6": True}, make_scope(version="1.45"))
    assert "EnableIPv6" not in check_network({"Name": "n", "EnableIPv6": False}, make_scope(version="1.45"))
