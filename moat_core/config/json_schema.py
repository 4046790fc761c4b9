"""The schema as JSON Schema (draft 2020-12), for editors: ``moat config schema``."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import attrs

from moat_core.config.options import LISTS, MAPS, FieldSpec, fields_of, is_union
from moat_core.config.values import duration_s, size_bytes

if TYPE_CHECKING:
    from moat_core.config.schema import ConfigSchema

__all__ = ["json_schema"]

_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", Path: "string", type(None): "null"}
_CONVERTERS: dict[Any, dict[str, Any]] = {
    size_bytes: {"type": ["number", "string"]},
    duration_s: {"type": ["number", "string"]},
}


def json_schema(schema: ConfigSchema) -> dict[str, Any]:
    """Return the JSON Schema of the config file with all sections of SCHEMA."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "moat configuration",
        "description": "agent.yaml: what runs in the container, and what the container has.",
    } | _object(schema.fields)


def _object(fields: tuple[FieldSpec, ...]) -> dict[str, Any]:
    required = [field.key for field in fields if field.default is attrs.NOTHING]
    return {
        "type": "object",
        "properties": {field.key: _field(field) for field in fields},
        "additionalProperties": False,
    } | ({"required": required} if required else {})


def _field(field: FieldSpec) -> dict[str, Any]:
    metadata = field.metadata
    if "schema" in metadata:
        found = dict(metadata["schema"])
    elif field.fields is not None:
        short = [_field(each) for each in field.fields if each.metadata.get("shorthand")]
        found = {"anyOf": [*short, _object(field.fields)]} if short else _object(field.fields)
    elif "convert" in metadata:
        found = dict(_CONVERTERS.get(metadata["convert"], {}))
    else:
        found = _type(field.hint)
    if metadata.get("help"):
        found["description"] = metadata["help"]
    if field.default is not attrs.NOTHING and field.fields is None and "convert" not in metadata:
        default = _jsonable(field.make_default())
        if default not in (None, {}, []):
            found["default"] = default
    return found


def _type(hint: Any) -> dict[str, Any]:  # noqa: PLR0911 - one line a kind of annotation
    if hint is Any:
        return {}
    if is_union(hint):
        return _union([arm for arm in get_args(hint) if arm is not type(None)], nullable=type(None) in get_args(hint))
    if get_origin(hint) is Literal:
        return {"enum": list(get_args(hint))}
    if get_origin(hint) in LISTS:
        return {"type": "array", "items": _type(get_args(hint)[0])}
    if get_origin(hint) in MAPS:
        return {"type": "object", "additionalProperties": _type(get_args(hint)[1])}
    if issubclass(hint, enum.Enum):
        return {"enum": [member.value for member in hint]}
    return _object(fields_of(hint)) if attrs.has(hint) else {"type": _TYPES[hint]}


def _union(arms: list[Any], *, nullable: bool) -> dict[str, Any]:
    found = [_type(arm) for arm in arms]
    if nullable and len(found) == 1 and "enum" in found[0]:
        return {"enum": [*found[0]["enum"], None]}
    if nullable and len(found) == 1 and isinstance(found[0].get("type"), str):
        return found[0] | {"type": [found[0]["type"], "null"]}
    return {"anyOf": found + ([{"type": "null"}] if nullable else [])}


def _jsonable(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [_jsonable(each) for each in value]
    if attrs.has(type(value)):
        return {name: _jsonable(each) for name, each in attrs.asdict(value).items()}
    return str(value) if isinstance(value, Path) else value
