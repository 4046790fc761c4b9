"""What a session serves besides files: secrets, credentials, SSH agents; and answers what it does not serve."""

from __future__ import annotations

import base64
import json
import os
import stat

import anyio
import pytest
from fake_daemon import FakeDaemon
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError
from multidict import MultiDict

from moat_plugins.buildkit.dial import find_endpoint
from moat_plugins.buildkit.h2 import BuildKitChannel
from moat_plugins.buildkit.session import auth, secrets, ssh
from moat_plugins.buildkit.wire.control import BytesMessage
from moat_plugins.buildkit.wire.session import (
    CheckAgentRequest,
    CredentialsRequest,
    GetSecretRequest,
    HealthCheckRequest,
    HealthCheckResponse,
)


class Call:
    """One call, in memory."""

    def __init__(self, *messages, **metadata):
        self.metadata = MultiDict(metadata)
        self.messages = list(messages)
        self.answers = []

    async def recv_message(self):
        return self.messages.pop(0) if self.messages else None

    async def send_message(self, message):
        self.answers.append(message)


async def ask(methods, message, **metadata):
    """Call the only method of METHODS that takes such a message, and return its answer."""
    (handler,) = [serve for serve, takes, _ in methods.values() if takes is type(message)]
    call = Call(message, **metadata)
    await handler(call)
    (answer,) = call.answers
    return answer


async def test_secrets(tmp_path):
    """Bytes, text, a file; unknown ones are NOT_FOUND; too large and unreadable ones say so without the content."""
    (tmp_path / "f").write_bytes(b"\0file")
    methods = secrets.methods(
        {"b": b"\xff", "t": "ä", "f": tmp_path / "f", "no": tmp_path / "no", "big": b"x" * 600_000}
    )
    assert (await ask(methods, GetSecretRequest("b"))).data == b"\xff"
    assert (await ask(methods, GetSecretRequest("t"))).data == "ä".encode()
    assert (await ask(methods, GetSecretRequest("f"))).data == b"\0file"
    for name, status in [("x", Status.NOT_FOUND), ("no", Status.UNKNOWN), ("big", Status.INVALID_ARGUMENT)]:
        with pytest.raises(GRPCError) as caught:
            await ask(methods, GetSecretRequest(name))
        assert caught.value.status is status


def write_helper(folder, name, script):
    """A credential helper."""
    path = folder / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    ("config", "host", "wanted"),
    [
        ({"auths": {"r.io": {"auth": base64.b64encode(b"me:p:w").decode()}}}, "r.io", ("me", "p:w")),
        ({"auths": {"https://r.io": {"auth": base64.b64encode(b"me:pw\0").decode()}}}, "r.io", ("me", "pw")),
        ({"auths": {"https://index.docker.io/v1/": {"auth": "YTpi"}}}, "registry-1.docker.io", ("a", "b")),
        ({"auths": {"r.io": {"identitytoken": "tok"}}}, "r.io", ("", "tok")),
        ({"auths": {"other": {"auth": "YTpi"}}}, "r.io", ("", "")),
        ({"auths": {"r.io": {"auth": "!!!"}}}, "r.io", ("", "")),
        ({"credHelpers": {"r.io": "good"}}, "r.io", ("helped", "r.io")),
        ({"credsStore": "good"}, "docker.io", ("helped", "https://index.docker.io/v1/")),
        ({"credsStore": "token"}, "r.io", ("", "identity")),
        ({"credsStore": "bad", "auths": {"r.io": {"auth": "YTpi"}}}, "r.io", ("a", "b")),
        ({"credsStore": "missing"}, "r.io", ("", "")),
        ({"credsStore": "../../bin/sh"}, "r.io", ("", "")),
        ({"credsStore": "garbage"}, "r.io", ("", "")),
        ([], "r.io", ("", "")),
    ],
)
async def test_credentials_are_those_of_docker(tmp_path, monkeypatch, config, host, wanted):
    """From the file, or the helper that it names; whatever is wrong is nobody."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_helper(tmp_path, "good", 'read -r host; printf \'{"Username":"helped","Secret":"%s"}\' "$host"')
    write_helper(tmp_path, "token", 'printf \'{"Username":"<token>","Secret":"identity"}\'')
    write_helper(tmp_path, "bad", "exit 1")
    write_helper(tmp_path, "garbage", "echo []")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    answer = await ask(auth.methods(auth.find_credentials), CredentialsRequest(host))
    assert (answer.username, answer.secret) == wanted


async def test_ssh_agents_are_spoken_to(tmp_path):
    """Bytes go both ways, and each side's end is the other's."""
    path = str(tmp_path / "agent")
    heard = []
    async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as group:

        async def agent():
            async with await listener.accept() as stream:
                async for data in stream:
                    heard.append(data)
                    await stream.send(b"answer to " + data)

        group.start_soon(agent)
        methods = ssh.methods({"default": path})
        assert await ask(methods, CheckAgentRequest(""))
        (forward,) = [serve for serve, takes, _ in methods.values() if takes is BytesMessage]
        call = Call(BytesMessage(b"question"), **{"buildkit.ssh.id": "default"})
        with anyio.fail_after(10):
            await forward(call)
        group.cancel_scope.cancel()
    assert heard == [b"question"]
    assert b"".join(answer.data for answer in call.answers) == b"answer to question"
    for message in (CheckAgentRequest("other"),):
        with pytest.raises(GRPCError, match="no SSH agent"):
            await ask(methods, message)


async def test_an_unknown_service_is_unimplemented(tmp_path):
    """In a way that the engine understands: with a content type. Optional services are then gone without."""
    daemon = FakeDaemon(str(tmp_path / "s"))
    async with daemon.serving():
        channel = BuildKitChannel(find_endpoint(daemon.address))
        call = channel.request("/any.Service/Method", Cardinality.UNARY_UNARY, HealthCheckRequest, HealthCheckResponse)
        with pytest.raises(GRPCError) as caught:
            async with call as stream:
                await stream.send_message(HealthCheckRequest(), end=True)
                await stream.recv_initial_metadata()
                assert stream.initial_metadata is not None
                await stream.recv_message()
        assert caught.value.status is Status.UNIMPLEMENTED
        await channel.aclose()
