"""What may be configured (`ConfigSchema`), and what was (`Config`).

The schema is the base keys and one section per plugin. A config is built from layers of leaves: a leaf is one
key, or one entry of a mapping such as ``env``, with its value and where it comes from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from moat_core.config.ceiling import CEILING, CEILING_FIELD, Ceiling
from moat_core.config.convert import INVALID, Reader
from moat_core.config.core import CoreConfig
from moat_core.config.options import FieldSpec, fields_of
from moat_core.config.tree import Item, Problems, Source
from moat_core.config.values import nearest, show
from moat_core.errors import PluginError, UnknownName

if TYPE_CHECKING:
    from pathlib import Path

    from moat_core.config.widening import Widening
    from moat_core.config.workspace_file import ConfigFile
    from moat_core.types import DependencyInfo

__all__ = ["Config", "ConfigSchema", "Layer", "Leaf", "Section"]

T = TypeVar("T")
_SECTION = re.compile(r"[a-z][a-z0-9_]*")
_CORE = "moat"


@attrs.frozen
class Leaf:
    """One value that a source gives."""

    value: Any
    where: str
    origin: str


Layer = Mapping[tuple[str, ...], Leaf]
"""Path of keys -> what one source says; ``("env", "DEBUG")``."""


@attrs.frozen
class Section:
    """A plugin's part of the config file.

    Args:
        name: The top-level key.
        cls: The attrs class that specifies it.
        owner: The plugin.
        fields: The keys in it.
    """

    name: str
    cls: type
    owner: str
    fields: tuple[FieldSpec, ...]


class ConfigSchema:
    """Everything that may be configured. Iterating gives the plugins' sections by name.

    ``offered`` gives what plugins bring as dependencies; it is asked only where a workspace's file names some.
    """

    def __init__(self) -> None:
        self.base: tuple[FieldSpec, ...] = fields_of(CoreConfig)
        self.offered: Callable[[], Mapping[str, DependencyInfo]] = dict
        self._sections: dict[str, Section] = {}
        self._owner = ""

    @contextmanager
    def contributing(self, owner: str) -> Iterator[None]:
        """Let sections that are added meanwhile without an owner belong to the plugin OWNER."""
        before, self._owner = self._owner, owner
        try:
            yield
        finally:
            self._owner = before

    def add_section(self, name: str, cls: type, *, owner: str = "") -> None:
        """Claim the top-level key NAME.

        Args:
            name: Lower-case letters, digits and underscores.
            cls: A frozen attrs class; its fields (see `option`) are the keys, and all have defaults.
            owner: The plugin's name, for messages; whose hook is being called if not given.

        Raises:
            PluginError: The key or the class is taken already, or CLS is no section.
        """
        owner = owner or self._owner or cls.__module__
        taken = self._sections[name].owner if name in self._sections else None
        if name == CEILING or any(field.key == name for field in self.base):
            taken = _CORE
        if taken is not None:
            raise PluginError(
                f"The plugins {taken} and {owner} both claim the config key {show(name)}.",
                hint=f"Rename the section of {owner}, or load only one of the two (--without NAME).",
            )
        if not _SECTION.fullmatch(name):
            raise PluginError(
                f"The plugin {owner} claims {show(name)}, which cannot be a config key.",
                hint="A section's name has lower-case letters, digits and underscores.",
            )
        for section in self:
            if section.cls is cls:
                raise PluginError(
                    f"The plugin {owner} claims {show(name)} with the class of {show(section.name)}.",
                    hint="Give every section a class of its own: config.section(Class) finds it by that.",
                )
        fields = fields_of(cls)
        _require_defaults(fields, name, owner)
        self._sections[name] = Section(name, cls, owner, fields)

    def __iter__(self) -> Iterator[Section]:
        return iter(sorted(self._sections.values(), key=lambda section: section.name))

    @property
    def fields(self) -> tuple[FieldSpec, ...]:
        """All top-level keys: the base keys, then the sections."""
        sections = (
            FieldSpec(
                each.name,
                each.name,
                each.cls,
                attrs.Factory(each.cls),
                {"help": _first_line(each.cls)},
                each.fields,
            )
            for each in self
        )
        return (*self.base, *sections)

    def build(self, layers: list[Layer], path: Path | None = None, **further: Any) -> Config:
        """Return the config that LAYERS make, the earlier ones winning; FURTHER arguments are `Config`'s.

        Raises:
            ConfigError: Values that are right by themselves do not go together.
        """
        leaves: dict[tuple[str, ...], Leaf] = {}
        for layer in reversed(layers):
            leaves.update(layer)
        problems = Problems()
        ceiling = _value(CEILING_FIELD, (CEILING,), leaves, problems)
        values: dict[str, Any] = {}
        for field in self.fields:
            value = _value(field, (field.key,), leaves, problems)
            values[field.key] = value if value is not INVALID else field.make_default()
        core = _make(CoreConfig, {field.name: values[field.key] for field in self.base}, "", leaves, problems)
        problems.check()
        sections = {section.cls: values[section.name] for section in self}
        return Config(
            core=core, path=path, ceiling=ceiling, fields=self.fields, leaves=leaves, sections=sections, **further
        )


def _first_line(cls: type) -> str:
    text = (cls.__doc__ or "").strip().partition("\n")[0]
    return "" if text.startswith("Method generated by attrs") else text


def _require_defaults(fields: tuple[FieldSpec, ...], path: str, owner: str) -> None:
    for field in fields:
        if field.default is attrs.NOTHING and field.fields is None:
            raise PluginError(
                f"The config key {path}.{field.key} of the plugin {owner} has no default.",
                hint="Everything must work without a config file; use None where nothing fits.",
            )
        if field.fields is not None:
            _require_defaults(field.fields, f"{path}.{field.key}", owner)


def _value(field: FieldSpec, path: tuple[str, ...], leaves: Mapping[tuple[str, ...], Leaf], problems: Problems) -> Any:
    """Return the merged value of FIELD, or `INVALID`."""
    if field.fields is not None:
        values = {}
        for each in field.fields:
            value = _value(each, (*path, each.key), leaves, problems)
            values[each.name] = each.make_default() if value is INVALID else value
        return _make(field.hint, values, ".".join(path), leaves, problems)
    if path in leaves:
        return leaves[path].value
    default = field.make_default()
    if not field.is_map:
        return default
    entries = {key[-1]: leaf for key, leaf in leaves.items() if key[:-1] == path}
    merged = dict(default or {}) | {key: leaf.value for key, leaf in entries.items()}
    check = field.metadata.get("check")
    if check is not None and entries:
        last = max(entries.values(), key=lambda leaf: _line(leaf.where))
        item = Item("map", None, last.where, last.origin)
        return Reader(Source(last.where), problems).checked(check, merged, item, ".".join(path))
    return merged if entries else default


def _line(where: str) -> int:
    line = where.rpartition(":")[2]
    return int(line) if line.isdecimal() else 0


def _make(
    cls: type, values: dict[str, Any], key: str, leaves: Mapping[tuple[str, ...], Leaf], problems: Problems
) -> Any:
    """Return CLS made of VALUES; its own validators may still refuse them."""
    given = [leaf.where for path, leaf in leaves.items() if ".".join(path).startswith(f"{key}." if key else "")]
    where = given[0] if given else key
    names = {getattr(attrs.fields(cls), name).alias: value for name, value in values.items()}
    item = Item("map", None, where, where)
    reader = Reader(Source(where), problems)
    return reader.checked(lambda _: cls(**names), None, item, key or "The config", gives_value=True)


@attrs.frozen(kw_only=True, eq=False)
class Config:
    """The merged configuration of one run.

    Args:
        core: The base keys.
        path: The config file, ``None`` if there is none.
        ceiling: What the user's own config lets no run have.
        file: The workspace's file as it was read, with what was decided on it; ``None`` if it was not read.
        widenings: What in that file gives a run more than it would have without.
        is_trusted: Whether that is heeded. If not, this config is without it.
    """

    core: CoreConfig
    path: Path | None = None
    ceiling: Ceiling = attrs.field(factory=Ceiling)
    file: ConfigFile | None = None
    widenings: tuple[Widening, ...] = ()
    is_trusted: bool = True
    _fields: tuple[FieldSpec, ...] = ()
    _leaves: Mapping[tuple[str, ...], Leaf] = attrs.field(factory=dict, repr=False)
    _sections: Mapping[type, Any] = attrs.field(factory=dict)

    def section(self, cls: type[T]) -> T:
        """Return the section that was added with CLS; its defaults if nothing sets it.

        Raises:
            PluginError: No section has that class.
        """
        if cls not in self._sections:
            raise PluginError(
                f"{cls.__module__}.{cls.__qualname__} is no section of this config.",
                hint="Add it in the hook moat_add_config: schema.add_section(name, Class).",
            )
        found: T = self._sections[cls]
        return found

    def items(self) -> Iterator[tuple[str, Any, str]]:
        """Yield (dotted key, value, origin) for everything that can be set, as ``moat config show`` lists it.

        Mappings come entry by entry, ``env.DEBUG``, and as one line with ``{}`` if they are empty.
        """
        by_class = {type(section): section for section in self._sections.values()}
        for field in self._fields:
            owner = by_class[field.hint] if field.hint in by_class else getattr(self.core, field.name)
            yield from self._items(field, owner, (field.key,))
        for item in self._items(CEILING_FIELD, self.ceiling, (CEILING,)):
            if item[2] != "default":
                yield item

    def _items(self, field: FieldSpec, value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any, str]]:
        if field.fields is not None:
            for each in field.fields:
                yield from self._items(each, getattr(value, each.name), (*path, each.key))
        elif field.is_map and value:
            for key, each in value.items():
                yield ".".join((*path, key)), each, self._origin((*path, key))
        else:
            yield ".".join(path), value, self._origin(path)

    def _origin(self, path: tuple[str, ...]) -> str:
        leaf = self._leaves.get(path)
        return leaf.origin if leaf is not None else "default"

    def origin(self, dotted_key: str) -> str:
        """Tell where the value of a key comes from.

        Returns:
            ``default``, ``user config ~/.config/moat/config.yaml:3``, ``agent.yaml:7``,
            ``environment MOAT_RUNTIME`` or ``flag --name``. For a whole mapping or section: the different
            ones in it, joined with a comma.

        Raises:
            UnknownName: There is no such key.
        """
        origins = {
            key: origin for key, _, origin in self.items() if key == dotted_key or key.startswith(f"{dotted_key}.")
        }
        if not origins:
            keys = [key for key, _, _ in self.items()]
            close = nearest(dotted_key, keys)
            raise UnknownName(
                f"There is no config key {show(dotted_key)}.",
                hint=f"Did you mean {close}?" if close else "`moat config show` lists all keys.",
            )
        return ", ".join(dict.fromkeys(origins.values()))
