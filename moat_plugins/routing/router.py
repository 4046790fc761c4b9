"""Where each request goes: the names, the table and the pages, put together for the proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moat_core.http.proxy import Proxy
from moat_core.listen.peers import is_ours
from moat_plugins.routing.index import Index
from moat_plugins.routing.names import INDEX_HOSTS, bare, parse_host
from moat_plugins.routing.pages import errors
from moat_plugins.routing.pages.accept import Asker, is_navigation, read_fields, wants_html
from moat_plugins.routing.pages.agent import agent_page
from moat_plugins.routing.pages.state import EndpointView, RunView, Site

if TYPE_CHECKING:
    from moat_core.http.answer import Answer, Deferred, Said
    from moat_core.http.client import Client
    from moat_core.http.head import BadHead, Request
    from moat_core.http.upstream import Address
    from moat_plugins.routing.names import Name
    from moat_plugins.routing.runs import Runs
    from moat_plugins.routing.table import Agent, Table

__all__ = ["Router"]

_MOST_HOSTS = 4096
_LOOP = 508


class Router(Proxy):
    """The proxy of one ``MOAT_HOME``.

    Args:
        table: Who is reached by which name.
        runs: What the pages tell of them.
        version: Of moat.
        port: Where it listens.
        options: Of `Proxy`.
    """

    def __init__(self, table: Table, runs: Runs, *, version: str, port: int, **options: Any) -> None:
        super().__init__(**options)
        self._table, self._runs, self._index = table, runs, Index(runs)
        self._site = Site(port=port, version=version)
        self._version = table.version
        self._places: dict[bytes, Address] = {}  # what was found for a Host, as long as the table does not change

    def route(self, request: Request, client: Client, *, fresh: bool) -> Address | Said:
        """See `Proxy`. What counts is the store as it is, at most some milliseconds ago; at once where it matters."""
        place = None if self._look(fresh=fresh) or fresh else self._places.get(request.host)
        if place is not None:
            return place
        found = self._resolve(request, client, fresh=fresh)
        if isinstance(found, tuple) or fresh or not self._look(fresh=True):
            return found
        return self._resolve(request, client, fresh=True)  # what came a moment ago is not told not to be there

    def _look(self, *, fresh: bool) -> bool:
        """Bring the table up to date; tell whether what was found before counts no more."""
        self._table.look(fresh=fresh)
        if self._table.version == self._version:
            return False
        self._version = self._table.version
        self._places.clear()
        return True

    def _resolve(self, request: Request, client: Client, *, fresh: bool) -> Address | Said:
        host = request.host.decode("latin-1")
        name = parse_host(host)
        if bare(host) in INDEX_HOSTS:
            asker = self._asker(request, client)
            if not is_ours(client.transport):
                return errors.other_user(asker)
            return self._index.answer(request.target.decode("latin-1"), read_fields(request.head), asker)
        if name is None:
            return errors.unknown_host(host, self._asker(request, client))
        agent = self._table.agents.get(name.agent)
        if agent is None:
            return self._unknown(name, request, client)
        return self._resolve_endpoint(agent, name.endpoint or agent.default, request, client, fresh=fresh)

    def _resolve_endpoint(
        self, agent: Agent, endpoint: str, request: Request, client: Client, *, fresh: bool
    ) -> Address | Said:
        if endpoint not in agent.endpoints:
            asker = self._asker(request, client)
            if not is_ours(client.transport):
                return errors.other_user(asker)
            if not endpoint:
                return self._show(agent, asker)
            return errors.unknown_endpoint(agent.name, endpoint, _views(agent, asker.site), asker)
        place = agent.places.get(endpoint)
        if (place is None or fresh) and not self._table.is_live(agent):
            return self._ended(agent.name, agent.run_id, client, self._asker(request, client))
        if place is None:
            return errors.starting(agent.name, endpoint, self._asker(request, client))
        if len(self._places) >= _MOST_HOSTS:
            self._places.clear()
        self._places[request.host] = place
        return place

    def refuse(self, error: BadHead) -> Answer:
        """See `Proxy`. Nobody knows what such a client wants to read."""
        asker = Asker(self._site)
        return errors.loop(asker) if error.status == _LOOP else errors.bad_request(error.status, error.reason, asker)

    def unreachable(self, request: Request, client: Client, error: Exception) -> Answer | Deferred:
        """See `Proxy`."""
        agent, endpoint = self._whose(request)
        asker = self._asker(request, client)
        if agent is None or not self._table.is_live(agent):
            name = agent.name if agent else endpoint
            return self._ended(name, agent.run_id if agent else "", client, asker)
        if isinstance(error, TimeoutError):
            return errors.too_slow(agent.name, endpoint, self.answer_s, asker)
        views = {view.name: view for view in _views(agent, asker.site)}
        if endpoint not in views and not is_ours(client.transport):
            return errors.other_user(asker)
        if endpoint not in views:  # another run has the name by now
            return errors.unknown_endpoint(agent.name, endpoint, tuple(views.values()), asker)
        if not isinstance(error, ConnectionError):  # no file left, no way there: nobody saw that nothing listens
            return errors.unreachable(agent.name, endpoint, getattr(error, "strerror", None) or str(error), asker)
        return errors.not_listening(agent.name, views[endpoint], asker)

    def bad_response(self, request: Request, client: Client, why: str) -> Answer:
        """See `Proxy`."""
        agent, endpoint = self._whose(request)
        sentence = f"{why[:1].upper()}{why[1:]}{'' if why.endswith('.') else '.'}"
        return errors.bad_response(agent.name if agent else "", endpoint, sentence, self._asker(request, client))

    def _whose(self, request: Request) -> tuple[Agent | None, str]:
        """Return the agent that REQUEST was for, if it is there still, and the endpoint (else the agent's name)."""
        name = parse_host(request.host.decode("latin-1"))
        if name is None:
            return None, ""
        self._table.look(fresh=True)
        agent = self._table.agents.get(name.agent)
        return (agent, name.endpoint or agent.default) if agent else (None, name.agent)

    def _asker(self, request: Request, client: Client) -> Asker:
        scheme = client.scheme
        fields = read_fields(request.head)
        _, colon, port = request.host.decode("latin-1").rpartition(":")
        number = int(port) if colon and port.isdigit() else 443 if scheme == "https" else 80
        site = Site(scheme, number, self._site.version)
        return Asker(site, wants_html(fields.get("accept", "")), request.method.decode("latin-1"))

    def _unknown(self, name: Name, request: Request, client: Client) -> Answer | Deferred:
        """The run that had the name, if one had; whoever does not just open the address is told of no other."""
        asker = self._asker(request, client)
        if not is_ours(client.transport):
            return errors.unknown_agent(name.agent, [], asker)
        agents = sorted(self._table.agents) if is_navigation(read_fields(request.head)) else []

        async def find() -> Answer:
            run = await self._runs.find_ended("", name.agent, asker.site)
            if run is not None:
                return errors.run_ended(run, asker)
            return errors.unknown_agent(name.agent, agents, asker)

        return find

    def _ended(self, name: str, run_id: str, client: Client, asker: Asker) -> Answer | Deferred:
        if not is_ours(client.transport):
            return errors.other_user(asker)

        async def find() -> Answer:
            run = await self._runs.find_ended(run_id, name, asker.site)
            return errors.run_ended(run or RunView(run_id, name, "failed"), asker)

        return find

    def _show(self, agent: Agent, asker: Asker) -> Deferred:
        async def make() -> Answer:
            run = await self._runs.get(agent.run_id, asker.site)
            return agent_page(run or RunView(agent.run_id, agent.name, "starting"), asker)

        return make


def _views(agent: Agent, site: Site) -> tuple[EndpointView, ...]:
    return tuple(
        EndpointView(name, site.url(f"{name}.{agent.name}.localhost"), number)
        for name, number in agent.endpoints.items()
    )
