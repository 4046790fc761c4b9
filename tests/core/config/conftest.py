"""A workspace with a config file, and what loading it says."""

from __future__ import annotations

import pytest

from moat_core.config import ConfigSchema, load_config
from moat_core.errors import ConfigError


@pytest.fixture
def load(tmp_path):
    """Return a function that writes ``agent.yaml`` and loads it; all sources can be given."""

    def run(text="", *, environ=None, overrides=None, user=None, schema=None, file="agent.yaml", trust=lambda *_: True):
        folder = tmp_path / "workspace"
        folder.mkdir(exist_ok=True)
        if text is not None:
            (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())
        home = tmp_path / "home"
        if user is not None:
            (home / ".config/moat").mkdir(parents=True, exist_ok=True)
            (home / ".config/moat/config.yaml").write_text(user)
        return load_config(
            schema or ConfigSchema(),
            folder,
            environ={"HOME": str(home)} | (environ or {}),
            overrides=overrides or {},
            trust=trust,
        )

    run.folder = tmp_path / "workspace"
    run.home = tmp_path / "home"
    return run


@pytest.fixture
def problems(load):
    """Return a function that loads what is wrong and returns its problems."""

    def run(*args, **kwargs):
        with pytest.raises(ConfigError) as caught:
            load(*args, **kwargs)
        assert caught.value.exit_code == 2
        return caught.value.problems

    return run
