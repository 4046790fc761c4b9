"""One request of the run, as the endpoints see it: its words checked, its body read when somebody wants it."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

import attrs

from moat_plugins.docker_host.policy.shape import load
from moat_plugins.docker_host.policy.verdict import Forward, Refused, refuse

if TYPE_CHECKING:
    from moat_plugins.docker_host.engine import Engine
    from moat_plugins.docker_host.scope import Scope

__all__ = ["Call", "split_target"]

_VERSION = re.compile(r"/v(\d{1,3})\.(\d{1,3})(?=/)")
_PATH = re.compile(r"/[A-Za-z0-9_.:@/+~-]*")
_QUERY_BYTES = 64 * 1024


def split_target(target: str) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    """Return version prefix (``/v1.45`` or ``""``), path and query of a request's target.

    Only the plainest form is taken: origin-form, no empty or dotted segments, nothing quoted but what a name may hold.
    What the engine's router would clean up is refused, so that both see the same.

    Raises:
        Refused: It is of another form.
    """
    path, _, query = target.partition("?")
    path = unquote(path, errors="replace") if "%" in path else path
    if _PATH.fullmatch(path) is None or "%2f" in target.partition("?")[0].lower():
        raise Refused("moat: the path of the request has a form that the guard does not take.", status=400)
    if any(part in {"", ".", ".."} for part in path.split("/")[1:]):
        raise Refused("moat: the path of the request has an empty or dotted part.", status=400)
    version = _VERSION.match(path)
    if version is not None:
        path = path[version.end() :]
    if len(query) > _QUERY_BYTES or ";" in query:
        raise Refused("moat: the query of the request has a form that the guard does not take.", status=400)
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=200)
    except ValueError as error:
        raise Refused("moat: the query of the request cannot be read.", status=400) from error
    return (version.group() if version else ""), path, tuple(pairs)


@attrs.define
class Call:
    """A request.

    Args:
        version: ``/v1.45`` or ``""``.
        path: Without it, unquoted.
        pairs: The query.
        headers: Lower-case name -> value.
        groups: What the endpoint's pattern found in the path.
        read_body: Reads the whole body; only once.
    """

    engine: Engine
    method: str
    version: str
    path: str
    pairs: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    read_body: Callable[[], Awaitable[bytes]]
    groups: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def scope(self) -> Scope:
        """What decides in this run."""
        return self.engine.scope

    @property
    def query(self) -> dict[str, str]:
        """The query, whose names are unique unless an endpoint says otherwise."""
        return dict(self.pairs)

    def check_query(self, known: frozenset[str], several: frozenset[str] = frozenset()) -> None:
        """Look at the names of the query.

        Raises:
            Refused: One is not KNOWN, or comes twice and is not one of SEVERAL.
        """
        seen = set[str]()
        for name, value in self.pairs:
            if name in seen and name not in several:
                raise Refused(f"moat: the query has {name[:40]} twice.", status=400)
            seen.add(name)
            if name not in known and value not in {"", "0", "false", "null", "{}", "[]"}:
                raise refuse(f"the parameter {name[:40]}", "the guard does not know it")
        self.pairs = tuple((name, value) for name, value in self.pairs if name in known)

    async def json(self) -> Any:
        """Return the body, parsed strictly."""
        return load(await self.read_body())

    def filters(self) -> dict[str, list[str]]:
        """Return the parameter ``filters``: name -> values, whichever of its two spellings is used.

        Raises:
            Refused: It is neither.
        """
        found = load(self.query.get("filters", "").encode()) or {}
        made = {}
        if not isinstance(found, dict):
            raise Refused("moat: filters must be an object.", status=400)
        for name, values in found.items():
            listed = [value for value, on in values.items() if on] if isinstance(values, dict) else values
            if not isinstance(listed, list) or not all(isinstance(value, str) for value in listed):
                raise Refused("moat: each filter must be a list of texts.", status=400)
            made[name] = listed
        return made

    async def resolve_ends(self, find: Callable[[str], Awaitable[str]]) -> None:
        """Put ids in the place of what the filters ``before`` and ``since`` name.

        The engine tells whether there is such a thing, whosever it is.

        Args:
            find: Returns the id of what the run calls so.

        Raises:
            Refused: The run knows none of that name.
        """
        filters = self.filters()
        found = {key: [await find(name) for name in filters[key]] for key in ("before", "since") if key in filters}
        if found:
            others = tuple(pair for pair in self.pairs if pair[0] != "filters")
            self.pairs = (*others, ("filters", json.dumps({**filters, **found})))

    def with_own(
        self, *, key: str = "filters", extra: Mapping[str, list[str]] | None = None
    ) -> tuple[tuple[str, str], ...]:
        """Return the query with filters that let only the run's own objects through."""
        filters = self.filters()
        filters["label"] = [*filters.get("label", []), *(f"{k}={v}" for k, v in self.scope.marks.items())]
        filters |= extra or {}
        kept = [(name, value) for name, value in self.pairs if name != key]
        return (*kept, (key, json.dumps(filters)))

    def forward(
        self,
        path: str = "",
        *,
        query: tuple[tuple[str, str], ...] | None = None,
        json_body: Any = None,
        **options: Any,
    ) -> Forward:
        """Return this request, with another PATH, QUERY or body, for the engine."""
        return Forward(
            method=self.method,
            path=self.version + (path or self.path),
            query=self.pairs if query is None else query,
            body=None if json_body is None else json.dumps(json_body).encode(),
            **options,
        )
