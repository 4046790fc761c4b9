"""What `moat doctor` says of gVisor: only what was seen."""

from __future__ import annotations

import datetime as dt

import anyio
import pytest

from moat_core.errors import EngineTimeout, RuntimeUnavailable
from moat_core.testing.fakes import FakeRuntime
from moat_plugins.gvisor import doctor
from moat_plugins.gvisor.doctor import check_age, check_options, find_faults


async def _hangs(*_):
    await anyio.sleep_forever()


async def _is_late(*_):
    raise EngineTimeout("The engine did not answer in 30 s, asked to describe itself.")


async def _is_away(*_):
    raise RuntimeUnavailable("The fake engine is down.")


@pytest.mark.parametrize(("ask", "said"), [(_hangs, 1), (_is_late, 1), (_is_away, 0)])
async def test_an_engine_that_does_not_answer_is_not_one_without_gvisor(moat, monkeypatch, ask, said):
    """It is unknown; where nothing is there at all its own plugin says so."""
    monkeypatch.setattr(doctor, "_ASK_S", 0.05)
    monkeypatch.setattr(FakeRuntime, "oci_runtimes", ask)
    async with moat.moat() as library:
        checks = list(await find_faults(library.upkeep()))
    assert len(checks) == said
    for check in checks:
        assert (check.status, check.name) == ("warning", "gVisor")
        assert "is unknown: it did not answer in" in check.message


def test_options_that_weaken_it_are_told():
    """However they are spelled."""
    found = check_options("runsc", ("/usr/bin/runsc", "-debug=true", "--network=host", "--debug-log=/x"))
    assert all(check.status == "warning" for check in found)
    assert [check.message.split()[4] for check in found] == ["--debug,", "--network=host,"]


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("runsc version release-20260901.0\nspec: 1.1.0", ["ok"]),
        ("runsc version release-20230901.0", ["warning"]),
        ("runsc version release-20239901.0", []),
        ("built from source", []),
        ("", []),
    ],
)
def test_its_age(version, status):
    """What names no date says nothing of it."""
    assert [check.status for check in check_age(version, dt.date(2026, 11, 28))] == status
