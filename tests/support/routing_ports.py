"""A plugin that has the fake engine's containers publish ports, which it does not by itself."""

from __future__ import annotations

from contextlib import asynccontextmanager

import attrs

from moat_core import hookimpl


class Publishes:
    """Says that port A inside is published at B: what it was made with, and what a test changes later."""

    def __init__(self, ports):
        self.ports = ports

    @hookimpl(tryfirst=True)
    @asynccontextmanager
    async def moat_open_endpoints(self, run):
        run.sandbox.info = attrs.evolve(run.sandbox.info, ports=self.ports)
        yield
