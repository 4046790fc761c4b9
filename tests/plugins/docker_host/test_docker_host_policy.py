"""The tables: what hypothesis makes of them, compared with a model; folders, networks, builds, names."""

from __future__ import annotations

import os

import pytest
from guarded import make_scope, open_guard
from hypothesis import given, settings
from hypothesis import strategies as st

from moat_core.types import Tmpfs
from moat_plugins.docker_host.engine import Engine
from moat_plugins.docker_host.folders import Bind, find_folder
from moat_plugins.docker_host.names import make_hosts
from moat_plugins.docker_host.policy.builds import CHECKED, PASSED, check_message, why_refused
from moat_plugins.docker_host.policy.call import split_target
from moat_plugins.docker_host.policy.containers import _host_fields, check_create
from moat_plugins.docker_host.policy.endpoints import ENDPOINTS
from moat_plugins.docker_host.policy.networks import check_network, read_routes
from moat_plugins.docker_host.policy.shape import is_harmless
from moat_plugins.docker_host.policy.verdict import Refused
from moat_plugins.docker_host.wire import decode, encode, read_map, write_entry

# -- containers ----------------------------------------------------------------------------------------------------

SAFE = {
    "Hostname": "x",
    "User": "1000",
    "Tty": True,
    "Env": ["A=b"],
    "Cmd": ["id"],
    "WorkingDir": "/x",
    "StopTimeout": 3,
}
SAFE_HOST = {
    "AutoRemove": True,
    "CapDrop": ["ALL"],
    "CapAdd": ["CHOWN"],
    "ReadonlyRootfs": True,
    "ShmSize": 1 << 20,
    "SecurityOpt": ["no-new-privileges"],
    "IpcMode": "private",
    "Tmpfs": {"/t": "size=1m,exec"},
    "Dns": ["192.0.2.1"],
    "ExtraHosts": ["a:192.0.2.1"],
    "Init": True,
    "OomScoreAdj": 5,
    "LogConfig": {"Type": "json-file", "Config": {}},
    "RestartPolicy": {"Name": "no"},
}
UNSAFE_HOST = {
    "Privileged": True,
    "PidMode": "host",
    "UTSMode": "host",
    "UsernsMode": "host",
    "CgroupnsMode": "host",
    "CapAdd": ["SYS_ADMIN"],
    "SecurityOpt": ["seccomp=unconfined"],
    "Devices": [{"PathOnHost": "/dev/sda"}],
    "DeviceCgroupRules": ["a"],
    "DeviceRequests": [{"Count": 1}],
    "Sysctls": {"a": "b"},
    "CgroupParent": "/x",
    "Runtime": "other",
    "MaskedPaths": ["/x"],
    "OomScoreAdj": -1,
    "Annotations": {"a": "b"},
    "Privileged ": True,
    "privileged": True,
    "Future": 1,
}
TABLE = set(_host_fields(make_scope()))
NOTHING = st.sampled_from([None, False, 0, "", [], {}, {"a": None}])


@given(
    st.dictionaries(st.sampled_from(sorted(SAFE)), st.none()),
    st.lists(st.sampled_from(sorted(SAFE_HOST)), unique=True),
    st.lists(st.sampled_from(sorted(UNSAFE_HOST)), unique=True, max_size=2),
    st.dictionaries(st.text(min_size=1).filter(lambda key: key not in TABLE), NOTHING, max_size=3),
)
@settings(deadline=None)
def test_a_container_is_made_exactly_if_nothing_of_it_is_unsafe(config, safe, unsafe, empty):
    """The model: a body is taken if it has no unsafe field; fields that say nothing change nothing."""
    host = empty | {key: SAFE_HOST[key] for key in safe} | {key: UNSAFE_HOST[key] for key in unsafe}
    body = {"Image": "x", **{key: SAFE[key] for key in config}, "HostConfig": host}
    if unsafe:
        with pytest.raises(Refused):
            check_create(body, make_scope())
        return
    made = check_create(body, make_scope())
    assert {key: made[key] for key in config} == {key: SAFE[key] for key in config}
    assert not set(made["HostConfig"]) - KNOWN
    assert made["Labels"] == {}


KNOWN = set(SAFE_HOST) | {"PidsLimit", "Memory", "NanoCpus", "Runtime", "MemorySwap"}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
@settings(max_examples=300, deadline=None)
def test_whatever_comes_is_taken_or_refused(body):
    """Nothing else is raised, and an unknown key never gets through."""
    try:
        made = check_create({"HostConfig": body, "Image": "x"}, make_scope())
    except Refused:
        return
    if isinstance(body, dict):
        assert all(key in made["HostConfig"] for key in body if not is_harmless(body[key]))


# -- targets -------------------------------------------------------------------------------------------------------


@given(st.text(max_size=40))
@settings(deadline=None)
def test_a_target_is_plain_or_refused(text):
    """What is let through has one reading: no dots, no double slashes, nothing quoted."""
    try:
        version, path, _ = split_target("/" + text)
    except Refused:
        return
    assert path.startswith("/")
    assert not {"", ".", ".."} & set(path.split("/")[1:])
    assert "%" not in version + path


def test_every_pattern_is_anchored_to_its_own_kind():
    """A path that one endpoint knows is not taken by another of the same method."""
    for endpoint in [each for each in ENDPOINTS if "swarm" not in each.pattern.pattern]:
        sample = endpoint.pattern.pattern
        for name in (r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]*)", r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.:@/+-]*?)"):
            sample = sample.replace(name, "zzz")
        found = [each for each in ENDPOINTS if each.method == endpoint.method and each.pattern.fullmatch(sample)]
        assert found == [endpoint], sample


# -- folders -------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """A workspace with a folder, a file, links, and something beside it."""
    workspace = tmp_path / "workspace"
    (workspace / "a" / "b").mkdir(parents=True)
    (workspace / "a" / "file").write_text("x")
    (workspace / "in").symlink_to("a/b")
    (workspace / "out").symlink_to(tmp_path)
    (workspace / "etc").symlink_to("/etc")
    (workspace / "up").symlink_to("../beside")
    (workspace / "chain").symlink_to("out")
    (tmp_path / "beside").mkdir()
    (tmp_path / "extra").mkdir()
    os.mkfifo(workspace / "fifo")
    return tmp_path


def look(tree, source, *, read_only=False, make=True, **scope):
    return find_folder(source, "/x", make_scope(tree, **scope), read_only=read_only, make=make)


def test_a_folder_of_the_workspace_is_found(tree):
    """The workspace as a whole, a folder, a file, a link that stays inside."""
    root = str(tree / "workspace")
    assert look(tree, "/workspace") == Bind(root, "", "/x", read_only=False)
    assert look(tree, "/workspace/a/b/") == Bind(root, "a/b", "/x", read_only=False)
    assert look(tree, "/workspace/in") == Bind(root, "a/b", "/x", read_only=False)
    assert look(tree, "/workspace/a/../a/b", read_only=True) == Bind(root, "a/b", "/x", read_only=True)
    assert look(tree, "/workspace/a/file") == Bind(root, "a/file", "/x", read_only=False, is_file=True)


@pytest.mark.parametrize(
    "source",
    [
        "/",
        "/etc",
        "/workspace/..",
        "/workspace/out",
        "/workspace/out/beside",
        "/workspace/etc",
        "/workspace/etc/passwd",
        "/workspace/up",
        "/workspace/chain",
        "/workspacex",
        "/workspace/fifo",
        "/workspace/a/file/below",
        "/run/moat",
        "/run/moat/docker",
        "/var/run/docker.sock",
    ],
)
def test_what_is_not_in_a_mount_is_refused(tree, source):
    """Links that lead out, what lies beside, and what is no file or folder."""
    with pytest.raises(Refused):
        look(tree, source)


def test_a_missing_folder_is_made_for_the_owner_and_behind_no_link(tree):
    """As `docker run -v` does; a mount does not."""
    assert look(tree, "/workspace/new/er").below == "new/er"
    assert (tree / "workspace/new/er").stat().st_uid == (tree / "workspace").stat().st_uid
    with pytest.raises(Refused):
        look(tree, "/workspace/other", make=False)
    with pytest.raises(Refused):
        look(tree, "/workspace/out/made")
    assert not (tree / "made").exists()


def test_what_is_hidden_or_read_only_for_the_run_is_out_of_reach(tree):
    """By its path it is, in folders that the run can rename, or put a link in the place of."""
    read_only, secret = [(tree / "workspace/a/b", "/workspace/a/b", True)], (Tmpfs("/workspace/a/secret"),)
    for path in ("/workspace", "/workspace/a", "/workspace/a/file"):
        with pytest.raises(Refused, match="hides"):
            look(tree, path, mounts=[(tree / "beside", "/workspace/a/b", False)])
        with pytest.raises(Refused, match="hides"):
            look(tree, path, read_only=True, tmpfs=secret)
        assert look(tree, path, read_only=True, mounts=read_only).read_only
    for path in ("/workspace", "/workspace/a"):
        with pytest.raises(Refused, match=":ro"):
            look(tree, path, mounts=read_only)
    with pytest.raises(Refused, match="only the workspace"):
        look(tree, "/workspace/a/secret/x", tmpfs=secret)
    beside = [(tree / "beside", "/opt/x", True)]
    assert look(tree, "/opt/x", mounts=beside).read_only
    assert look(tree, "/workspace/a", mounts=beside) == Bind(str(tree / "workspace"), "a", "/x", read_only=False)


def test_a_link_out_of_a_workspace_in_a_read_only_mount_stays_in(tree):
    """The mount around it is no way to what is beside it: the engine looks from the workspace on."""
    around = [(tree, "/parent", True)]
    assert look(tree, "/workspace/a", mounts=around) == Bind(str(tree / "workspace"), "a", "/x", read_only=False)
    assert look(tree, "/parent/beside", mounts=around) == Bind(str(tree), "beside", "/x", read_only=True)


def test_a_mount_that_is_in_another_is_a_part_of_it(tree):
    """From inside the other one its source can be replaced by a link, which only the engine's own look is safe from."""
    mounts = [(tree / "workspace/a", "/opt/a", True)]
    root = str(tree / "workspace")
    assert look(tree, "/opt/a", mounts=mounts) == Bind(root, "a", "/x", read_only=True)
    assert look(tree, "/opt/a/b", mounts=mounts) == Bind(root, "a/b", "/x", read_only=True)
    (tree / "workspace/a").rename(tree / "workspace/old")
    (tree / "workspace/a").symlink_to("/etc")
    with pytest.raises(Refused):
        look(tree, "/opt/a", mounts=mounts)
    (tree / "workspace/a").unlink()
    (tree / "workspace/a").symlink_to("old")
    with pytest.raises(Refused):
        look(tree, "/opt/a/b", mounts=mounts)


# -- networks and names --------------------------------------------------------------------------------------------


def test_ranges_of_addresses(tmp_path):
    """Private ones that the machine has no way to."""
    routes = tmp_path / "route"
    routes.write_text(
        "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
        "eth0 00000000 0102000A 0003 0 0 0 00000000 0 0 0\n"
        "eth0 0001A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n"
    )
    assert [str(each) for each in read_routes(str(routes), "/nowhere")] == ["192.168.1.0/24"]
    for subnet in ("8.8.8.0/24", "0.0.0.0/0", "169.254.169.0/24", "10.0.0.0/7", "2001:db8::/64", "x", "127.0.0.0/8"):
        with pytest.raises(Refused):
            check_network({"Name": "n", "IPAM": {"Config": [{"Subnet": subnet}]}}, make_scope())


def test_a_hosts_file_names_who_shares_a_network():
    """Aliases, links and extra hosts are there; what is on other networks is not, nor what could break a line."""

    def guest(name, networks, **config):
        ends = {net: {"IPAddress": address, "Aliases": aliases} for net, (address, aliases) in networks.items()}
        return {
            "Id": name * 3,
            "Name": f"/{name}",
            "Config": {"Hostname": name},
            "HostConfig": {"ExtraHosts": config.get("extra")},
            "NetworkSettings": {"Networks": ends},
        }

    web = guest("web", {"n": ("10.0.0.2", ["www"])}, extra=["up:host-gateway", "six=2001:db8::1"])
    others = [web, guest("db", {"n": ("10.0.0.3", ["sql", "a\n10.0.0.9 evil"])}), guest("far", {"m": ("10.1.0.2", [])})]
    lines = make_hosts(web, others, "172.20.0.1").splitlines()
    assert lines[2:] == ["172.20.0.1\tup", "2001:db8::1\tsix", "10.0.0.2\tweb", "10.0.0.2\twww web", "10.0.0.3\tsql db"]


# -- BuildKit ------------------------------------------------------------------------------------------------------

SOLVE = "/moby.buildkit.v1.Control/Solve"
BRIDGE = "/moby.buildkit.v1.frontend.LLBBridge/Solve"
HISTORY = "/moby.buildkit.v1.Control/ListenBuildHistory"


def exporter(kind, **attributes):
    entries = [write_entry(2, key, value) for key, value in attributes.items()]
    return (13, 2, encode([(1, 2, kind.encode()), *entries]))


REFUSED_BUILDS = {
    "network.host": (SOLVE, [(9, 2, b"network.host")]),
    "security.insecure": (SOLVE, [(9, 2, b"security.insecure")]),
    "an unknown entitlement": (SOLVE, [(9, 2, b"device")]),
    "steps of its own": (SOLVE, [(2, 2, b"x")]),
    "steps of its own as inputs": (SOLVE, [(10, 2, b"x")]),
    "another frontend": (SOLVE, [(6, 2, b"gateway.v0")]),
    "the host's network": (SOLVE, [write_entry(7, "force-network-mode", "host")]),
    "a name that is taken": (SOLVE, [exporter("moby", name="own:1,debian:bookworm-slim")]),
    "the same in the old field": (SOLVE, [(3, 2, b"moby"), write_entry(4, "name", "debian:bookworm-slim")]),
    "a name of moat's": (SOLVE, [exporter("image", name="moat/run:1")]),
    "an unknown output": (SOLVE, [exporter("future")]),
    "an unknown option of an output": (SOLVE, [exporter("moby", future="1")]),
    "an unknown field": (SOLVE, [(99, 0, b"\x01")]),
    "steps by the gateway": (BRIDGE, [(1, 2, b"x")]),
    "another frontend by the gateway": (BRIDGE, [(2, 2, b"gateway.v0")]),
    "the host's network by the gateway": (BRIDGE, [write_entry(3, "force-network-mode", "host")]),
    "an unknown field by the gateway": (BRIDGE, [(99, 0, b"\x01")]),
    "everybody's builds": (HISTORY, [(1, 0, b"\x01")]),
}


async def checked(method, fields):
    """What becomes of a message, in front of an engine of a table."""
    async with open_guard(make_scope()) as (_, api, _refusals):
        try:
            message, _ = await check_message(method, encode(fields), Engine(api, make_scope()))
            return message
        except Refused as refused:
            return refused


@pytest.mark.parametrize(("method", "fields"), REFUSED_BUILDS.values(), ids=REFUSED_BUILDS.keys())
async def test_no_such_build(method, fields):
    """A build may do what a container may, to its own names only."""
    assert isinstance(await checked(method, fields), Refused)


@pytest.mark.parametrize(("method", "number"), [(SOLVE, 7), (BRIDGE, 3)])
async def test_what_is_forced_on_a_build(method, number):
    """Its own cache mounts, and no other frontend by a comment in the Dockerfile."""
    frontend = 6 if method == SOLVE else 2
    given = {"target": "x", "build-arg:BUILDKIT_SYNTAX": "evil", "cmdline": "evil"}
    fields = [(frontend, 2, b"dockerfile.v0"), *(write_entry(number, key, item) for key, item in given.items())]
    fields.append(write_entry(number, "build-arg:BUILDKIT_CACHE_MOUNT_NS", "theirs"))
    made = decode(await checked(method, fields))
    assert read_map(made, number) == {
        "target": "x",
        "build-arg:BUILDKIT_CACHE_MOUNT_NS": "run-0000abcd",
        "build-arg:BUILDKIT_SANDBOX_HOSTNAME": "moat-run-0000abcd",
        "hostname": "moat-run-0000abcd",
        "cmdline": "moat",
    }
    assert (frontend, 2, b"dockerfile.v0") in made


@pytest.mark.parametrize(("method", "number"), [(SOLVE, 7), (BRIDGE, 3)])
@pytest.mark.parametrize("key", ["moat.role", "moat.proof", "MOAT.run-id", " moat.x"])
async def test_a_build_gives_no_labels_of_moats(method, number, key):
    """Neither the run's own nor others': an image's labels are copied to whatever is made from it."""
    fields = [(6 if method == SOLVE else 2, 2, b"dockerfile.v0"), write_entry(number, f"label:{key}", "x")]
    assert isinstance(await checked(method, fields), Refused)


def test_other_methods_of_buildkit_are_not_passed():
    """Containers beside the API, others' caches and records, and what nobody knows yet."""
    for name in ("Control/Prune", "Control/DiskUsage", "Control/UpdateBuildHistory", "frontend.LLBBridge/NewContainer"):
        method = f"/moby.buildkit.v1.{name}"
        assert method not in CHECKED | PASSED
        assert why_refused(method)[1]
    assert not why_refused("/containerd.services.content.v1.Content/Delete")[1]


@given(st.lists(st.tuples(st.integers(1, 1000), st.binary(max_size=50)), max_size=5))
@settings(deadline=None)
def test_a_message_is_what_it_was(fields):
    """Taken apart and put together again."""
    message = encode([(number, 2, data) for number, data in fields])
    assert decode(message) == [(number, 2, data) for number, data in fields]


@given(st.binary(max_size=60))
@settings(deadline=None)
def test_whatever_bytes_come_are_a_message_or_refused(data):
    """Nothing else is raised."""
    try:
        fields = decode(data)
    except Refused:
        return
    assert decode(encode(fields)) == fields


@pytest.mark.parametrize(
    "fields",
    [
        [(13, 2, encode([(1, 2, b"local"), (1, 2, b"moby")]))],
        [(13, 2, encode([(1, 2, b"local"), (3, 2, b"x")]))],
        [(13, 2, encode([(1, 0, b"\x01")]))],
        [(3, 2, b"local"), (3, 2, b"moby")],
        [(6, 2, b"dockerfile.v0"), (6, 2, b"gateway.v0")],
        [(9, 0, b"\x01")],
        [(8, 2, encode([(5, 2, encode([(1, 2, b"registry")]))]))],
        [(8, 2, encode([(2, 2, b"evil/cache")]))],
        [(12, 2, b"x")],
        [write_entry(7, "cgroup-parent", "/escape")],
        [write_entry(7, "cache-imports", "[]")],
        [write_entry(7, "attest:sbom", "generator=evil")],
        [write_entry(7, "target", "a"), write_entry(7, "target", "b")],
        [(7, 2, encode([(1, 2, b"target"), (1, 2, b"cgroup-parent"), (2, 2, b"x")]))],
    ],
)
async def test_what_two_readers_could_read_differently_in_a_build_is_refused(fields):
    """A field that comes twice, one of another kind, one that nobody knows; and what others' builds would find."""
    assert isinstance(await checked(SOLVE, fields), Refused)


async def test_the_records_of_builds_are_asked_for_one_by_one():
    """With one reference, which only who built knows."""
    method = "/moby.buildkit.v1.Control/ListenBuildHistory"
    assert decode(await checked(method, [(2, 2, b"ref"), (3, 0, b"\x01")])) == [(2, 2, b"ref"), (3, 0, b"\x01")]
    for fields in ([(2, 2, b"ref"), (2, 2, b"")], [(3, 0, b"\x01")], [(2, 2, b"")], [(2, 0, b"\x01")]):
        assert isinstance(await checked(method, fields), Refused)
