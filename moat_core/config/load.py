"""Reads the config: flag > environment > ``agent.yaml`` > user config > default.

Every source is read and checked whole, also where another one wins, and all problems are reported at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from moat_core.config.ceiling import CEILING, CEILING_FIELD, Ceiling, check_fixed, unknown_fixed
from moat_core.config.convert import INVALID, Reader
from moat_core.config.schema import Config, ConfigSchema, Layer, Leaf
from moat_core.config.tree import Item, Problems, Source, wrap
from moat_core.config.values import show
from moat_core.config.widening import Widening, find_widenings, without
from moat_core.config.workspace_file import ConfigFile, find_file
from moat_core.config.yaml_file import parse_yaml, read_text
from moat_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moat_core.config.options import FieldSpec
    from moat_core.types import DependencyInfo

__all__ = ["Trust", "distrust", "load_config", "option_overrides", "user_config_path"]

Trust = Callable[[ConfigFile, "tuple[Widening, ...]"], bool]
"""Decides whether what a workspace's file widens is heeded."""


def distrust(file: ConfigFile, widenings: tuple[Widening, ...]) -> bool:  # noqa: ARG001
    """Heed nothing that widens."""
    return False


Leaves = dict[tuple[str, ...], Leaf]
_NO_OVERRIDES: Mapping[str, tuple[Any, str]] = MappingProxyType({})
_ENVIRONMENT = "environment "
_CORE_VARIABLES = {"name": "MOAT_NAME", "runtime": "MOAT_RUNTIME", "base_image": "MOAT_BASE_IMAGE"}
_NO_SANDBOX = "MOAT_NO_SANDBOX"
_CORE_SECTIONS = ("container",)


def user_config_path(environ: Mapping[str, str]) -> Path | None:
    """Return where the user's own config is: ``$XDG_CONFIG_HOME/moat/config.yaml``.

    ``~/.config`` is the default; a relative folder is ignored (XDG Base Directory Specification 0.8).
    """
    for base in (environ.get("XDG_CONFIG_HOME", ""), _join(environ.get("HOME", ""), ".config")):
        if base.startswith("/"):
            return Path(base, "moat", "config.yaml")
    return None


def _join(home: str, folder: str) -> str:
    return f"{home}/{folder}" if home else ""


def option_overrides(options: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[Any, str]]:
    """Return `RunRequest.options` (section -> key -> value) as overrides for `load_config`."""
    return {
        f"{section}.{key}": (value, f"option {section}.{key}")
        for section, values in options.items()
        for key, value in values.items()
    }


def load_config(
    schema: ConfigSchema,
    folder: Path,
    *,
    environ: Mapping[str, str],
    overrides: Mapping[str, tuple[Any, str]] = _NO_OVERRIDES,
    user_config: Path | None = None,
    source: ConfigFile | Path | Mapping[str, Any] | None = None,
    trust: Trust = distrust,
) -> Config:
    """Return the merged config of the workspace FOLDER. Reads at most two files, each once, and nothing but them.

    Args:
        schema: What may be configured.
        folder: Absolute path; holds ``agent.yaml`` (or ``moat.yaml``), or neither.
        environ: The process environment; ``HOME`` is what ``~`` stands for.
        overrides: Dotted key -> (value, origin): ``{"name": ("fox", "flag --name")}``. A value is what YAML
            would give, or already what the field holds. See `option_overrides`.
        user_config: Instead of `user_config_path`. A missing file is an empty one.
        source: Instead of looking into the folder: a file that was read and decided on before, or the caller's own
            word, which needs no trust: another file, or a mapping.
        trust: Asked if the workspace's file widens (see `Widening`); ``False`` has that left out. `distrust`
            without an argument.

    Raises:
        ConfigError: Something is wrong; carries every problem found, in order of file and line.
    """
    problems = Problems()
    home = environ.get("HOME") or None
    file, leaves = _read_source(schema, source, folder, home, problems)
    user_path = user_config or user_config_path(environ)
    outer = [
        _read_overrides(schema, overrides, folder, home, problems),
        _read_environment(schema, environ, folder, home, problems),
    ]
    own = _read_own(schema, user_path, home, problems)
    problems.check()
    widenings = find_widenings(schema.fields, leaves, own, folder, _offered(schema, leaves)) if file else ()
    is_trusted = not widenings or _decide(file, widenings, trust)
    if not is_trusted:
        leaves = without(leaves, widenings)
    _check_ceiling(schema, [*outer, leaves], own, problems)
    problems.check()
    if file is not None:
        file = attrs.evolve(file, accepted=frozenset(each.fingerprint for each in widenings if is_trusted))
    path = file.folder / file.name if file is not None else source if isinstance(source, Path) else None
    return schema.build([*outer, leaves, own], path, file=file, widenings=widenings, is_trusted=is_trusted)


def _read_source(
    schema: ConfigSchema,
    source: ConfigFile | Path | Mapping[str, Any] | None,
    folder: Path,
    home: str | None,
    problems: Problems,
) -> tuple[ConfigFile | None, Layer]:
    """Return the workspace's file (``None``: it is the caller's own word that counts) and what it says."""
    leaves: Leaves = {}
    if isinstance(source, Mapping):
        given = Source("config", "argument ", folder, home)
        item = wrap(source, given)
        _collect(Reader(given, problems), item, schema.fields, (), leaves)
        return None, leaves
    if isinstance(source, Path):
        label = _shorten(str(source), home)
        text = read_text(source, label, problems, private=False)
        if text is None and not problems.found:
            problems.add(label, "There is no such config file.", "Look at its path.")
        return None, _read_leaves(schema.fields, text, Source(label, "", source.absolute().parent, home), problems)
    file = source or find_file(folder, problems)
    if file is None:
        return None, leaves
    return file, _read_leaves(schema.fields, file.text, Source(file.name, "", file.folder, home), problems)


def _read_own(schema: ConfigSchema, path: Path | None, home: str | None, problems: Problems) -> Layer:
    """Read the user's own config, the only one with a ceiling."""
    if path is None:
        return {}
    label = _shorten(str(path), home)
    text = read_text(path, label, problems, private=True)
    return _read_leaves((*schema.fields, CEILING_FIELD), text, Source(label, "user config ", None, home), problems)


def _read_leaves(fields: tuple[FieldSpec, ...], text: str | None, source: Source, problems: Problems) -> Leaves:
    leaves: Leaves = {}
    if text is not None:
        _collect(Reader(source, problems), parse_yaml(text, source, problems), fields, (), leaves)
    return leaves


def _offered(schema: ConfigSchema, leaves: Layer) -> Mapping[str, DependencyInfo]:
    return schema.offered() if ("dependencies",) in leaves else {}


def _decide(file: ConfigFile | None, widenings: tuple[Widening, ...], trust: Trust) -> bool:
    assert file is not None
    if file.accepted is None:
        return trust(file, widenings)
    return all(each.fingerprint in file.accepted for each in widenings)


def _check_ceiling(schema: ConfigSchema, layers: list[Layer], own: Layer, problems: Problems) -> None:
    names = own.get((CEILING, "fixed"))
    if names is None:
        return
    ceiling = Ceiling(fixed=names.value)
    for name in unknown_fixed(ceiling, schema.fields):
        problems.add(
            names.where, f"ceiling.fixed names {show(name)}, which is no key.", "`moat config show` lists all."
        )
    check_fixed(ceiling, layers, own, {field.key: field for field in schema.fields}, problems)


def _shorten(path: str, home: str | None) -> str:
    short = "~" + path[len(home) :] if home and path.startswith(home.rstrip("/") + "/") else path
    return short if short.isprintable() else show(short)


def _collect(reader: Reader, item: Item, fields: tuple[FieldSpec, ...], path: tuple[str, ...], leaves: Leaves) -> None:
    """Add what the mapping ITEM says of FIELDS to LEAVES."""
    by_key = {field.key: field for field in fields}
    for key, each in item.value.items():
        if key in by_key:
            _collect_field(reader, each, by_key[key], (*path, key), leaves)
        elif not path and key == CEILING:
            reader.problems.add(
                each.where, f"{CEILING} stands in your own config only.", "That is ~/.config/moat/config.yaml."
            )
        else:
            hint = "" if path else " A plugin's key is known only while the plugin is loaded (`moat plugins`)."
            reader.unknown_key(each, key, by_key, ".".join(path), hint)


def _collect_field(reader: Reader, item: Item, field: FieldSpec, path: tuple[str, ...], leaves: Leaves) -> None:
    key = ".".join(path)
    if item.kind in {"broken", "null"} and (field.fields is not None or field.is_map):
        return  # `env:` with every line below commented out
    if field.fields is not None:
        _collect_section(reader, item, field, path, leaves)
        return
    if field.is_map:
        entries = reader.read_entries(item, field.hint, key, field.metadata)
        if entries is not INVALID:
            for name, (value, each) in entries.items():
                leaves[*path, name] = Leaf(value, each.where, each.origin)
        return
    value = reader.read_field(item, field, key)
    if value is not INVALID:
        leaves[path] = Leaf(value, item.where, item.origin)


def _collect_section(reader: Reader, item: Item, field: FieldSpec, path: tuple[str, ...], leaves: Leaves) -> None:
    assert field.fields is not None
    if item.kind == "object" and isinstance(item.value, field.hint):
        for each in field.fields:
            leaves[*path, each.key] = Leaf(getattr(item.value, each.name), item.where, item.origin)
    elif item.kind == "map":
        _collect(reader, item, field.fields, path, leaves)
    elif (short := next((each for each in field.fields if each.metadata.get("shorthand")), None)) is not None:
        _collect_field(reader, item, short, (*path, short.key), leaves)
    else:
        reader.wrong(item, "a mapping", ".".join(path), f"Its keys: {', '.join(each.key for each in field.fields)}.")


def _read_environment(
    schema: ConfigSchema, environ: Mapping[str, str], folder: Path, home: str | None, problems: Problems
) -> Leaves:
    """Read ``MOAT_NAME`` and its like, and ``MOAT_<SECTION>_<KEY>``. An empty variable is none."""
    leaves: Leaves = {}
    for variable, path, field in _variables(schema):
        text = environ.get(variable)
        if text:
            source = Source(variable, _ENVIRONMENT, folder, home)
            item = wrap(text, source, is_text=True)
            _collect_field(Reader(source, problems), item, field, path, leaves)
    if environ.get(_NO_SANDBOX):
        source = Source(_NO_SANDBOX, _ENVIRONMENT)
        item = wrap(environ[_NO_SANDBOX], source, is_text=True)
        if Reader(source, problems).read(item, bool, "The value") is True:
            leaves["sandbox",] = Leaf("none", item.where, item.origin)
    return leaves


def _variables(schema: ConfigSchema) -> Iterator[tuple[str, tuple[str, ...], FieldSpec]]:
    """Yield each environment variable that is read, with the path and the field that it sets."""
    sections = {section.name for section in schema}.union(_CORE_SECTIONS)
    for field in schema.fields:
        if field.key in _CORE_VARIABLES:
            yield _CORE_VARIABLES[field.key], (field.key,), field
        elif field.key in sections:
            for path, each in _scalars(field, (field.key,)):
                yield "MOAT_" + "_".join(path).upper(), path, each


def _scalars(field: FieldSpec, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], FieldSpec]]:
    if field.fields is not None:
        return [found for each in field.fields for found in _scalars(each, (*path, each.key))]
    return [(path, field)] if field.is_scalar else []


def _read_overrides(
    schema: ConfigSchema,
    overrides: Mapping[str, tuple[Any, str]],
    folder: Path,
    home: str | None,
    problems: Problems,
) -> Leaves:
    """Read flags and the library's options; a later one wins over an earlier one."""
    leaves: Leaves = {}
    for dotted_key, (value, origin) in overrides.items():
        prefix = "flag " if origin.startswith("flag ") else ""
        source = Source(origin.removeprefix(prefix), prefix, folder, home)
        reader = Reader(source, problems)
        try:
            item = wrap(value, source)
        except ConfigError as error:
            problems.found.extend(error.problems)
            continue
        path = dotted_key.split(".")
        for key in reversed(path):
            item = Item("map", {key: item}, item.where, item.origin)
        _collect(reader, item, schema.fields, (), leaves)
    return leaves
