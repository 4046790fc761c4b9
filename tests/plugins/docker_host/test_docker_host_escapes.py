"""Attempts to get out, each a call of the API that a real engine would obey; and what must go on working."""

from __future__ import annotations

import json
import re
from urllib.parse import parse_qs, urlsplit

import pytest
from guarded import FOREIGN, GUESTS, MARKS, OWN, ask, make_scope, open_guard

IMAGE = "debian:bookworm-slim"
CREATE = "/v1.45/containers/create"


LOOKUP = re.compile(r"/v1\.45/(containers/[^/]+/json|images/.+/json|networks/[^/]+|volumes/[^/]+)")
"""What the guard asks to find out whose an object is."""


def host(**config):
    return {"Image": IMAGE, "HostConfig": config}


def bind(source, **more):
    return host(Mounts=[{"Type": "bind", "Source": source, "Target": "/x", **more}])


def volume(**options):
    return host(Mounts=[{"Type": "volume", "Source": "v", "Target": "/x", "VolumeOptions": options}])


BIND_DRIVER = {"Name": "local", "Options": {"type": "none", "o": "bind", "device": "/"}}

CREATES = {
    "privileged": host(Privileged=True),
    "pid host": host(PidMode="host"),
    "pid of the run's container": host(PidMode="container:moat-run-0000abcd"),
    "pid of a foreign container": host(PidMode="container:theirs"),
    "network host": host(NetworkMode="host"),
    "network of a foreign container": host(NetworkMode="container:theirs"),
    "a foreign network": host(NetworkMode="theirs"),
    "network host by endpoint": {"Image": IMAGE, "NetworkingConfig": {"EndpointsConfig": {"host": {}}}},
    "a foreign network by endpoint": {"Image": IMAGE, "NetworkingConfig": {"EndpointsConfig": {"theirs": {}}}},
    "ipc host": host(IpcMode="host"),
    "ipc of a foreign container": host(IpcMode="container:theirs"),
    "uts host": host(UTSMode="host"),
    "userns host": host(UsernsMode="host"),
    "cgroupns host": host(CgroupnsMode="host"),
    "a device": host(Devices=[{"PathOnHost": "/dev/sda", "PathInContainer": "/d", "CgroupPermissions": "rwm"}]),
    "a device rule": host(DeviceCgroupRules=["a *:* rwm"]),
    "a GPU": host(DeviceRequests=[{"Count": -1, "Capabilities": [["gpu"]]}]),
    "SYS_ADMIN": host(CapAdd=["SYS_ADMIN"]),
    "CAP_SYS_PTRACE": host(CapAdd=["CAP_SYS_PTRACE"]),
    "sys_module in lower case": host(CapAdd=["sys_module"]),
    "all capabilities": host(CapAdd=["ALL"]),
    "no seccomp": host(SecurityOpt=["seccomp=unconfined"]),
    "no seccomp, with a colon": host(SecurityOpt=["seccomp:unconfined"]),
    "a seccomp profile": host(SecurityOpt=['seccomp={"defaultAction":"SCMP_ACT_ALLOW"}']),
    "no AppArmor": host(SecurityOpt=["apparmor=unconfined"]),
    "no SELinux": host(SecurityOpt=["label=disable"]),
    "new privileges": host(SecurityOpt=["no-new-privileges=false"]),
    "unmasked paths": host(SecurityOpt=["systempaths=unconfined"]),
    "another masking": host(MaskedPaths=["/nothing"]),
    "another read-only list": host(ReadonlyPaths=["/nothing"]),
    "a sysctl": host(Sysctls={"kernel.core_pattern": "|/x"}),
    "bind of root": host(Binds=["/:/host"]),
    "bind of etc, read-only": host(Binds=["/etc:/host:ro"]),
    "bind of the socket": host(Binds=["/var/run/docker.sock:/var/run/docker.sock"]),
    "bind of the socket's folder": host(Binds=["/run:/x"]),
    "bind of the guard's own socket": host(Binds=["/run/moat/docker:/x"]),
    "bind by way of dots": host(Binds=["/workspace/../../etc:/x"]),
    "mount of root": bind("/"),
    "mount of root with slashes": bind("//"),
    "mount of proc": bind("/proc/1/root"),
    "mount that the host sees later": bind("/workspace", BindOptions={"Propagation": "rshared"}),
    "volume that binds": volume(DriverConfig=BIND_DRIVER),
    "volume of another driver": volume(DriverConfig={"Name": "vieux/sshfs"}),
    "a driver for all": host(VolumeDriver="rexray"),
    "a foreign volume": host(Binds=["theirs:/x"]),
    "moat's volume": host(Binds=["moat-cache-1:/x"]),
    "volumes from a foreign container": host(VolumesFrom=["theirs"]),
    "a cluster volume": host(Mounts=[{"Type": "cluster", "Source": "x", "Target": "/x"}]),
    "another runtime": host(Runtime="runc-unsafe"),
    "a cgroup parent": host(CgroupParent="/"),
    "an annotation": host(Annotations={"dev.gvisor.spec.mount.x": "y"}),
    "a log driver that calls out": host(LogConfig={"Type": "syslog", "Config": {"syslog-address": "tcp://h:1"}}),
    "no OOM killer": host(OomKillDisable=True),
    "never killed": host(OomScoreAdj=-1000),
    "real time": host(CpuRealtimeRuntime=950000),
    "published to the world": host(PortBindings={"80/tcp": [{"HostIp": "192.0.2.1", "HostPort": "80"}]}),
    "linked to a foreign container": host(Links=["theirs:db"]),
    "a label of moat's": {"Image": IMAGE, "Labels": {"moat.run-id": "run-ffffffff"}},
    "a label of moat's in capitals": {"Image": IMAGE, "Labels": {"MOAT.owner": "me"}},
    "an unknown field": {"Image": IMAGE, "FutureField": {"on": True}},
    "an unknown field of the host": host(FutureField="x"),
    "a known field in lower case": {"Image": IMAGE, "hostconfig": {"privileged": True}},
    "a known field in capitals": host(PRIVILEGED=True),
    "a known field with a long s": {"Image": IMAGE, "Ho\u017ftConfig": {"Privileged": True}},
}


def call(method, target, body=None):
    return method, target, body


CALLS = {
    "a foreign container": call("GET", "/containers/theirs/json"),
    "logs of a foreign one": call("GET", "/containers/theirs/logs?stdout=1"),
    "files of a foreign one": call("GET", "/containers/theirs/archive?path=/etc"),
    "an export of a foreign one": call("GET", f"/containers/{FOREIGN}/export"),
    "a stop of a foreign one": call("POST", "/containers/theirs/stop"),
    "a kill of the run's own container": call("POST", "/containers/moat-run-0000abcd/kill"),
    "a removal of a foreign one": call("DELETE", "/containers/theirs?force=1"),
    "an exec in a foreign one": call("POST", "/containers/theirs/exec", {"Cmd": ["id"]}),
    "an attach to a foreign one": call("POST", "/containers/theirs/attach?stream=1"),
    "a privileged exec": call("POST", "/containers/mine/exec", {"Cmd": ["id"], "Privileged": True}),
    "an unknown field of an exec": call("POST", "/containers/mine/exec", {"Cmd": ["id"], "Future": 1}),
    "a foreign exec": call("POST", f"/exec/{'f' * 64}/start", {}),
    "devices by update": call("POST", "/containers/mine/update", {"Devices": [{"PathOnHost": "/dev/sda"}]}),
    "a commit of a foreign one": call("POST", "/commit?container=theirs", {}),
    "a copy by websocket": call("GET", "/containers/mine/attach/ws"),
    "a foreign network": call("GET", "/networks/theirs"),
    "its removal": call("DELETE", "/networks/theirs"),
    "the run's own removal": call("DELETE", "/networks/moat-run-0000abcd"),
    "a foreign container on the own network": call("POST", "/networks/mine/connect", {"Container": "theirs"}),
    "an own container on a foreign network": call("POST", "/networks/theirs/connect", {"Container": "mine"}),
    "a macvlan": call("POST", "/networks/create", {"Name": "n", "Driver": "macvlan", "Options": {"parent": "eth0"}}),
    "a bridge of the machine's": call(
        "POST", "/networks/create", {"Name": "n", "Options": {"com.docker.network.bridge.name": "docker0"}}
    ),
    "the world's addresses": call(
        "POST", "/networks/create", {"Name": "n", "IPAM": {"Config": [{"Subnet": "8.8.8.0/24"}]}}
    ),
    "a volume that binds": call("POST", "/volumes/create", {"Name": "v", "DriverOpts": {"device": "/", "o": "bind"}}),
    "a volume of another driver": call("POST", "/volumes/create", {"Name": "v", "Driver": "nfs"}),
    "a foreign volume by its name": call("POST", "/volumes/create", {"Name": "theirs"}),
    "a foreign volume": call("GET", "/volumes/theirs"),
    "its removal too": call("DELETE", "/volumes/theirs?force=1"),
    "the removal of an image": call("DELETE", f"/images/{IMAGE}"),
    "another name of an image": call("POST", f"/images/{IMAGE}/tag?repo=x&tag=1"),
    "a name that is taken": call("POST", "/images/own:1/tag?repo=debian&tag=bookworm-slim"),
    "a name of moat's images": call("POST", "/images/own:1/tag?repo=moat/run&tag=1"),
    "the same by its registry": call("POST", "/images/own:1/tag?repo=docker.io/moat/run&tag=1"),
    "a push of a foreign image": call("POST", f"/images/{IMAGE}/push"),
    "a load of an archive": call("POST", "/images/load", b"x"),
    "an import from an address": call("POST", "/images/create?fromSrc=http://169.254.169.254/&repo=x"),
    "an import over a name": call("POST", "/images/create?fromSrc=-&repo=debian&tag=bookworm-slim", b"x"),
    "a build on the host's network": call("POST", "/build?networkmode=host", b"x"),
    "a build on a foreign network": call("POST", "/build?networkmode=theirs", b"x"),
    "a build of an address": call("POST", "/build?remote=http://169.254.169.254/", b"x"),
    "a build over a name": call("POST", f"/build?t={IMAGE}", b"x"),
    "a build over a second name": call("POST", f"/build?t=own:1&t={IMAGE}", b"x"),
    "a build without seccomp": call("POST", "/build?securityopt=[%22seccomp=unconfined%22]", b"x"),
    "a build in another cgroup": call("POST", "/build?cgroupparent=/", b"x"),
    "BuildKit without its filter": call("POST", "/build?version=2", b"x"),
    "a swarm": call("POST", "/swarm/init", {"ListenAddr": "0.0.0.0"}),
    "a service": call("POST", "/services/create", {"Name": "x"}),
    "a secret": call("GET", "/secrets"),
    "a plugin": call("POST", "/plugins/pull?remote=x"),
    "a login by the engine": call("POST", "/auth", {"serveraddress": "http://127.0.0.1:1"}),
    "an unknown endpoint": call("POST", "/future/thing"),
    "an unknown method": call("PATCH", "/containers/mine"),
    "an unknown parameter": call("GET", "/containers/json?future=1"),
}


@pytest.mark.parametrize("body", CREATES.values(), ids=CREATES.keys())
@pytest.mark.parametrize("runtime", ["runsc", None])
async def test_no_such_container_is_made(tmp_path, body, runtime):
    """The engine is never asked to make it, and the client is told in Docker's way."""
    (tmp_path / "workspace").mkdir()
    async with open_guard(make_scope(tmp_path, oci_runtime=runtime)) as (connect, engine, _):
        status, answer = await ask(connect(), "POST", CREATE, body)
        assert status in {400, 403, 404, 409}
        assert set(answer) == {"message"}
        assert not [each for each in engine.asked if each[0] == "POST" and "/containers/" in each[1]]


@pytest.mark.parametrize(("method", "target", "body"), CALLS.values(), ids=CALLS.keys())
async def test_no_such_call_reaches_the_engine(method, target, body):
    """Nothing but questions about whose an object is gets through."""
    async with open_guard(make_scope()) as (connect, engine, _):
        status, answer = await ask(connect(), method, f"/v1.45{target}", body)
        assert status in {400, 403, 404, 409, 503}
        assert set(answer) == {"message"}
        assert not [each[:2] for each in engine.asked if each[0] != "GET" or not LOOKUP.fullmatch(each[1])]


def test_there_are_at_least_sixty():
    """The list is as long as was asked for."""
    assert len(CREATES) + len(CALLS) >= 60


async def test_a_foreign_object_is_unknown_in_dockers_words():
    """Nothing tells it from one that does not exist."""
    async with open_guard(make_scope()) as (connect, _, _):
        stream = connect()
        for kind, path, said in (
            ("container", "/containers/{}/json", "No such container: {}"),
            ("network", "/networks/{}", "network {} not found"),
            ("volume", "/volumes/{}", "get {}: no such volume"),
        ):
            for name in ("theirs", "nobodys"):
                answer = await ask(stream, "GET", path.format(name))
                assert answer == (404, {"message": said.format(name)}), kind


async def test_what_is_forced_on_a_container(tmp_path):
    """Labels, runtime, network, log, limits and the addresses of ports are the run's, whatever is asked for."""
    (tmp_path / "workspace").mkdir()
    scope = make_scope(tmp_path, oci_runtime="runsc", limits={"memory_bytes": 10**9, "cpus": 1.0, "pids": 100})
    body = {
        "Image": IMAGE,
        "Labels": {"a": "b"},
        "HostConfig": {
            "PortBindings": {"80/tcp": [{"HostPort": "8080"}], "81/tcp": [{"HostIp": "0.0.0.0"}]},
            "RestartPolicy": {"Name": "always"},
            "Memory": 10**12,
            "MaskedPaths": [],
            "ReadonlyPaths": None,
            "Privileged": False,
            "Binds": ["/workspace:/src"],
        },
    }
    async with open_guard(scope) as (connect, engine, _):
        status, answer = await ask(connect(), "POST", CREATE + "?name=web", body)
        assert (status, answer) == (201, {"Id": OWN, "Warnings": []})
        target, sent = engine.last()
    assert target == "/v1.45/containers/create?name=web"
    assert GUESTS.is_own("container", "web", sent["Labels"])
    assert sent["Labels"].keys() == GUESTS.sign("container", "web", {"a": "b"}).keys()
    assert sent["Labels"]["a"] == "b"
    made = sent["HostConfig"]
    assert made["Runtime"] == "runsc"
    assert made["NetworkMode"] == "moat-run-0000abcd"
    assert made["PortBindings"] == {
        "80/tcp": [{"HostIp": "172.20.0.1", "HostPort": "8080"}],
        "81/tcp": [{"HostIp": "172.20.0.1", "HostPort": ""}],
    }
    assert made["RestartPolicy"] == {"Name": "on-failure"}
    assert (made["Memory"], made["MemorySwap"], made["NanoCpus"], made["PidsLimit"]) == (10**9, 10**9, 10**9, 100)
    assert made["Mounts"] == [
        {"Type": "bind", "Source": str(tmp_path / "workspace"), "Target": "/src", "ReadOnly": False}
    ]
    assert made["LogConfig"]["Config"]["max-size"] == "10m"
    assert not {"Binds", "MaskedPaths", "ReadonlyPaths"} & set(made)


async def test_lists_are_filtered(tmp_path):
    """Every list is asked for with the run's labels, beside the filters that the client has."""
    async with open_guard(make_scope()) as (connect, engine, _):
        stream = connect()
        for path in ("/containers/json", "/networks", "/events"):
            await ask(stream, "GET", f'/v1.45{path}?filters={{"label":{{"x=y":true}}}}')
            target = engine.asked[-1][1]
            filters = json.loads(parse_qs(urlsplit(target).query)["filters"][0])
            assert filters["label"] == ["x=y", *(f"{key}={value}" for key, value in MARKS.items())]


async def test_options_widen():
    """What the owner allows gets through."""
    words = [
        "privileged",
        "host-network",
        "host-namespaces",
        "capabilities",
        "devices",
        "security-opt",
        "binds",
        "runtime",
    ]
    body = host(
        Privileged=True,
        NetworkMode="host",
        PidMode="host",
        CapAdd=["SYS_ADMIN"],
        Devices=[{"PathOnHost": "/dev/kvm"}],
        SecurityOpt=["seccomp=unconfined"],
        Binds=["/etc:/etc:ro"],
        Runtime="crun",
    )
    async with open_guard(make_scope(allow=words)) as (connect, engine, _):
        status, _answer = await ask(connect(), "POST", CREATE, body)
        assert status == 201
        made = engine.last()[1]["HostConfig"]
    assert made["Privileged"] is True
    assert made["NetworkMode"] == made["PidMode"] == "host"
    assert made["Runtime"] == "crun"
    assert made["Mounts"] == [{"Type": "bind", "Source": "/etc", "Target": "/etc", "ReadOnly": True}]
