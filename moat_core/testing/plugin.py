"""The pytest plugin that comes with moat: the fixtures ``moat`` and ``moat_home``, the marker ``moat``.

It is loaded in every pytest run where moat is installed, so it imports nothing before a fixture is used. No fixture
holds a task group or a cancel scope across its ``yield``: pytest-asyncio sets up and tears down in different tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from moat_core.testing.harness import Harness

__all__ = ["moat", "moat_home", "pytest_configure"]


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers", "moat(plugins=()): names the installed plugins that the fixture `moat` shall load; else none is"
    )


@pytest.fixture
def moat_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give ``MOAT_HOME`` an empty folder of the test's own, which is made when it is first written to."""
    path = tmp_path / "moat-home"
    monkeypatch.setenv("MOAT_HOME", str(path))
    return path


@pytest.fixture
def moat(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Harness:
    """Give a `moat_core.testing.Harness`: workspace, state folder and fake engine of the test's own."""
    from moat_core.testing.harness import Harness

    marker = request.node.get_closest_marker("moat")
    enabled = marker.kwargs.get("plugins", ()) if marker is not None else ()
    return Harness(tmp_path, monkeypatch, enabled=enabled)
