"""What plugins (and moat itself) are tested with. Public: it changes only as the hooks do.

The pytest plugin `moat_core.testing.plugin` comes with the installation and offers the fixture ``moat``, a `Harness`::

    async def test_hello(moat):
        moat.register(moat_hello)
        record = await moat.run(["true"])
        record.assert_clean()

Importing this does nothing; a name is imported when it is first used.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from moat_core.testing.conformance import SandboxConformance as SandboxConformance
    from moat_core.testing.engine import FakeEngine as FakeEngine
    from moat_core.testing.fakes import FakeContainer as FakeContainer
    from moat_core.testing.fakes import FakeNetwork as FakeNetwork
    from moat_core.testing.fakes import FakeProcess as FakeProcess
    from moat_core.testing.fakes import FakeRuntime as FakeRuntime
    from moat_core.testing.fakes import FakeSandbox as FakeSandbox
    from moat_core.testing.harness import Harness as Harness
    from moat_core.testing.host import HostSandbox as HostSandbox
    from moat_core.testing.record import HookCall as HookCall
    from moat_core.testing.record import RunRecord as RunRecord
    from moat_core.testing.resource_conformance import ResourceConformance as ResourceConformance
    from moat_core.testing.runtime_conformance import RuntimeConformance as RuntimeConformance
    from moat_core.testing.villains import DiesLater as DiesLater
    from moat_core.testing.villains import FailsToClose as FailsToClose
    from moat_core.testing.villains import FailsToOpen as FailsToOpen
    from moat_core.testing.villains import HangsOnClose as HangsOnClose
    from moat_core.testing.villains import HangsOnOpen as HangsOnOpen
    from moat_core.testing.villains import NeverReady as NeverReady
    from moat_core.testing.villains import SlowToClose as SlowToClose

_WHERE = {
    "DiesLater": "villains",
    "FailsToClose": "villains",
    "FailsToOpen": "villains",
    "FakeContainer": "fakes",
    "FakeEngine": "engine",
    "FakeNetwork": "fakes",
    "FakeProcess": "fakes",
    "FakeRuntime": "fakes",
    "FakeSandbox": "fakes",
    "HangsOnClose": "villains",
    "HangsOnOpen": "villains",
    "Harness": "harness",
    "HookCall": "record",
    "HostSandbox": "host",
    "NeverReady": "villains",
    "ResourceConformance": "resource_conformance",
    "RunRecord": "record",
    "RuntimeConformance": "runtime_conformance",
    "SandboxConformance": "conformance",
    "SlowToClose": "villains",
}

__all__ = list(_WHERE)


def __getattr__(name: str) -> object:
    if name in _WHERE:
        return getattr(importlib.import_module(f"moat_core.testing.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'moat_core.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
