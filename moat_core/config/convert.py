"""From a tree of values (`tree.Item`) to the values that a section's annotations ask for.

Nothing is coerced: the number 8080 is no text, the text "8080" no number. Only what comes from the
environment, where everything is text, is read as what is wanted. Problems are recorded and the rest is read
all the same.
"""

from __future__ import annotations

import enum
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin

import attrs

from moat_core.config.options import LISTS, MAPS, FieldSpec, arms, expected, fields_of, is_union
from moat_core.config.tree import Item, Problems, Source
from moat_core.config.values import BadValue, check_argument, expand_path, nearest, show
from moat_core.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["INVALID", "Reader", "plain"]


class _Invalid(enum.Enum):
    INVALID = enum.auto()


INVALID: Final = _Invalid.INVALID
"""Stands for a value whose problem has been recorded."""

_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})


def plain(item: Item) -> Any:
    """Return the Python value of ITEM, lists and dicts included."""
    if item.kind == "list":
        return [plain(each) for each in item.value]
    if item.kind == "map":
        return {key: plain(each) for key, each in item.value.items()}
    return item.value


def _has(item: Item, kind: str) -> bool:
    """Tell whether ITEM or anything in it is of KIND."""
    if item.kind == "list":
        return any(_has(each, kind) for each in item.value)
    if item.kind == "map":
        return any(_has(each, kind) for each in item.value.values())
    return item.kind == kind


@attrs.frozen
class Reader:
    """Reads values of one source and records what is wrong with them."""

    source: Source
    problems: Problems

    def read_field(self, item: Item, field: FieldSpec, key: str) -> Any:
        """Return the value of FIELD, or `INVALID`."""
        custom = field.metadata.get("read")
        if item.kind == "broken":
            return INVALID
        if item.kind == "null" and (type(None) in arms(field.hint) or self._is_container(field)):
            return None if type(None) in arms(field.hint) else field.make_default()
        if custom is not None:
            value = custom(self, item, key)
        elif "convert" in field.metadata:
            value = self._convert(item, field, key)
        else:
            value = self.read(item, field.hint, key, field.metadata)
        check = field.metadata.get("check")
        if value is INVALID or check is None or field.is_map or value is None:
            return value
        return self.checked(check, value, item, key, is_secret=field.metadata.get("secret", False))

    @staticmethod
    def _is_container(field: FieldSpec) -> bool:
        return get_origin(field.hint) in (*LISTS, *MAPS) and field.default is not attrs.NOTHING

    def read(  # noqa: PLR0911 - one line a kind of annotation
        self, item: Item, hint: Any, key: str, metadata: Mapping[str, Any] | None = None
    ) -> Any:
        """Return ITEM as HINT wants it, or `INVALID`.

        METADATA brings ``check_item``, ``check_key`` and ``secret``, see `option`.
        """
        meta = metadata or {}
        if item.kind == "broken":
            return INVALID
        if hint is Any:
            return plain(item) if not _has(item, "broken") else INVALID
        if is_union(hint):
            return self._read_union(item, hint, key, meta)
        if get_origin(hint) is Literal:
            return self._read_choice(item, {each: each for each in get_args(hint)}, hint, key)
        if get_origin(hint) in LISTS:
            return self._read_list(item, hint, key, meta)
        if get_origin(hint) in MAPS:
            entries = self.read_entries(item, hint, key, meta)
            return entries if entries is INVALID else {name: value for name, (value, _) in entries.items()}
        if item.kind == "object" and isinstance(item.value, hint):
            return item.value
        if issubclass(hint, enum.Enum):
            return self._read_choice(item, {each.value: each for each in hint}, hint, key)
        if attrs.has(hint):
            return self._read_object(item, hint, key)
        return self._read_scalar(item, hint, key, meta)

    def wrong(self, item: Item, what: str, key: str, hint: str = "", *, is_secret: bool = False) -> Any:
        """Record that ITEM must be WHAT."""
        self.problems.add(item.where, f"{key} must be {what}, not {item.describe(is_secret=is_secret)}.", hint)
        return INVALID

    def checked(
        self,
        call: Callable[[Any], object],
        value: Any,
        item: Item,
        key: str,
        *,
        is_secret: bool = False,
        gives_value: bool = False,
    ) -> Any:
        """Return VALUE if CALL does not refuse it, or what CALL made of it if GIVES_VALUE; else `INVALID`.

        Raises:
            PluginError: CALL raised something else than a ValueError.
        """
        try:
            result = call(value)
        except ValueError as error:
            reason = (error.reason if isinstance(error, BadValue) else str(error)).rstrip(".") or "it is refused"
            hint = error.hint if isinstance(error, BadValue) else ""
            is_shown = item.kind not in {"list", "map", "object", "null"} and not is_secret
            subject = f"{key} cannot be {show(item.raw)}" if is_shown else f"{key} cannot be used"
            self.problems.add(item.where, f"{subject}: {reason}.", hint)
            return INVALID
        except Exception as error:
            raise PluginError(f"The check of the config key {key} raised {error!r}.") from error
        return result if gives_value else value

    def _convert(self, item: Item, field: FieldSpec, key: str) -> Any:
        secret = field.metadata.get("secret", False)
        if _has(item, "broken"):
            return INVALID
        if item.kind == "odd":
            return self.wrong(item, "unambiguous", key, _quote_hint(item, secret=secret), is_secret=secret)
        if item.kind == "null":
            return self.wrong(item, expected(field.hint), key)
        convert = field.metadata["convert"]
        return self.checked(convert, plain(item), item, key, is_secret=secret, gives_value=True)

    def _read_union(self, item: Item, hint: Any, key: str, meta: Mapping[str, Any]) -> Any:
        arms = [arm for arm in get_args(hint) if arm is not type(None)]
        if item.kind == "null" and len(arms) < len(get_args(hint)):
            return None
        if len(arms) == 1:
            return self.read(item, arms[0], key, meta)
        for arm in arms:
            trial = Reader(self.source, Problems())
            value = trial.read(item, arm, key, meta)
            if value is not INVALID:
                return value
        return self.wrong(item, expected(hint), key, is_secret=meta.get("secret", False))

    def _read_choice(self, item: Item, choices: Mapping[Any, Any], hint: Any, key: str) -> Any:
        value = item.raw if item.is_loose and item.kind == "text" else item.value
        for choice, meaning in choices.items():
            if item.kind not in {"list", "map"} and type(choice) is type(value) and choice == value:
                return meaning
        close = nearest(item.raw, [str(choice) for choice in choices]) if not self.problems.is_full else None
        return self.wrong(item, expected(hint), key, f"Did you mean {close}?" if close else "")

    def _read_list(self, item: Item, hint: Any, key: str, meta: Mapping[str, Any]) -> Any:
        if item.kind != "list":
            text = f"Write it as a list: {key.rpartition('.')[2]}: [{item.raw}]" if item.raw.isprintable() else ""
            one = item.kind == "text" and len(item.raw) < len(_EXAMPLE)
            return self.wrong(item, "a list", key, text if one and not meta.get("secret") else "")
        values = []
        for number, each in enumerate(item.value):
            name = f"{key}[{number}]"
            value = self.read(each, get_args(hint)[0], name, {"secret": meta.get("secret", False)})
            check = meta.get("check_item")
            if check and value is not INVALID:
                value = self.checked(check, value, each, name, is_secret=meta.get("secret", False))
            values.append(value)
        if INVALID in values:
            return INVALID
        return values if get_origin(hint) is list else tuple(values)

    def read_entries(self, item: Item, hint: Any, key: str, meta: Mapping[str, Any]) -> Any:
        """Return key -> (value, item) of a mapping, or `INVALID`."""
        if item.kind != "map":
            return self.wrong(item, "a mapping", key)
        entries: dict[str, Any] = {}
        is_secret = meta.get("secret", False)
        for name, each in item.value.items():
            path = f"{key}.{name}" if name.isprintable() and len(name) < len(_EXAMPLE) else f"{key}.{show(name)}"
            check_key, check_item = meta.get("check_key"), meta.get("check_item")
            as_item = Item("text", name, each.where, each.origin, name)
            if check_key and self.checked(check_key, name, as_item, f"A key of {key}") is INVALID:
                entries[name] = (INVALID, each)
                continue
            value = self.read(each, get_args(hint)[1], path, {"secret": is_secret})
            if check_item and value is not INVALID:
                value = self.checked(check_item, value, each, path, is_secret=is_secret)
            entries[name] = (value, each)
        return INVALID if any(value is INVALID for value, _ in entries.values()) else entries

    def _read_object(self, item: Item, cls: type, key: str) -> Any:
        if item.kind != "map":
            return self.wrong(item, "a mapping", key)
        fields = {field.key: field for field in fields_of(cls)}
        values: dict[str, Any] = {}
        for name, each in item.value.items():
            if name in fields:
                values[name] = self.read_field(each, fields[name], f"{key}.{name}")
            else:
                self.unknown_key(each, name, fields, key)
                values[name] = INVALID
        missing = [name for name, field in fields.items() if field.default is attrs.NOTHING and name not in values]
        for name in missing:
            self.problems.add(item.where, f"{key} lacks the key {show(name)}.", fields[name].metadata.get("help", ""))
        if missing or INVALID in values.values():
            return INVALID
        made = {_init_name(cls, fields[name]): value for name, value in values.items()}
        return self.checked(lambda _: cls(**made), None, item, key, gives_value=True)

    def unknown_key(self, item: Item, name: str, allowed: Mapping[str, Any], parent: str, hint: str = "") -> None:
        """Record that NAME is none of ALLOWED."""
        if self.problems.is_full:
            self.problems.add("", "")
            return
        close = nearest(name, allowed)
        listed = f"Known here: {', '.join(sorted(allowed)) or 'none'}."
        suggestion = f"Did you mean {close}? " if close else ""
        place = f" in {parent}" if parent else ""
        self.problems.add(
            item.where, f"Unknown key {show(name)}{place}.", f"{suggestion}{listed}{'' if close else hint}"
        )

    def _read_scalar(self, item: Item, hint: type, key: str, meta: Mapping[str, Any]) -> Any:
        secret = meta.get("secret", False)
        readers = {str: _as_text, int: _as_int, float: _as_float, bool: _as_bool, Path: _as_text}
        value = readers[hint](item)
        if value is INVALID:
            advice = _quote_hint(item, secret=secret) if hint in {str, Path} else _plain_hint(item, hint)
            return self.wrong(item, expected(hint), key, advice, is_secret=secret)
        if isinstance(value, str):
            value = self.checked(check_argument, value, item, key, is_secret=secret)
        if hint is Path and value is not INVALID:
            value = self.checked(self._path, value, item, key, is_secret=secret, gives_value=True)
        return value

    def _path(self, text: str) -> Path:
        return Path(expand_path(text, self.source.base, self.source.home))


_EXAMPLE = "x" * 40  # longer texts make no readable example


def _init_name(cls: type, field: FieldSpec) -> str:
    return str(getattr(attrs.fields(cls), field.name).alias)


def _as_text(item: Item) -> Any:
    return item.value if item.kind == "text" else INVALID


def _as_int(item: Item) -> Any:
    if item.is_loose and re.fullmatch(r"[-+]?[0-9]{1,19}", item.raw.strip()):
        return int(item.raw)
    return item.value if item.kind == "int" else INVALID


def _as_float(item: Item) -> Any:
    value = item.value
    if item.is_loose and re.fullmatch(r"[-+]?(?:[0-9]{1,19}(?:\.[0-9]{0,19})?|\.[0-9]{1,19})", item.raw.strip()):
        value = float(item.raw)
    elif item.kind not in {"int", "float"}:
        return INVALID
    return float(value) if math.isfinite(value) else INVALID


def _as_bool(item: Item) -> Any:
    if item.is_loose:
        text = item.raw.strip().lower()
        return True if text in _TRUE else False if text in _FALSE else INVALID
    return item.value if item.kind == "bool" else INVALID


def _quote_hint(item: Item, *, secret: bool) -> str:
    if item.form == "yaml" and item.kind in {"int", "float", "bool", "odd"}:
        example = "" if secret or len(item.raw) > len(_EXAMPLE) else f': "{item.raw}"'
        return f"If text is meant, quote it{example}."
    return ""


def _plain_hint(item: Item, hint: type) -> str:
    if item.kind == "odd" and hint is bool:
        return "Write true or false."
    if item.kind == "odd":
        return "YAML readers disagree about this one; write a plain decimal number."
    if item.kind == "text" and item.form == "yaml" and re.fullmatch(r"[-+]?[0-9.]+|true|false", item.raw):
        return "Remove the quotes."
    return ""
