"""Where the engine is looked for, and what is said when it is nowhere."""

from __future__ import annotations

import hashlib
import json
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moat_core.errors import RuntimeUnavailable
from moat_plugins.docker import endpoint as module
from moat_plugins.docker.endpoint import connect_socket, find_endpoint, make_tls, parse_address, unavailable


def listen(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    return server


def write_context(folder, name, host, *, tls=(), **more):
    digest = hashlib.sha256(name.encode()).hexdigest()
    meta = folder / "contexts" / "meta" / digest
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": host, **more}}}))
    for key in tls:
        file = folder / "contexts" / "tls" / digest / "docker" / f"{key}.pem"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A home without anything, and no socket in the system's own place."""
    monkeypatch.setattr(
        module,
        "_socket_paths",
        lambda environ, real=module._socket_paths: [
            path if path != "/var/run/docker.sock" else f"{tmp_path}/run/docker.sock" for path in real(environ)
        ],
    )
    return tmp_path


def env(folder, **more):
    return {"HOME": str(folder), "XDG_RUNTIME_DIR": f"{folder}/xdg", **more}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("unix:///var/run/docker.sock", {"path": "/var/run/docker.sock", "is_here": True}),
        (
            "tcp://10.0.0.1",
            {"host": "10.0.0.1", "port": 2375, "tls": False, "address": "tcp://10.0.0.1:2375", "is_here": False},
        ),
        ("tcp://[::1]:99", {"host": "::1", "port": 99, "address": "tcp://[::1]:99", "is_here": True}),
        ("http://h:1", {"host": "h", "port": 1, "tls": False, "is_here": False}),
        ("tcp://127.0.0.2:1", {"is_here": True}),
        ("tcp://localhost:1", {"is_here": True}),
        ("tcp://127.example.com:1", {"is_here": False}),
        ("https://h", {"host": "h", "port": 2376, "tls": True}),
        ("tcp://h:1?tls=1&ca=/c&verify=0", {"tls": True, "ca": "/c", "verify": False, "port": 1}),
    ],
)
def test_addresses_are_read(address, expected):
    """Unix sockets and TCP, with or without TLS; what was read can be written down and read again."""
    endpoint = parse_address(address)
    assert {key: getattr(endpoint, key) for key in expected} == expected
    assert parse_address(endpoint.address) == endpoint


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ssh://me@host", "does not connect through ssh"),
        ("npipe:////./pipe/docker_engine", "not an address of an engine"),
        ("tcp://", "not an address of an engine"),
        ("tcp://h:notaport", "is not an address"),
        ("tcp://[::1", "is not an address"),
        ("unix://", "not an address of an engine"),
        ("fd://", "not an address of an engine"),
        ("nonsense", "not an address of an engine"),
    ],
)
def test_other_addresses_are_refused_with_a_way_out(address, words):
    """What cannot be used is said, with what can."""
    with pytest.raises(RuntimeUnavailable, match=words) as caught:
        parse_address(address, "DOCKER_HOST")
    assert "DOCKER_HOST" in str(caught.value)
    assert caught.value.hint


@given(st.text(max_size=60))
def test_any_text_is_an_endpoint_or_an_error_of_ours(text):
    """No text at all breaks the reading of an address."""
    try:
        parse_address(text)
    except RuntimeUnavailable:
        pass


def test_ssh_says_how_to_forward():
    """The way round is a command that can be pasted."""
    with pytest.raises(RuntimeUnavailable) as caught:
        parse_address("ssh://me@host", "DOCKER_HOST")
    assert "ssh -nNT -L /tmp/docker-remote.sock:/var/run/docker.sock me@host" in caught.value.hint


def test_order_is_the_docker_commands(folder):
    """DOCKER_HOST beats DOCKER_CONTEXT beats the current context beats the usual sockets."""
    config = folder / ".docker"
    write_context(config, "current", "tcp://current:1")
    write_context(config, "named", "tcp://named:2")
    server = listen(folder / "run" / "docker.sock")
    try:
        assert find_endpoint("", env(folder)).path == f"{folder}/run/docker.sock"
        (config / "config.json").write_text('{"currentContext":"current"}')
        assert find_endpoint("", env(folder)).address == "tcp://current:1"
        assert find_endpoint("", env(folder, DOCKER_CONTEXT="named")).address == "tcp://named:2"
        assert find_endpoint("", env(folder, DOCKER_CONTEXT="default")).path == f"{folder}/run/docker.sock"
        environ = env(folder, DOCKER_CONTEXT="named", DOCKER_HOST="tcp://host:3")
        assert find_endpoint("", environ).address == "tcp://host:3"
        assert find_endpoint("unix:///x", environ).address == "unix:///x"
        environ = env(folder / "elsewhere", DOCKER_CONFIG=str(config))
        assert find_endpoint("", environ).address == "tcp://current:1"
    finally:
        server.close()


def test_context_brings_its_tls(folder):
    """The TLS files of a context stand in the address, as paths."""
    write_context(folder / ".docker", "far", "tcp://far:2376", tls=("ca", "cert", "key"), SkipTLSVerify=True)
    endpoint = find_endpoint("", env(folder, DOCKER_CONTEXT="far"))
    assert endpoint.tls
    assert not endpoint.verify
    assert endpoint.ca.endswith("/docker/ca.pem")
    assert parse_address(endpoint.address)._replace(source="") == endpoint._replace(source="")


@pytest.mark.parametrize("content", ["{", "[]", '{"currentContext":"missing"}', '{"currentContext":5}'])
def test_broken_context_is_an_error_not_another_engine(folder, content):
    """A context that cannot be used is said; the usual places are not tried instead."""
    (folder / ".docker").mkdir()
    (folder / ".docker" / "config.json").write_text(content)
    with pytest.raises(RuntimeUnavailable) as caught:
        find_endpoint("", env(folder))
    assert "docker context" in caught.value.hint


def test_environment_adds_tls(folder):
    """DOCKER_TLS_VERIFY and DOCKER_CERT_PATH make a tcp address a TLS one."""
    for name in ("ca", "cert", "key"):
        (folder / f"{name}.pem").write_text("x")
    environ = env(folder, DOCKER_HOST="tcp://h:2376", DOCKER_TLS_VERIFY="1", DOCKER_CERT_PATH=str(folder))
    endpoint = find_endpoint("", environ)
    assert (endpoint.tls, endpoint.verify, endpoint.key) == (True, True, f"{folder}/key.pem")
    with pytest.raises(RuntimeUnavailable, match="TLS certificates"):
        make_tls(endpoint)
    assert not find_endpoint("", env(folder, DOCKER_HOST="tcp://h:2376")).tls


@pytest.mark.parametrize("place", ["xdg", ".docker/run", ".docker/desktop", ".rd", ".colima/default", ".orbstack/run"])
def test_usual_sockets_are_found(folder, place):
    """Rootless, Desktop, Rancher, Colima and OrbStack put theirs in the home."""
    server = listen(folder / place / "docker.sock")
    try:
        endpoint = find_endpoint("", env(folder))
        assert endpoint.path == f"{folder}/{place}/docker.sock"
        connect_socket(endpoint, 1).close()
    finally:
        server.close()


def test_nothing_found_tells_what_was_tried(folder):
    """Each place is named with what happened there, dead sockets included."""
    listen(folder / ".rd" / "docker.sock").close()
    with pytest.raises(RuntimeUnavailable, match="No Docker engine was found") as caught:
        find_endpoint("", env(folder))
    assert f"{folder}/run/docker.sock: not there" in caught.value.hint
    assert f"{folder}/.rd/docker.sock: connection refused" in caught.value.hint
    assert len(caught.value.details["tried"]) == 7


def test_forbidden_socket_names_the_group(folder, monkeypatch):
    """A socket that may not be opened is not an absent engine."""
    (folder / "run").mkdir()
    (folder / "run" / "docker.sock").touch()

    def refuse(endpoint, timeout_s):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "connect_socket", refuse)
    with pytest.raises(RuntimeUnavailable) as caught:
        find_endpoint("", env(folder))
    assert "usermod -aG docker" in caught.value.hint
    assert "permission denied" in caught.value.hint


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "Start it"),
        (FileNotFoundError(2, "No such file or directory"), "DOCKER_HOST"),
        (PermissionError(13, "Permission denied"), "usermod"),
        (TimeoutError(), "Install Docker"),
    ],
)
def test_refused_connections_are_explained(error, hint):
    """What to do depends on what happened."""
    assert hint in unavailable(parse_address("unix:///x/y.sock", "DOCKER_HOST"), error).hint
