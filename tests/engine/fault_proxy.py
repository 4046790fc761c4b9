"""A proxy before the real engine that goes wrong at one chosen request: the fault is made, everything else is real."""

from __future__ import annotations

import asyncio
import re
import threading

_REQUEST = re.compile(rb"(GET|POST|DELETE|PUT|HEAD) (\S+) HTTP/1\.1\r\n")
_REFUSAL = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nContent-Length: 30\r\n"
    b'Connection: close\r\n\r\n{"message":"injected refusal"}'
)


_LINGER_S = 5.0


class FaultProxy:
    """Serves a Unix socket in a thread of its own.

    Args:
        fault: What happens at request number AT (from 1): ``refuse`` (status 500), ``close`` (the connection),
            ``hang`` (the engine never hears of it, no answer), ``lose`` (the engine does it, the answer is lost).
    """

    def __init__(self, path, engine, fault="", at=0):
        self.address = f"unix://{path}"
        self.requests = []
        self._path, self._engine = str(path), engine.removeprefix("unix://")
        self._fault, self._at = fault, at
        self._loop = asyncio.new_event_loop()
        self._writers = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def freeze(self):
        """Let nothing through, either way; what is sent meanwhile is heard later, also of who has died since."""
        self._loop.call_soon_threadsafe(self._thawed.clear)

    def thaw(self):
        """Go on."""
        self._loop.call_soon_threadsafe(self._thawed.set)

    @property
    def has_struck(self):
        return 0 < self._at <= len(self.requests)

    def break_connections(self):
        """Cut everything that is connected now; new connections are served again."""

        def cut():
            for writer in tuple(self._writers):
                writer.transport.abort()

        self._loop.call_soon_threadsafe(cut)

    def __enter__(self):
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    def _serve(self):
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main())

    async def _main(self):
        self._stop, self._thawed = asyncio.Event(), asyncio.Event()
        self._thawed.set()
        server = await asyncio.start_unix_server(self._client, self._path)
        self._ready.set()
        await self._stop.wait()
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _client(self, reader, writer):
        await self._thawed.wait()
        engine_reader, engine_writer = await asyncio.open_unix_connection(self._engine)
        mute = asyncio.Event()
        self._writers |= {writer, engine_writer}

        async def back():
            while data := await engine_reader.read(65536):
                await self._thawed.wait()
                if not mute.is_set():
                    writer.write(data)
                    await writer.drain()
            if not mute.is_set():
                writer.close()

        answers = asyncio.ensure_future(back())
        try:
            while data := await reader.read(65536):
                match = _REQUEST.match(data)
                if match:
                    self.requests.append(b" ".join(match.groups()).decode())
                    if len(self.requests) == self._at:
                        if self._fault == "refuse":
                            writer.write(_REFUSAL)
                            break
                        if self._fault == "close":
                            break
                        if self._fault == "lose":
                            mute.set()
                        if self._fault == "hang":
                            await self._stop.wait()
                is_frozen = not self._thawed.is_set()
                await self._thawed.wait()
                engine_writer.write(data)
                await engine_writer.drain()
                if is_frozen and reader.at_eof():  # its asker has died: a busy engine notices that when it has answered
                    await asyncio.wait({answers}, timeout=_LINGER_S)
            else:
                # A half-close of the client's is one towards the engine, too.
                if engine_writer.can_write_eof():
                    engine_writer.write_eof()
                await answers
        except (ConnectionError, asyncio.CancelledError):
            pass  # the proxy stops, or an end has gone: nobody else is to be told
        finally:
            answers.cancel()
            self._writers -= {writer, engine_writer}
            engine_writer.close()
            writer.close()
