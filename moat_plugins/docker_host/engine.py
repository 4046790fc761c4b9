"""What the guard itself asks of the engine: whose is it, which network, is there such a volume."""

from __future__ import annotations

import copy
import json
import re
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from moat_plugins.docker_host.budget import Budget, Recent
from moat_plugins.docker_host.items import Listing, filter_items
from moat_plugins.docker_host.policy.fields import any_name, check_reference, is_short_id
from moat_plugins.docker_host.policy.verdict import Refused, missing
from moat_plugins.docker_host.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager

    from moat_core.runtime.facets import EngineApi
    from moat_plugins.docker_host.budget import Account
    from moat_plugins.docker_host.names import Names
    from moat_plugins.docker_host.scope import Scope

__all__ = ["Engine"]

_ID = re.compile(r"[0-9a-f]{64}")
_SERIOUS = 500


class Engine:
    """Short questions, each on a connection of its own, and what is known to be the run's.

    Ids are not given twice, so what the guard saw made stays the run's own, whatever it is called. Of the rest, what is
    proven is (`Guests`); labels alone prove nothing.
    """

    def __init__(self, api: EngineApi, scope: Scope, names: Names | None = None, budget: Budget | None = None) -> None:
        self.api = api
        self.budget = budget or Budget()
        self._account: Account | None = None
        self.names = names
        self.scope = scope
        self.execs = Recent()
        self.images = Recent()
        """Ids of images that the run pulled or used: it may see them in lists."""
        self.guests = scope.guests
        self._containers = Recent()

    def charged(self, account: Account) -> Engine:
        """Return the same, as a request asks whose ACCOUNT what is answered is charged to."""
        view = copy.copy(self)  # what is known is shared
        view._account = account  # noqa: SLF001 - our own
        return view

    async def ask(
        self,
        method: str,
        path: str,
        query: Iterable[tuple[str, str]] = (),
        body: Any = None,
        headers: Iterable[tuple[str, str]] = (),
        *,
        pick: Callable[[Any], Any] | None = None,
    ) -> tuple[int, Any]:
        """Ask one thing: ``(status, parsed answer)``. PATH is without version and not quoted.

        Args:
            pick: Returns what of a 2xx answer is wanted, which is little: for it nothing is charged any more.

        Raises:
            RuntimeUnavailable: Nothing answers.
            Refused: There is no room for the answer.
        """
        content = None if body is None else json.dumps(body).encode()
        pairs = list(query)
        target = f"/v{self.scope.version}{quote(path, safe='/:@')}" + (f"?{urlencode(pairs)}" if pairs else "")
        with self._charge() as account:
            before = account.size
            async with Upstream.open(self.api) as upstream:
                await upstream.send_request(method, target, [*headers], content)
                head = await upstream.read_head()
                data = await upstream.read_body(account)
            try:
                found = json.loads(data) if data.strip() else None
            except ValueError:
                found = None
            if pick is not None:
                found = pick(found) if 200 <= head.status < 300 else None  # noqa: PLR2004 - OK
                await account.hold(before)
            return head.status, found

    async def list_items(
        self, path: str, query: Iterable[tuple[str, str]], pick: Callable[[Any], Any], *, name: str = ""
    ) -> list[Any]:
        """Return what PICK wants of each item of a list, which is little; nothing where that is ``None``.

        Args:
            path: As in `ask`, which is for what has to be looked at whole.
            query: Likewise.
            pick: See above.
            name: Of the list in the answer; ``""``: the answer is the list.
        """
        found: list[Any] = []

        def keep(item: Any) -> None:
            if (picked := pick(item)) is not None:
                found.append(picked)

        target = f"/v{self.scope.version}{path}?{urlencode(list(query))}"
        with self._charge() as account:
            before = account.size
            async with Upstream.open(self.api) as upstream:
                await upstream.send_request("GET", target, [], None)
                if (await upstream.read_head()).status == 200:  # noqa: PLR2004 - OK
                    async for _ in filter_items(upstream, Listing({name: keep}), account):
                        pass
            await account.hold(before)
        return found

    def _charge(self) -> AbstractContextManager[Account]:
        return self.budget.open() if self._account is None else nullcontext(self._account)

    async def own_container(self, name: str) -> str:
        """Return the id of the run's own container NAME (or a beginning of its id).

        Raises:
            Refused: There is no such container, or it is somebody else's.
        """
        name = any_name(name, "container")
        if name in self._containers:
            return name
        status, found = await self.ask("GET", f"/containers/{name}/json")
        if status >= _SERIOUS:
            raise Refused(_message(found), status=status)
        if not found or status != 200:  # noqa: PLR2004 - OK
            raise missing("container", name)
        if not self.is_own_container(found["Id"], [found.get("Name", "")], found["Config"]["Labels"]):
            raise missing("container", name)
        self._containers.add(found["Id"])
        identity: str = found["Id"]
        return identity

    def is_own_container(self, identity: str, names: Iterable[str], labels: Mapping[str, str] | None) -> bool:
        """Tell whether the run made the container that has this id, and is called NAMES now."""
        return (
            identity in self._containers
            or self.guests.knows(identity)
            or any(self.guests.is_own("container", name.removeprefix("/"), labels) for name in names or ())
        )

    def made_container(self, identity: str) -> None:
        """Remember a container that the engine just made for the run."""
        if _ID.fullmatch(identity):
            self._containers.add(identity)

    async def refresh_names(self) -> None:
        """Let the run's guests in gVisor know each other's addresses."""
        if self.names is not None:
            await self.names.refresh(self)

    async def own_network(self, name: str, *, use: bool = False) -> str:
        """Return the id of the run's own network NAME; with USE also of the network that the run is on.

        Raises:
            Refused: There is no such network, or it is somebody else's.
        """
        status, found = await self.ask("GET", f"/networks/{any_name(name, 'network')}")
        if status != 200 or not found:  # noqa: PLR2004 - OK
            raise missing("network", name)
        if not self.guests.is_own("network", found["Name"], found.get("Labels")) and not (
            use and found["Name"] == self.scope.network
        ):
            raise missing("network", name)
        identity: str = found["Id"]
        return identity

    async def find_volume(self, name: str) -> bool | None:
        """Tell whether the volume NAME is the run's own; ``None``: there is none."""
        status, found = await self.ask("GET", f"/volumes/{any_name(name, 'volume')}")
        if status != 200 or not found:  # noqa: PLR2004 - OK
            return None
        return self.guests.is_own("volume", found["Name"], found.get("Labels"))

    async def ensure_volume(self, name: str, labels: dict[str, str], options: dict[str, str] | None = None) -> None:
        """Make the volume NAME for the run, with LABELS beside moat's own, unless it has it.

        Raises:
            Refused: Somebody else has a volume of that name.
        """
        body = {
            "Name": name,
            "Driver": "local",
            "Labels": self.guests.sign("volume", name, labels),
            "DriverOpts": options or {},
        }
        status, found = await self.ask("POST", "/volumes/create", body=body)
        if status >= 300:  # noqa: PLR2004 - not OK
            raise Refused(_message(found), status=status)
        if not self.guests.is_own("volume", name, found.get("Labels")):  # the engine returns one that is there already
            raise Refused(f"moat: the volume name {name} is taken by something outside this run.", status=409)

    async def find_image(self, name: str) -> dict[str, Any] | None:
        """Return what the engine says of an image, ``None`` if it has none of that name or id.

        The beginning of an id is enough for images that the run knows only: by trying, it could find all others.
        """
        status, found = await self.ask("GET", f"/images/{check_reference(name)}/json")
        if status != 200:  # noqa: PLR2004 - OK
            return None
        is_known = self.is_own_image(found) or found.get("Id") in self.images
        is_by_id = is_short_id(name) and str(found.get("Id", "")).startswith(f"sha256:{name.removeprefix('sha256:')}")
        if is_by_id and not is_known:
            return None
        image: dict[str, Any] = found
        return image

    def is_own_image(self, image: dict[str, Any]) -> bool:
        """Tell whether the run made it; IMAGE is what GET /images/{name}/json answers."""
        return self.guests.own_names(str(image.get("Id", "")), image.get("RepoTags") or ()) is not None

    def own_names(self, image: dict[str, Any]) -> list[str]:
        """Return which of the names of an image the run gave."""
        return self.guests.own_names(str(image.get("Id", "")), image.get("RepoTags") or ()) or []


def _message(found: Any) -> str:
    return str(found.get("message", "")) if isinstance(found, dict) else "the engine could not answer"
