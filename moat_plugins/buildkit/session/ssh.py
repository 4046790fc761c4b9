"""``SSH/CheckAgent`` and ``ForwardAgent``: ``RUN --mount=type=ssh``. Bytes pass; no key is ever read here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from moat_plugins.buildkit.wire.control import BytesMessage
from moat_plugins.buildkit.wire.session import CheckAgentRequest, CheckAgentResponse

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from moat_plugins.buildkit.h2 import Method

__all__ = ["methods"]

_DEFAULT = "default"
_PIECE = 32 * 1024


def methods(agents: Mapping[str, str | Path]) -> dict[str, Method]:
    """Return the services for AGENTS, the paths of their sockets by id; the default one's id is ``default``."""

    async def check(stream: Any) -> None:
        request = await stream.recv_message()
        _find(agents, request.id)
        await stream.send_message(CheckAgentResponse())

    async def forward(stream: Any) -> None:
        path = _find(agents, stream.metadata.get("buildkit.ssh.id", ""))
        try:
            agent = await anyio.connect_unix(path)
        except OSError as error:
            raise GRPCError(Status.UNAVAILABLE, f"the SSH agent does not answer: {error.strerror}") from None
        async with agent, anyio.create_task_group() as group:

            async def answers() -> None:
                while True:
                    try:
                        data = await agent.receive(_PIECE)
                    except (anyio.EndOfStream, anyio.BrokenResourceError):
                        break
                    await stream.send_message(BytesMessage(data))
                group.cancel_scope.cancel()

            group.start_soon(answers)
            while (message := await stream.recv_message()) is not None:
                await agent.send(message.data)
            await agent.send_eof()

    return {
        "/moby.sshforward.v1.SSH/CheckAgent": (check, CheckAgentRequest, CheckAgentResponse),
        "/moby.sshforward.v1.SSH/ForwardAgent": (forward, BytesMessage, BytesMessage),
    }


def _find(agents: Mapping[str, str | Path], name: str) -> str:
    found = agents.get(name or _DEFAULT)
    if found is None:
        raise GRPCError(Status.NOT_FOUND, f"there is no SSH agent {name or _DEFAULT!r}")
    return str(found)
