"""How a plugin says what its config section holds: a frozen attrs class whose fields are made with `option`.

The annotations are the specification: ``str``, ``int``, ``float``, ``bool``, ``Path``, ``Literal``, enums,
``X | None`` and unions, ``tuple[T, ...]``, ``list[T]``, ``dict[str, T]``, ``Mapping``, further attrs classes.
"""

from __future__ import annotations

import enum
import functools
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import attrs

from moat_core.errors import PluginError

if TYPE_CHECKING:
    from moat_core.config.judges import Judge

__all__ = ["LISTS", "MAPS", "FieldSpec", "arms", "expected", "fields_of", "is_union", "option"]

LISTS = (tuple, list, Sequence)
MAPS = (dict, Mapping)
_FACTORY: Any = attrs.Factory  # its stub says that it is a function
_SCALARS = (str, int, float, bool, Path)
_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}


def option(
    default: Any = attrs.NOTHING,
    *,
    help: str,  # noqa: A002 - the word that everybody looks for
    check: Callable[[Any], object] | None = None,
    convert: Callable[[Any], Any] | None = None,
    check_key: Callable[[str], object] | None = None,
    check_item: Callable[[Any], object] | None = None,
    unit: str = "",
    secret: bool = False,
    schema: Mapping[str, Any] | None = None,
    read: Callable[[Any, Any, str], Any] | None = None,
    shorthand: bool = False,
    widens: bool | str | Judge | None = None,
) -> Any:
    """Declare a field of a config section; takes the place of `attrs.field`.

    Args:
        default: What it is when nobody sets it. Lists and dicts are copied. A section's own fields need one;
            fields of classes inside lists and mappings may be without and are then required.
        help: What it is for: one or two sentences. The reference and the JSON Schema are made from it.
        check: Called with the field's value; raises `BadValue` (or ValueError) with a reason to refuse it.
            A mapping is checked whole, after files and flags have been merged.
        convert: Called with the raw value (text, number, list, dict) instead of reading it by the annotation,
            and returns the field's value; raises likewise. `size_bytes` and `duration_s` are such.
        check_key: For mappings: called with each key.
        check_item: For lists and mappings: called with each element.
        unit: For the reference: ``bytes``, ``s``.
        secret: Messages never show the value.
        schema: JSON Schema of the raw value, where ``convert`` takes something else than the annotation says.
        shorthand: The section may be this field's value alone: ``buildkit: off`` for ``buildkit: {mode: off}``.
        read: Called with the `Reader`, the `Item` and the key, where even the problems are the field's own.
        widens: Why a value in a workspace's file, perhaps a stranger's, needs the user's trust: what it gives beyond
            what holds without. ``False``: nothing. A text: every other value does. A function (see
            `moat_core.config.judges`): given the value and a `Baseline`, it returns why, or ``""``. Unsaid: it does.

    Example:
        >>> import attrs
        >>> @attrs.frozen
        ... class ProxyConfig:
        ...     port: int = option(8080, help="Port that the proxy listens on.")
    """
    if isinstance(default, (list, dict)):
        default = attrs.Factory(functools.partial(type(default), default))
    metadata = {
        "help": help,
        "check": check,
        "convert": convert,
        "check_key": check_key,
        "check_item": check_item,
        "unit": unit,
        "secret": secret,
        "schema": schema,
        "read": read,
        "shorthand": shorthand,
    }
    kept: dict[str, Any] = {key: value for key, value in metadata.items() if value}
    if widens is not None:
        kept["widens"] = widens
    return attrs.field(default=default, metadata=kept)


@attrs.frozen
class FieldSpec:
    """One key of a section.

    Args:
        name: The attrs field's name.
        key: The same as it stands in the file (``from_`` is ``from``).
        hint: Its resolved annotation.
        default: As attrs has it: a value, a Factory, or ``NOTHING``.
        metadata: See `option`.
        fields: The keys below it, if it is a section itself.
    """

    name: str
    key: str
    hint: Any
    default: Any
    metadata: Mapping[str, Any]
    fields: tuple[FieldSpec, ...] | None

    @property
    def is_map(self) -> bool:
        """Whether it is a mapping, which files and flags add to entry by entry."""
        return get_origin(self.hint) in MAPS and "convert" not in self.metadata

    @property
    def is_scalar(self) -> bool:
        """Whether one text can say it, as an environment variable does."""
        hints = [arg for arg in arms(self.hint) if arg is not type(None)]
        return self.fields is None and all(
            get_origin(hint) is Literal or (isinstance(hint, type) and issubclass(hint, (*_SCALARS, enum.Enum)))
            for hint in hints
        )

    def make_default(self) -> Any:
        """Return the default value."""
        return self.default.factory() if isinstance(self.default, _FACTORY) else self.default


@functools.lru_cache(maxsize=256)
def fields_of(cls: type) -> tuple[FieldSpec, ...]:
    """Return the keys that CLS specifies.

    Raises:
        PluginError: It is no attrs class, or an annotation cannot be resolved or is of no supported kind.
    """
    if not attrs.has(cls):
        raise PluginError(f"{_where(cls)} is no attrs class.", hint="Decorate it with @attrs.frozen.")
    try:
        hints = typing.get_type_hints(cls)
    except Exception as error:
        raise PluginError(
            f"The annotations of {_where(cls)} cannot be resolved: {error}.",
            hint="Import the types of config fields at the top of the module, not under TYPE_CHECKING.",
        ) from error
    return tuple(
        _field_spec(cls, field, hints.get(field.name, Any))
        for field in attrs.fields(cls)
        if field.init and not field.name.startswith("_")
    )


def _field_spec(cls: type, field: attrs.Attribute[Any], hint: Any) -> FieldSpec:
    if isinstance(field.default, _FACTORY) and getattr(field.default, "takes_self", False):
        raise PluginError(
            f"The default of {_where(cls)}.{field.name} depends on other fields.",
            hint="Give it a default of its own, or None, and work the rest out where it is used.",
        )
    if "convert" not in field.metadata and "read" not in field.metadata:
        _check_hint(hint, f"{_where(cls)}.{field.name}")
    is_section = isinstance(hint, type) and attrs.has(hint) and "convert" not in field.metadata
    below = fields_of(hint) if is_section else None
    return FieldSpec(field.name, field.name.rstrip("_"), hint, field.default, field.metadata, below)


def _check_hint(hint: Any, where: str) -> None:
    args = get_args(hint)
    if hint is Any or get_origin(hint) is Literal or hint is type(None):
        return
    if isinstance(hint, type) and (hint in _SCALARS or issubclass(hint, enum.Enum) or attrs.has(hint)):
        return
    if is_union(hint) or (get_origin(hint) in {list, Sequence} and args):
        for arg in args:
            _check_hint(arg, where)
    elif get_origin(hint) is tuple and args[1:] == (...,):
        _check_hint(args[0], where)
    elif get_origin(hint) in MAPS and args[0] is str:
        _check_hint(args[1], where)
    else:
        raise PluginError(
            f"{where} has the annotation {hint}, which a config field cannot have.",
            hint="Use str, int, float, bool, Path, Literal, an enum, X | None, tuple[T, ...], dict[str, T] "
            "or an attrs class, or give the field a `convert`.",
        )


def _where(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def is_union(hint: Any) -> bool:
    """Tell whether HINT is a union, in either notation."""
    return get_origin(hint) in {Union, types.UnionType}


def arms(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union; HINT alone if it is none."""
    return get_args(hint) if is_union(hint) else (hint,)


def expected(hint: Any) -> str:
    """Return what a value of HINT looks like, for "must be …"."""
    if is_union(hint):
        return " or ".join(dict.fromkeys(expected(arm) for arm in get_args(hint) if arm is not type(None)))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(
            str(each).lower() if each is True or each is False else str(each) for each in get_args(hint)
        )
    if get_origin(hint) in LISTS:
        return "a list"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(str(member.value) for member in hint)
    return _NAMES.get(hint, "a mapping")
