"""What plugins write on while a plan is made."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import attrs
from attrs.validators import deep_iterable, in_, instance_of, optional

from moat_core.errors import HookContractError, HostPathError
from moat_core.host_path import HostPath, nobody, resolve
from moat_core.plan.image import finish_image
from moat_core.plan.plan import Note, Plan
from moat_core.types import EnvValue, ImageSpec, InitStep, Limits, Mount, Port, Problem, Tmpfs, User, Volume

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from moat_core.host_path import IsShared
    from moat_core.types import DependencyInfo

__all__ = ["DEFAULT_IMAGE", "PlanBuilder"]

DEFAULT_IMAGE = "debian:bookworm-slim"

_T = TypeVar("_T")
_RANKS = {"plugin": 0, "config": 1, "flag": 2}
_BOOL, _TEXT = instance_of(bool), instance_of(str)


def _checked(builder: PlanBuilder, attribute: attrs.Attribute[Any], value: Any) -> Any:
    """Refuse a value of the wrong type where it is set, since whoever reads it later cannot tell whose it is."""
    if attribute.validator is not None:
        try:
            attribute.validator(builder, attribute, value)
        except (TypeError, ValueError) as error:
            raise HookContractError(
                f"Plugin '{builder.origin}' set plan.{attribute.name} to {value!r:.100}.",
                hint=f"It is to be: {attribute.type}.",
                plugin=builder.origin,
            ) from error
    return value


@attrs.define(on_setattr=_checked)
class PlanBuilder:
    """A plan in the making.

    Plain attributes (``user``, ``limits``, ``image`` …) are set, and checked at once; lists are added to by the
    methods, which notice clashes. Everything is recorded under the name of the plugin whose hook is being called
    (``origin``).

    What is read here is what those before have set; there is an order. Core's own come first (command, limits, network,
    ``sandbox``, terminal), then ``workspace`` (``user``, ``working_dir``), the built-ins by name, third parties, and
    with ``trylast`` those that need to know what isolates; the user's own mounts, variables and ports come after all.
    What nobody may change any more is in the plan that ``moat_check_plan`` is given.
    """

    run_id: str
    name: str
    runtime: str
    workspace: Path
    command: tuple[str, ...] | None = None
    image: ImageSpec = attrs.field(factory=lambda: ImageSpec(DEFAULT_IMAGE), validator=instance_of(ImageSpec))
    user: User = attrs.field(factory=User, validator=instance_of(User))
    oci_runtime: str | None = attrs.field(default=None, validator=optional(_TEXT))
    privileged: str = attrs.field(default="", validator=_TEXT)
    sandbox: bool | None = attrs.field(default=None, validator=optional(_BOOL))
    sandboxed: bool = attrs.field(default=False, validator=_BOOL)
    network: Literal["bridge", "none"] = attrs.field(default="bridge", validator=in_(["bridge", "none"]))
    own_network: bool = attrs.field(default=False, validator=_BOOL)
    dns: tuple[str, ...] = attrs.field(default=(), validator=deep_iterable(_TEXT, instance_of(tuple)))
    limits: Limits = attrs.field(factory=Limits, validator=instance_of(Limits))
    working_dir: str = attrs.field(default="/", validator=_TEXT)
    tty: bool = False
    size: tuple[int, int] | None = None
    stdin: bool = False
    keep: bool = False
    rebuild: bool = False
    timeout_s: float | None = None
    details: dict[str, Any] = attrs.field(factory=dict)
    offered: Mapping[str, DependencyInfo] = attrs.field(factory=dict)
    """What plugins let users list under ``dependencies:`` (``moat_register_dependencies``), by name."""
    given: IsShared = nobody
    """Tells which folders of the host runs were ever given to write to."""
    origin: str = "moat"
    problems: list[Problem] = attrs.field(factory=list)
    _env: dict[str, tuple[int, EnvValue]] = attrs.field(factory=dict)
    _mounts: dict[str, tuple[str, Mount]] = attrs.field(factory=dict)
    _tmpfs: dict[str, Tmpfs] = attrs.field(factory=dict)
    _volumes: dict[str, Volume] = attrs.field(factory=dict)
    _groups: list[int] = attrs.field(factory=list)
    _capabilities: dict[str, str] = attrs.field(factory=dict)
    _hosts: dict[str, str] = attrs.field(factory=dict)
    _ports: dict[str, Port] = attrs.field(factory=dict)
    _init_steps: list[InitStep] = attrs.field(factory=list)
    _notes: list[Note] = attrs.field(factory=list)
    _workspace_identity: tuple[int, int] | None = None
    _claims: dict[str, str] = attrs.field(factory=dict)

    @contextmanager
    def contributing(self, origin: str) -> Iterator[None]:
        """Record what is added meanwhile under ORIGIN."""
        before, self.origin = self.origin, origin
        try:
            yield
        finally:
            self.origin = before

    def set_env(self, key: str, value: str, *, by: Literal["plugin", "config", "flag"] = "plugin") -> None:
        """Set an environment variable. Flags win over the config, that over plugins, later plugins over earlier."""
        rank = _RANKS[by]
        if key not in self._env or self._env[key][0] <= rank:
            origin = self.origin if by == "plugin" else f"{by}: {self.origin}"
            self._env[key] = (rank, EnvValue(value, origin))

    def get_env(self, key: str) -> str | None:
        """Return the value that KEY has so far."""
        return self._env[key][1].value if key in self._env else None

    def add_mount(self, source: str | Path | HostPath, target: str, *, read_only: bool = False) -> None:
        """Bind SOURCE (absolute, on the host) at TARGET (absolute); a second mount at a target is a problem.

        Links on the way to SOURCE are followed now, unless it was found before; see `find`.
        """
        target = posixpath.normpath("/" + target.lstrip("/"))  # normpath alone keeps a leading "//"
        if target in self._mounts:
            self.problem(f"{target} is mounted twice, by {self._mounts[target][0]} and by {self.origin}.")
            return
        found = source if isinstance(source, HostPath) else self.find(source)
        path, identity = (found.path, found.identity) if found is not None else (str(source), None)
        self._mounts[target] = (self.origin, Mount(path, target, read_only, identity=identity))

    def find(self, path: str | Path) -> HostPath | None:
        """Look at a PATH of the host (absolute); ``None`` if it is not there, or not for us to reach.

        Below the workspace, and any other folder that a run was ever given, a link on the way is a problem.
        """
        try:
            return resolve(path, self.given if Path(path) == self.workspace else self.is_shared)
        except HostPathError as error:
            problem = Problem(error.message, error.hint, self.origin)
            if problem not in self.problems:
                self.problems.append(problem)
        except (OSError, ValueError):
            pass
        return None

    def is_shared(self, identity: tuple[int, int], path: str) -> bool:
        """Tell whether a run can write to the folder of this IDENTITY and PATH, this one included."""
        if self._workspace_identity is None:
            try:
                found = self.workspace.stat()
                self._workspace_identity = found.st_dev, found.st_ino
            except OSError:
                self._workspace_identity = -1, -1
        return identity == self._workspace_identity or self.given(identity, path)

    def add_tmpfs(self, tmpfs: Tmpfs) -> None:
        """Add memory-backed scratch space."""
        self._tmpfs[posixpath.normpath(tmpfs.target)] = tmpfs

    def add_volume(self, volume: Volume) -> None:
        """Add storage of the engine's; a second one of a name is a problem."""
        if volume.name in self._volumes:
            self.problem(f"There are two volumes '{volume.name}'; {self.origin} wants the second.")
            return
        self._volumes[volume.name] = volume

    def add_group(self, gid: int) -> None:
        """Add a numeric group for the run's user."""
        if gid not in self._groups:
            self._groups.append(gid)

    def add_capability(self, name: str, reason: str) -> None:
        """Keep a Linux capability, ``NET_RAW``, and say why."""
        self._capabilities[name.removeprefix("CAP_")] = reason

    def add_host(self, name: str, address: str) -> None:
        """Add a line to ``/etc/hosts``."""
        self._hosts[name] = address

    def add_port(self, endpoint: str, number: int) -> None:
        """Publish a port of the container on 127.0.0.1, under its endpoint's name."""
        self._ports[endpoint] = Port(endpoint, number)

    @property
    def ports(self) -> dict[str, int]:
        """The endpoints so far -> port in the container."""
        return {port.endpoint: port.number for port in self._ports.values()}

    def add_init_step(
        self,
        name: str,
        script: str,
        *,
        order: int = 50,
        as_user: bool = False,
        inline: bool = False,
        env: tuple[str, ...] = (),
    ) -> None:
        """Add a piece of sh for `moat-init`; see `InitStep`."""
        self._init_steps.append(InitStep(name, script, order, as_user, inline, env))

    def claim(self, *names: str) -> None:
        """Say that this plugin takes up what was asked for under NAMES: ``sandbox``, ``hooks.pre_run``.

        They are those of `RunRequest` and of the config's base keys. What was asked for and is claimed by nobody is an
        error of the plan.
        """
        self._claims |= dict.fromkeys(names, self.origin)

    @property
    def claims(self) -> Mapping[str, str]:
        """What is claimed so far -> by which plugin."""
        return MappingProxyType(self._claims)

    def note(self, text: str) -> None:
        """Say in ``--dry-run`` what was contributed and why, where the plan itself does not show it."""
        self._notes.append(Note(self.origin, text))

    def problem(self, message: str, hint: str = "", *, where: str = "") -> None:
        """Record an error of the plan; all are shown at once."""
        self.problems.append(Problem(message, hint, where))

    def warn(self, message: str, hint: str = "") -> None:
        """Record something that the user should know, once, when the run starts."""
        self.problems.append(Problem(message, hint, severity="warning"))

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """The mounts so far, outer ones first."""
        return tuple(sorted((mount for _, mount in self._mounts.values()), key=lambda mount: mount.target))

    def freeze(self) -> Plan:
        """Return the plan as it stands, its warnings included; errors are the caller's to raise."""
        return Plan(
            run_id=self.run_id,
            name=self.name,
            runtime=self.runtime,
            workspace=self.workspace,
            command=self.command,
            image=finish_image(self.image),
            env=_sorted({key: value for key, (_, value) in self._env.items()}),
            mounts=self.mounts,
            tmpfs=tuple(self._tmpfs.values()),
            user=self.user,
            groups=tuple(self._groups),
            capabilities=_sorted(self._capabilities),
            oci_runtime=self.oci_runtime,
            privileged=self.privileged,
            volumes=tuple(self._volumes.values()),
            sandbox=self.sandbox,
            sandboxed=self.sandboxed,
            network=self.network,
            own_network=self.own_network,
            hosts=dict(self._hosts),
            dns=self.dns,
            ports=tuple(self._ports.values()),
            init_steps=tuple(sorted(self._init_steps, key=lambda step: step.order)),
            limits=self.limits,
            working_dir=self.working_dir,
            tty=self.tty,
            size=self.size,
            stdin=self.stdin,
            keep=self.keep,
            rebuild=self.rebuild,
            timeout_s=self.timeout_s,
            warnings=tuple(problem for problem in self.problems if problem.severity == "warning"),
            notes=tuple(self._notes),
            details=dict(self.details),
        )


def _sorted(mapping: Mapping[str, _T]) -> dict[str, _T]:
    return dict(sorted(mapping.items()))
