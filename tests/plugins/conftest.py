"""What plugins contribute to a plan, without an engine and without the plugin manager."""

from __future__ import annotations

import inspect

import pytest

from moat_core.config import ConfigSchema, load_config
from moat_core.plan import PlanBuilder, RunRequest


@pytest.fixture
def planned(tmp_path):
    """Return a function that lets plugins (modules, in order) add to a plan and returns its builder."""

    def run(*plugins, text="", environ=None, workspace=None, runtime="docker", network=None, **request):
        folder = workspace or tmp_path / "workspace"
        if workspace is None:
            folder.mkdir(exist_ok=True)
        config_folder = tmp_path / "config"
        config_folder.mkdir(exist_ok=True)
        (config_folder / "agent.yaml").write_text(text)
        schema = ConfigSchema()
        for plugin in plugins:
            if hasattr(plugin, "moat_add_config"):
                plugin.moat_add_config(schema)
        config = load_config(
            schema, config_folder, environ={"HOME": str(tmp_path)} | (environ or {}), trust=lambda *_: True
        )
        wish = RunRequest(workspace=folder, **request)
        plan = PlanBuilder(wish.run_id, "fox", runtime, folder)
        plan.dns = config.core.container.dns
        plan.network = network or config.core.network
        for plugin in plugins:
            arguments = {"request": wish, "config": config, "plan": plan}
            wanted = inspect.signature(plugin.moat_add_to_plan).parameters
            with plan.contributing(plugin.__name__.rpartition(".")[2]):
                plugin.moat_add_to_plan(**{name: arguments[name] for name in wanted})
        return plan

    return run
