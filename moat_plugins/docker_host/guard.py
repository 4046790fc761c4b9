"""The guard of one run: takes connections, lets the policy decide on each request, passes on what it lets through."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import anyio

from moat_core.errors import MoatError
from moat_core.http.streams import splice
from moat_plugins.docker_host.budget import Budget
from moat_plugins.docker_host.client import Client, Gone, read_headers
from moat_plugins.docker_host.engine import Engine
from moat_plugins.docker_host.images import error_line
from moat_plugins.docker_host.items import filter_items
from moat_plugins.docker_host.policy.call import Call, split_target
from moat_plugins.docker_host.policy.endpoints import decide
from moat_plugins.docker_host.policy.verdict import Forward, Refused, Reply
from moat_plugins.docker_host.upstream import Upstream

if TYPE_CHECKING:
    from moat_core.http.message import Asked
    from moat_core.listen import Visitor
    from moat_core.runtime.facets import EngineApi
    from moat_plugins.docker_host.budget import Account
    from moat_plugins.docker_host.names import Names
    from moat_plugins.docker_host.scope import Scope
    from moat_plugins.docker_host.upstream import Head

__all__ = ["Guard"]

_SWITCHED = 101
_BAD_GATEWAY = 502
_LINE_BYTES = 4 * 1024 * 1024
_KEPT_HEADERS = frozenset({"api-version", "docker-experimental", "ostype", "server"})
"""Of an answer that the guard makes anew."""

OnRefusal = Callable[[str, str, Refused], Awaitable[None]]
"""Told method, path and why."""


class Guard:
    """See the module.

    Args:
        api: The engine.
        scope: What decides.
        on_refusal: Told of every request that is refused.
        names: Who keeps the names of guests in gVisor.
    """

    def __init__(
        self, api: EngineApi, scope: Scope, on_refusal: OnRefusal | None = None, names: Names | None = None
    ) -> None:
        self.scope = scope
        self.budget = Budget()
        self.engine = Engine(api, scope, names, self.budget)
        self._api = api
        self._on_refusal = on_refusal

    async def serve(self, visitor: Visitor) -> None:
        """Serve one connection to its end. What the guard stumbles over is told, and counted, by who accepted it."""
        client = Client(visitor)
        try:
            while (request := await client.next_request()) is not None:
                visitor.is_idle = False
                if not await self._serve_one(client, request):
                    break
                visitor.is_idle = True
        except (Gone, OSError, anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
            pass
        finally:
            visitor.close()

    async def _serve_one(self, client: Client, request: Asked) -> bool:
        """Return whether the connection can take another request."""
        method, target = request.method.decode("ascii"), request.target.decode("ascii", "replace")
        try:
            with self.budget.open() as account:
                headers = read_headers(request)
                version, path, pairs = split_target(target)
                body = partial(client.read_body, account)
                call = Call(self.engine.charged(account), method, version, path, pairs, headers, body)
                verdict = await decide(call)
                if isinstance(verdict, Reply):
                    await client.answer(verdict.status, verdict.body, verdict.headers)
                else:
                    await account.hold(len(verdict.body or b""))
                    if not await self._forward(client, verdict, headers, account):
                        return False
        except Refused as refused:
            await client.answer(refused.status, {"message": refused.message})
            if self._on_refusal is not None:
                await self._on_refusal(method[:20], target.partition("?")[0][:200], refused)
        except MoatError as error:
            await client.answer(_BAD_GATEWAY, {"message": f"moat: {error.message}"}, {"Connection": "close"})
            return False
        return await client.finish()

    async def _forward(self, client: Client, verdict: Forward, headers: dict[str, str], account: Account) -> bool:
        """Return whether the connection still speaks HTTP."""
        asked = headers.get("upgrade", "").lower()
        if verdict.upgrade == "h2c" and asked != "h2c":
            raise Refused("moat: this endpoint wants an upgrade to h2c.", status=400)
        target = quote(verdict.path, safe="/:@+~") + (f"?{urlencode(verdict.query)}" if verdict.query else "")
        lines = [*verdict.headers]
        if verdict.streams:
            lines.append(("content-type", "application/x-tar"))
        async with Upstream.open(self._api) as upstream:
            await upstream.send_request(
                verdict.method, target, lines, verdict.body, streams=verdict.streams, upgrade=verdict.upgrade
            )
            if verdict.upgrade:
                return await self._upgrade(client, upstream, verdict, asked=bool(asked))
            return await _exchange(client, upstream, verdict, account)

    async def _upgrade(self, client: Client, upstream: Upstream, verdict: Forward, *, asked: bool) -> bool:
        while await client.read_piece():
            pass  # a body that says nothing; what follows it is the stream's
        head = await upstream.read_head()
        if head.status != _SWITCHED:
            await _relay_plain(client, upstream, head)
            return True
        early = await client.switch(head, verdict.upgrade, asked=asked)
        if verdict.grpc:
            from moat_plugins.docker_host.grpc import filter_grpc  # h2 is only for builds

            await filter_grpc(client.stream, upstream.stream, self.engine, early, upstream.rest)
        else:
            await splice(client.stream, upstream.stream, early=early, rest=upstream.rest)
        return False


async def _exchange(client: Client, upstream: Upstream, verdict: Forward, account: Account) -> bool:
    """Pass a request's body and its answer on, both at once; give up when the client leaves."""
    over, gone = False, False

    async def listen() -> None:
        nonlocal gone
        try:
            if verdict.streams:
                await _pump(client, upstream)
            await client.watch()
        except Gone:
            gone = True
            group.cancel_scope.cancel()

    failure: MoatError | Gone | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        try:
            head = await upstream.read_head()
            await _relay(client, upstream, head, verdict, account)
            over = True
        except (MoatError, Gone) as error:
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if gone or not over:
        raise Gone
    return True


async def _pump(client: Client, upstream: Upstream) -> None:
    """Pass the body on. An engine that answers early stops listening; its answer still counts."""
    try:
        while piece := await client.read_piece():
            await upstream.send_data(piece)
        await upstream.end_data()
    except (OSError, anyio.BrokenResourceError):
        while await client.read_piece():
            pass


async def _relay(client: Client, upstream: Upstream, head: Head, verdict: Forward, account: Account) -> None:
    kept = {name: value for name, value in head.headers if name in _KEPT_HEADERS}
    if not 200 <= head.status < 300:  # noqa: PLR2004 - OK
        await _relay_plain(client, upstream, head)  # the engine's refusal is passed on as it is
    elif verdict.transform is not None:
        answer = await verdict.transform(json.loads(await upstream.read_body(account)))
        await client.answer(head.status, answer, kept)
    elif verdict.listing is not None:
        pieces = filter_items(upstream, verdict.listing, account)
        piece = await anext(pieces)  # what is refused now is answered so
        await client.begin_list(head.status, kept)
        await client.send_soon(piece)
        async for piece in pieces:
            await client.send_soon(piece)
        await client.end()
    else:
        if verdict.on_success is not None:
            await verdict.on_success()
        await client.begin(head, is_whole=verdict.line is None and verdict.on_end is None)
        await _pass_on(client, upstream, verdict.line, account)
        if verdict.on_end is not None and (last := await _end(verdict.on_end)):
            await client.send(last)
        await client.end()


async def _relay_plain(client: Client, upstream: Upstream, head: Head) -> None:
    await client.begin(head)
    while piece := await upstream.read_piece():
        await client.send(piece)
    await client.end()


async def _end(on_end: Callable[[], Awaitable[bytes]]) -> bytes:
    try:
        return await on_end()
    except Refused as refused:
        return error_line(refused)


async def _pass_on(
    client: Client, upstream: Upstream, change: Callable[[bytes], bytes] | None, account: Account
) -> None:
    """Pass a body on; if it is to be changed, line by line."""
    held = b""
    while piece := await upstream.read_piece():
        if change is not None:
            *lines, held = (held + piece).split(b"\n")
            piece = b"".join(change(line + b"\n") for line in lines)
            if len(held) > _LINE_BYTES:
                raise Refused("moat: the engine's answer has a line without an end.", status=_BAD_GATEWAY)
            await account.hold(len(held) * 2)
        if piece:
            await client.send(piece)
    if change is not None and held and (last := change(held)):
        await client.send(last)
