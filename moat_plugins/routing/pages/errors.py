"""What is said where no service can answer: one function an error. Codes are stable.

==========================  ======  ===================================================================
code                        status  when
==========================  ======  ===================================================================
``unknown-agent``           404     no live run has that name
``unknown-endpoint``        404     the run has no such endpoint; never another one instead
``unknown-host``            421     a Host that is not under ``localhost``
``not-listening``           502     the run is up, nothing accepts connections on the port
``starting``                503     the run is not up yet
``run-ended``               503     the run is over; not 410, on which senders of webhooks unsubscribe
``unreachable``             502     whether anything listens could not be seen
``too-slow``                504     no answer in time
``bad-response``            502     what came was no answer
``bad-request`` and others  given   see `bad_request`
``loop``                    508     the request came from this proxy
``foreign``                 403     another origin's page asks for a part of the index
``other-user``              403     another user of this machine asks for what is told to the proxy's own
``unknown-page``            404     nothing at that path of the index
==========================  ======  ===================================================================
"""

from __future__ import annotations

from collections.abc import Sequence

from moat_core.http.answer import Answer
from moat_plugins.routing.pages.accept import Asker
from moat_plugins.routing.pages.index import endpoint_list
from moat_plugins.routing.pages.markup import Element, Node, el
from moat_plugins.routing.pages.problem import Fault, fault_answer
from moat_plugins.routing.pages.state import EndpointView, RunView
from moat_plugins.routing.pages.text import nearest, shorten

__all__ = [
    "bad_request",
    "bad_response",
    "foreign",
    "loop",
    "not_listening",
    "other_user",
    "run_ended",
    "starting",
    "too_slow",
    "unknown_agent",
    "unknown_endpoint",
    "unknown_host",
    "unknown_page",
    "unreachable",
]

_MOST_NAMES = 50
_NAME = 253


def unknown_agent(name: str, agents: Sequence[str], asker: Asker) -> Answer:
    """No live run is called NAME.

    Args:
        agents: Those that are; none for whoever does not just open the address (see `policy`).
    """
    name, near = shorten(name, _NAME), nearest(name, agents)
    shown = agents[:_MOST_NAMES]
    content: list[Node] = []
    if near:
        content.append(el("p", "Did you mean ", _agent(near, asker), "?"))
    if shown:
        more = len(agents) - len(shown)
        content += [
            el("h2", "Running now"),
            el("ul", (el("li", _agent(agent, asker)) for agent in shown), class_="names"),
            el("p", f"… and {more} more.") if more else "",
        ]
    return fault_answer(
        Fault(
            404,
            "unknown-agent",
            "No such agent",
            f"No running agent is called {name}.",
            "`moat list` shows what is running; `moat run` starts an agent, and `--name` names it.",
            {"agent": name, "nearest": near or None, "agents": list(agents)},
            tuple(content),
        ),
        asker,
    )


def _agent(name: str, asker: Asker) -> Element:
    return el("a", name, href=asker.site.url(f"{name}.localhost"))


def unknown_endpoint(agent: str, name: str, endpoints: Sequence[EndpointView], asker: Asker) -> Answer:
    """AGENT runs and has no endpoint NAME."""
    name, near = shorten(name, _NAME), nearest(name, [endpoint.name for endpoint in endpoints])
    match = next((endpoint for endpoint in endpoints if near and endpoint.name == near), None)
    content: list[Node] = []
    if match:
        content.append(el("p", "Did you mean ", el("a", match.name, href=match.url), "?"))
    if endpoints:
        content += [el("h2", f"Endpoints of {agent}"), endpoint_list(endpoints)]
    return fault_answer(
        Fault(
            404,
            "unknown-endpoint",
            "No such endpoint",
            f"{agent} has no endpoint called {name}.",
            "Endpoints are named under `ports:` in its `agent.yaml`, and are there from its next start.",
            {
                "agent": agent,
                "endpoint": name,
                "nearest": near or None,
                "endpoints": [each.to_json() for each in endpoints],
            },
            tuple(content),
        ),
        asker,
    )


def unknown_host(host: str, asker: Asker) -> Answer:
    """The Host is not under ``localhost``. Whose page it is nobody knows: it is told nothing of what runs here."""
    host = shorten(host, _NAME)
    return fault_answer(
        Fault(
            421,
            "unknown-host",
            "Not a name of this machine",
            f"{host or 'A request without a host'} is not served here.",
            "Only localhost and names that end in .localhost are, so that no site can pass for this machine.",
            {"host": host},
        ),
        asker,
    )


def not_listening(agent: str, endpoint: EndpointView, asker: Asker) -> Answer:
    """AGENT is up, and nothing in its container accepts connections on ENDPOINT's port."""
    return fault_answer(
        Fault(
            502,
            "not-listening",
            f"Waiting for {endpoint.name}",
            f"{agent} is running, but nothing accepts connections on port {endpoint.port} in its container yet.",
            f"It has to listen on 0.0.0.0, not on 127.0.0.1; `moat logs {agent}` shows what it says.",
            {"agent": agent, "endpoint": endpoint.name, "port": endpoint.port},
            (
                _details(
                    "It takes longer than it should?",
                    el("li", "See what it says: ", el("code", f"moat logs -f {agent}")),
                    el(
                        "li",
                        "It has to listen on ",
                        el("code", "0.0.0.0"),  # noqa: S104 - said, not done
                        ", not on ",
                        el("code", "127.0.0.1"),
                        ", which is the container's own: many servers have an option ",
                        el("code", "--host"),
                        ".",
                    ),
                    el("li", f"It has to listen on port {endpoint.port}, which is what agent.yaml says."),
                ),
            ),
            waits=True,
            says_more=True,
        ),
        asker,
    )


def _details(title: str, *items: Element) -> Element:
    return el("details", el("summary", title), el("ul", items))


def starting(agent: str, endpoint: str, asker: Asker) -> Answer:
    """AGENT has no started container yet. ``endpoint`` may be empty."""
    return fault_answer(
        Fault(
            503,
            "starting",
            f"{agent} is starting",
            "Its container is not up yet.",
            f"Ask again in a moment; `moat logs {agent}` shows what it says.",
            {"agent": agent, "endpoint": endpoint or None},
            waits=True,
            says_more=True,
        ),
        asker,
    )


def run_ended(run: RunView, asker: Asker) -> Answer:
    """The run that had this name is over."""
    code = "" if run.exit_code is None else f" with exit code {run.exit_code}"
    return fault_answer(
        Fault(
            503,
            "run-ended",
            f"{run.name} has ended",
            f"The run {run.id} is over{code}.",
            f"`moat logs {run.id}` shows what it said; `moat run` in its folder starts it again.",
            {"agent": run.name, "run": run.id, "state": run.state, "exit_code": run.exit_code},
            (
                el(
                    "ul",
                    el("li", "What it said: ", el("code", f"moat logs {run.id}")),
                    el("li", "All runs, also those that are over: ", el("code", "moat list -a")),
                    el("li", "Start it again in its folder: ", el("code", "moat run")),
                ),
            ),
            says_more=True,
        ),
        asker,
    )


def too_slow(agent: str, endpoint: str, waited_s: float, asker: Asker) -> Answer:
    """The service has not begun to answer; perhaps not even taken the connection."""
    return fault_answer(
        Fault(
            504,
            "too-slow",
            f"{endpoint} does not answer",
            f"{endpoint} of {agent} did not begin to answer within {waited_s:g} s.",
            f"`moat logs {agent}` may tell what it is doing. The request may have had its effect.",
            {"agent": agent, "endpoint": endpoint, "waited_s": waited_s},
        ),
        asker,
    )


def unreachable(agent: str, endpoint: str, why: str, asker: Asker) -> Answer:
    """No connection could be made, for a reason that says nothing of the service: the machine's, or ours.

    Args:
        why: The system's own words.
    """
    return fault_answer(
        Fault(
            502,
            "unreachable",
            f"{endpoint} could not be reached",
            f"No connection to {endpoint} of {agent} could be made: {why}.",
            "`moat doctor` checks this machine, `moat proxy status` the proxy.",
            {"agent": agent, "endpoint": endpoint, "why": why},
        ),
        asker,
    )


def bad_response(agent: str, endpoint: str, why: str, asker: Asker) -> Answer:
    """What the service sent is no answer.

    Args:
        why: One sentence.
    """
    return fault_answer(
        Fault(
            502,
            "bad-response",
            f"{endpoint} answered wrongly",
            f"What {endpoint} of {agent} sent is not an HTTP answer that can be passed on.",
            why,
            {"agent": agent, "endpoint": endpoint, "why": why},
        ),
        asker,
    )


_REQUESTS = {
    400: ("bad-request", "Not understood"),
    405: ("method-not-allowed", "This method is not for here"),
    408: ("request-timeout", "The request did not arrive in time"),
    413: ("body-too-large", "The request is too large"),
    417: ("expectation-failed", "The expectation is not met"),
    503: ("too-many-connections", "Too many connections"),
    431: ("head-too-large", "The request's head is too large"),
    501: ("not-implemented", "Not known here"),
    505: ("version-not-supported", "Not this version of HTTP"),
}


def bad_request(status: int, reason: str, asker: Asker, *, allow: str = "") -> Answer:
    """The request is not passed on.

    Args:
        status: One of `BadHead`'s; codes are ``bad-request`` (400), ``method-not-allowed`` (405), ``request-timeout``
            (408), ``body-too-large`` (413), ``expectation-failed`` (417), ``head-too-large`` (431), ``not-implemented``
            (501), ``version-not-supported`` (505); any other is a ``bad-request``.
        reason: One sentence.
        allow: For a 405: the methods that are for here.
    """
    code, title = _REQUESTS.get(status, _REQUESTS[400])
    headers = {"Allow": allow} if status == 405 else {}  # noqa: PLR2004 - RFC 9110, 15.5.6 wants it
    return fault_answer(Fault(status, code, title, reason, details={"status": status}, headers=headers), asker)


def loop(asker: Asker) -> Answer:
    """The request came from this proxy itself."""
    return fault_answer(
        Fault(
            508,
            "loop",
            "Round and round",
            "This request has been through this proxy before.",
            "A service that forwards requests has to send them to another service, and to set its Host.",
        ),
        asker,
    )


def foreign(asker: Asker) -> Answer:
    """Another origin's page asks for what is the index's own (`accept.is_foreign`)."""
    return fault_answer(
        Fault(
            403,
            "foreign",
            "Not for other pages",
            "A page of another origin asked for this.",
            "Open it in a window of its own.",
        ),
        asker,
    )


def other_user(asker: Asker) -> Answer:
    """Another user of this machine asks for what is told to the proxy's own alone."""
    return fault_answer(
        Fault(
            403,
            "other-user",
            "Another user's",
            "This proxy is another user's of this machine, and tells of runs to nobody else.",
            "Your own runs are on your own proxy: `moat proxy status` tells where.",
        ),
        asker,
    )


def unknown_page(path: str, asker: Asker) -> Answer:
    """Nothing is at PATH of the index, or it is the log of a run that is not known."""
    path = shorten(path, _NAME)
    return fault_answer(
        Fault(
            404,
            "unknown-page",
            "Nothing here",
            f"There is nothing at {path}.",
            details={"path": path},
            content=(el("p", el("a", "What is running", href=asker.site.url())),),
        ),
        asker,
    )
