"""What was asked for, before anybody has thought about it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from moat_core import checks
from moat_core.config import ConfigFile
from moat_core.errors import InvalidValue
from moat_core.types import RUN_ID_RE, Mount, new_run_id

__all__ = ["ConfigChoice", "RunRequest"]

ConfigChoice = str | os.PathLike[str] | Mapping[str, Any] | ConfigFile | None
"""``"workspace"``, ``"trusted"``, a path, a mapping, ``None``; or a file that was read and decided on."""


def _command(value: Any, what: str) -> tuple[str, ...]:
    return checks.items(checks.word, value, what)  # one without a program is a problem of the plan


def _mounts(value: Any, what: str) -> tuple[Mount, ...]:
    return checks.items(checks.instance(Mount), value, what)


def _names(value: Any, what: str) -> tuple[str, ...]:
    return checks.items(checks.text, value, what)


def _env(value: Any, what: str) -> dict[str, str]:
    return checks.mapping(checks.word, value, what)  # a name that cannot be is a problem of the plan


def _ports(value: Any, what: str) -> dict[str, int]:
    return checks.mapping(checks.whole, value, what)  # one that cannot be is a problem of the plan


def _workspace(value: Any, what: str) -> Path:
    return Path(checks.path(value, what))


def _run_id(value: Any, what: str) -> str:
    if not RUN_ID_RE.fullmatch(checks.text(value, what)):
        raise InvalidValue(f"{what} must be 'run-' and 8 hex digits.")
    return str(value)


def _config(value: Any, what: str) -> ConfigChoice:
    if value is None or isinstance(value, (ConfigFile, Mapping)):
        return value
    return checks.path(value, what)


_CHECKS = checks.fields(
    workspace=_workspace,
    command=checks.optional(_command),
    hold=checks.flag,
    name=checks.optional(checks.text),
    env=_env,
    mounts=_mounts,
    ports=_ports,
    dependencies=_names,
    base_image=checks.optional(checks.text),
    runtime=checks.optional(checks.text),
    sandbox=checks.optional(checks.flag),
    interactive=checks.flag,
    tty=checks.flag,
    size=checks.optional(checks.size),
    keep=checks.flag,
    rebuild=checks.flag,
    timeout_s=checks.optional(checks.positive_s),
    options=checks.sections,
    config=_config,
    run_id=_run_id,
)


@attrs.frozen(kw_only=True, field_transformer=_CHECKS)
class RunRequest:
    """One run, as a flag or an argument asks for it. ``None`` leaves a thing to the config or its default.

    None can be made whose values cannot be passed on at all (`moat_core.checks`: `InvalidType`, `InvalidValue`, which
    are a `TypeError` and a `ValueError`); what does not make sense together is the plan's to say, all at once.

    Args:
        workspace: Absolute path of the folder that appears at ``/workspace``.
        command: Program and arguments. ``None`` is the config's; if there is none either, the run has no command
            of its own and waits for ``exec``.
        hold: Have no command of its own even if the config names one (the library's default).
        name: The agent's name.
        env: Added last, and wins.
        mounts: Beside the workspace.
        ports: Endpoint name -> port in the container.
        dependencies: Added to the config's.
        base_image: Instead of the config's.
        runtime: Name of a registered runtime.
        sandbox: ``False`` runs without gVisor; ``True`` insists on it.
        interactive: Standard input is passed on; with ``tty`` through a pseudo-terminal.
        tty: Give the command a terminal, of SIZE (rows, columns) from its first byte on.
        keep: Leave the container behind, stopped, at the end.
        rebuild: Build the image anew.
        timeout_s: Seconds after which the command is killed.
        options: Plugin section -> values that replace those of the config.
        config: Whose word the workspace's config file is, see `Moat.run`; or that file as it was read before.
        run_id: Made by the asker, so that it can be named before the run exists.
    """

    workspace: Path
    command: tuple[str, ...] | None = None
    hold: bool = False
    name: str | None = None
    env: Mapping[str, str] = attrs.field(factory=dict, repr=lambda env: repr(sorted(env)))
    mounts: tuple[Mount, ...] = ()
    ports: Mapping[str, int] = attrs.field(factory=dict)
    dependencies: tuple[str, ...] = ()
    base_image: str | None = None
    runtime: str | None = None
    sandbox: bool | None = None
    interactive: bool = False
    tty: bool = False
    size: tuple[int, int] | None = None
    keep: bool = False
    rebuild: bool = False
    timeout_s: float | None = None
    options: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)
    config: ConfigChoice = attrs.field(default=None, repr=False)
    run_id: str = attrs.field(factory=new_run_id)

    def to_json(self) -> dict[str, Any]:
        """Return JSON-able fields, env values included: for the pipe to a supervisor, never for a file."""
        data = attrs.asdict(self, filter=lambda field, _: field.name != "identity")
        return data | {"workspace": str(self.workspace), "config": _config_to_json(self.config)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RunRequest:
        """Undo `to_json`."""
        return cls(
            **data
            | {
                "workspace": Path(data["workspace"]),
                "config": _config_from_json(data["config"]),
                "command": None if data["command"] is None else tuple(data["command"]),
                "mounts": tuple(Mount(**mount) for mount in data["mounts"]),
                "dependencies": tuple(data["dependencies"]),
                "size": tuple(data["size"]) if data["size"] else None,
            }
        )


def _config_to_json(config: ConfigChoice) -> dict[str, Any] | None:
    """Say what it is, too: a mapping and a file that was read are both objects, a path and a word both texts."""
    if isinstance(config, ConfigFile):
        return {"file": config.to_json()}
    if isinstance(config, Mapping):
        return {"mapping": config}
    if config in {"workspace", "trusted"}:
        return {"word": config}
    return None if config is None else {"path": os.path.abspath(os.fspath(config))}


def _config_from_json(data: dict[str, Any] | None) -> ConfigChoice:
    if data is None:
        return None
    ((kind, value),) = data.items()
    found: ConfigChoice = ConfigFile.from_json(value) if kind == "file" else Path(value) if kind == "path" else value
    return found
