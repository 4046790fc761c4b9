"""What the pages say: the index, an agent's page, logs, errors, and the same as JSON."""

from __future__ import annotations

import html.parser
import json

import attrs
import pytest

from moat_plugins.routing.pages import errors
from moat_plugins.routing.pages.accept import Asker
from moat_plugins.routing.pages.agent import agent_page
from moat_plugins.routing.pages.index import index_page
from moat_plugins.routing.pages.log import EVENTS, MOST_LINES, end_event, events_answer, lines_event, log_page
from moat_plugins.routing.pages.state import EndpointView, LogLine, RunView, Site
from moat_plugins.routing.pages.text import age, join, nearest

SITE = Site("http", 8080, "0.1.0")
BROWSER = Asker(SITE, html=True)
PROGRAM = Asker(SITE, html=False)
POST = Asker(SITE, html=True, method="POST")
WEB = EndpointView("web", "http://web.shop.localhost:8080/", 3000, "ready")
API = EndpointView("api", "http://api.shop.localhost:8080/", 8000, "waiting")
SHOP = RunView(
    "run-0badcafe", "shop", "running", "gvisor", "runsc", 1000.0, (WEB, API), "http://shop.localhost:8080/",
    workspace="/home/ada/shop", command=("npm", "run", "a b"),
)  # fmt: skip
PANDA = RunView("run-00000002", "red-panda", "running", "none", "runc", 1000.0)
OVER = RunView(
    "run-00000003", "importer", "failed", "gvisor", "runsc", 1000.0, (WEB,), "http://importer.localhost:8080/",
    ended=1540.0, exit_code=137, error="It ran out of memory.",
)  # fmt: skip
VOID = {"meta", "link", "br", "hr"}


class Page(html.parser.HTMLParser):
    """A tree that must be well-formed: what is opened is closed, in order."""

    def __init__(self, answer):
        super().__init__()
        self.all, self._open, self.text = [], [], ""
        assert answer.content_type == "text/html; charset=utf-8"
        self.feed(answer.body.decode())
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        node = {"tag": tag, "text": "", "path": [each["tag"] for each in self._open], **dict(attrs)}
        self.all.append(node)
        if tag not in VOID:
            self._open.append(node)

    def handle_endtag(self, tag):
        assert self._open.pop()["tag"] == tag

    def handle_data(self, data):
        self.text += data if not self._open or self._open[-1]["tag"] not in {"script", "style"} else ""
        for node in self._open:
            node["text"] += data

    def find(self, tag, **fields):
        return [node for node in self.all if node["tag"] == tag and fields.items() <= node.items()]


def error(answer):
    assert answer.content_type == "application/json"
    (told,) = json.loads(answer.body).values()
    assert set(told) == {"code", "message", "hint", "details"}
    assert answer.headers["Moat-Error"] == told["code"]
    return told


PAGES = {
    "index": index_page([SHOP, PANDA, OVER], BROWSER, now=1312),
    "nothing": index_page([], BROWSER, now=0),
    "agent": agent_page(SHOP, BROWSER),
    "log": log_page(SHOP, [LogLine("stdout", b"a\n")], BROWSER),
    "agents": errors.unknown_agent("shpo", ["shop", "docs"], BROWSER),
    "endpoints": errors.unknown_endpoint("shop", "wbe", [WEB, API], BROWSER),
    "waiting": errors.not_listening("shop", WEB, BROWSER),
    "ended": errors.run_ended(OVER, BROWSER),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read_by_everybody(name):
    """Language, title, one heading of the first rank, landmarks, a way past the head, unique ids, names that exist."""
    page = Page(PAGES[name])
    assert page.find("html", lang="en")
    assert page.find("title")[0]["text"].endswith(" · moat")
    assert len(page.find("h1")) == 1
    assert len(page.find("main", id="main")) == len(page.find("header")) == len(page.find("footer")) == 1
    assert next(node for node in page.all if "body" in node["path"])["href"] == "#main"
    assert page.find("meta", name="viewport")
    ids = [node["id"] for node in page.all if "id" in node]
    assert len(ids) == len(set(ids))
    assert {node["aria-labelledby"] for node in page.all if "aria-labelledby" in node} <= set(ids)
    assert not [node for node in page.all if node["tag"] in {"form", "button", "input", "iframe", "img", "object"}]
    assert all("noscript" in node["path"] for node in page.find("meta", **{"http-equiv": "refresh"}))


def test_the_index_shows_what_runs():
    """Each run with its endpoints as links, its state, its isolation, its age; the summary is read out."""
    page = Page(PAGES["index"])
    items = page.find("li", id="run-0badcafe") + page.find("li", id="run-00000002") + page.find("li", id="run-00000003")
    shop, panda, importer = (" ".join(item["text"].split()) for item in items)
    assert shop.startswith("shoprunning gVisor for 5m")
    assert "web http://web.shop.localhost:8080 port 3000 ready" in shop
    assert "not listening yet" in shop
    assert "npm run 'a b'" in shop
    assert "not isolated by gVisor (runc)" in panda
    assert "no endpoints" in panda
    assert importer.startswith("importerfailed (137) gVisor ended ")
    assert "It ran out of memory." in importer
    links = [node["href"] for node in page.find("a")]
    assert links == [
        "#main", "/", SHOP.url, WEB.url, API.url, "/runs/run-0badcafe/log", "/runs/run-00000002/log",
        "/runs/run-00000003/log",
    ]  # fmt: skip
    assert page.find("p", id="summary", role="status")[0]["text"] == (
        "3 runs: 2 running and 1 failed. 1 endpoint does not listen yet."
    )
    assert page.find("div", id="live")[0]["data-events"] == "/events"
    assert page.find("time")[0]["datetime"] == "1970-01-01T00:16:40+00:00"


def test_the_index_without_runs_says_how_to_begin():
    """With the port that the proxy has."""
    text = Page(index_page([], Asker(Site("https", 9443), html=True), now=0)).text
    assert "Nothing is running." in text
    assert "ports:\n  web: 3000" in text
    assert "https://web.shop.localhost:9443" in text


def test_a_run_that_starts_has_no_isolation_yet():
    """And no age that nobody knows."""
    page = Page(index_page([RunView("run-00000004", "docs", "starting")], BROWSER, now=9))
    assert page.find("p", **{"class": "facts"})[0]["text"].strip() == "starting"


def test_the_index_as_json():
    """The names are those of `moat list --json`."""
    answer = index_page([SHOP], PROGRAM, now=0)
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert json.loads(answer.body) == {
        "version": "0.1.0",
        "url": "http://localhost:8080/",
        "runs": [
            {
                "id": "run-0badcafe", "name": "shop", "state": "running", "isolation": "gvisor", "oci_runtime": "runsc",
                "created": 1000.0, "ended": None, "exit_code": None, "error": None, "workspace": "/home/ada/shop",
                "command": ["npm", "run", "a b"], "ports": {"web": 3000, "api": 8000},
                "url": "http://shop.localhost:8080/", "log": "/runs/run-0badcafe/log",
                "endpoints": [
                    {"name": "web", "url": "http://web.shop.localhost:8080/", "port": 3000, "state": "ready"},
                    {"name": "api", "url": "http://api.shop.localhost:8080/", "port": 8000, "state": "waiting"},
                ],
            }
        ],
    }  # fmt: skip
    from moat_core.api import RunInfo

    listed = {field.name for field in attrs.fields(RunInfo)}
    assert set(SHOP.to_json()) - listed == {"isolation", "endpoints", "url", "log"}


def test_an_agents_page():
    """Its endpoints, and what would answer here; a program is given the same."""
    page = Page(PAGES["agent"])
    assert [node["href"] for node in page.find("a")] == [
        "#main", "http://localhost:8080/", WEB.url, API.url, "http://localhost:8080/runs/run-0badcafe/log",
        "http://localhost:8080/",
    ]  # fmt: skip
    assert json.loads(agent_page(SHOP, PROGRAM).body)["endpoints"] == [WEB.to_json(), API.to_json()]


def test_a_log():
    """Its last lines, stderr marked; where events go on from; without scripts it reloads, until the run is over."""
    lines = [LogLine("stdout", b"one\n"), LogLine("stderr", b"\x1b[31mtwo", 5.0)]
    page = Page(log_page(SHOP, lines, BROWSER, cursor="0-7"))
    (box,) = page.find("pre", id="log")
    assert box["text"] == "one\ntwo\n"
    assert (box["data-events"], box["data-cursor"], box["tabindex"]) == ("/runs/run-0badcafe/log", "0-7", "0")
    assert [node.get("class") for node in page.find("span") if "pre" in node["path"]] == [None, "err"]
    assert page.find("meta", **{"http-equiv": "refresh"})
    over = Page(log_page(OVER, [], BROWSER))
    assert "data-events" not in over.find("pre", id="log")[0]
    assert not over.find("meta", **{"http-equiv": "refresh"})
    assert "It has written nothing." in over.text
    told = json.loads(log_page(SHOP, lines, PROGRAM, cursor="0-7").body)
    assert told["cursor"] == "0-7"
    assert told["lines"] == [
        {"time": None, "stream": "stdout", "text": "one"}, {"time": 5.0, "stream": "stderr", "text": "two"},
    ]  # fmt: skip
    assert told["run"]["id"] == "run-0badcafe"


def test_logs_are_bounded():
    """However many lines are given."""
    lines = [LogLine("stdout", b"%d" % at) for at in range(MOST_LINES + 3)]
    assert Page(log_page(SHOP, lines, BROWSER)).find("pre", id="log")[0]["text"].startswith("3\n4\n")
    assert lines_event(lines, cursor="c").count(b"stream") == MOST_LINES


def test_the_events_of_a_log():
    """With where they end, for who comes back; and the end."""
    assert lines_event([LogLine("stdout", b"a")], cursor="1\n2\x00é") == (
        b'id: 12\nevent: lines\ndata: {"lines":[{"time":null,"stream":"stdout","text":"a"}]}\n\n'
    )
    assert end_event(OVER) == b'event: end\ndata: {"state":"failed","exit_code":137}\n\n'
    answer = events_answer(list)
    assert (answer.status, answer.content_type, answer.body) == (200, EVENTS, list)


@pytest.mark.parametrize(
    ("answer", "status", "code", "words"),
    [
        (errors.unknown_agent("shpo", ["shop"], PROGRAM), 404, "unknown-agent", "called shpo"),
        (errors.unknown_endpoint("shop", "wbe", [WEB], PROGRAM), 404, "unknown-endpoint", "called wbe"),
        (errors.unknown_host("evil.example", PROGRAM), 421, "unknown-host", "evil.example is not"),
        (errors.unknown_host("", PROGRAM), 421, "unknown-host", "without a host"),
        (errors.not_listening("shop", WEB, PROGRAM), 502, "not-listening", "on port 3000"),
        (errors.starting("shop", "web", PROGRAM), 503, "starting", "not up yet"),
        (errors.run_ended(OVER, PROGRAM), 503, "run-ended", "is over with exit code 137."),
        (errors.run_ended(PANDA, PROGRAM), 503, "run-ended", "is over."),
        (errors.too_slow("shop", "web", 30.0, PROGRAM), 504, "too-slow", "within 30 s"),
        (errors.unreachable("shop", "web", "No route to host", PROGRAM), 502, "unreachable", "No route to host."),
        (errors.bad_response("shop", "web", "It was cut.", PROGRAM), 502, "bad-response", "not an HTTP answer"),
        (errors.bad_request(400, "It is malformed.", PROGRAM), 400, "bad-request", "It is malformed."),
        (errors.bad_request(405, "No.", PROGRAM, allow="GET, HEAD"), 405, "method-not-allowed", "No."),
        (errors.bad_request(408, "No.", PROGRAM), 408, "request-timeout", "No."),
        (errors.bad_request(413, "No.", PROGRAM), 413, "body-too-large", "No."),
        (errors.bad_request(417, "No.", PROGRAM), 417, "expectation-failed", "No."),
        (errors.bad_request(431, "No.", PROGRAM), 431, "head-too-large", "No."),
        (errors.bad_request(501, "No.", PROGRAM), 501, "not-implemented", "No."),
        (errors.bad_request(505, "No.", PROGRAM), 505, "version-not-supported", "No."),
        (errors.bad_request(418, "No.", PROGRAM), 418, "bad-request", "No."),
        (errors.loop(PROGRAM), 508, "loop", "before"),
        (errors.foreign(PROGRAM), 403, "foreign", "another origin"),
        (errors.unknown_page("/x", PROGRAM), 404, "unknown-page", "at /x."),
    ],
)
def test_errors_for_programs(answer, status, code, words):
    """A stable code, a sentence, a hint, facts."""
    told = error(answer)
    assert (answer.status, told["code"]) == (status, code)
    assert words in told["message"]
    assert "`" not in told["hint"]
    assert answer.headers.get("Allow") == ("GET, HEAD" if status == 405 else None)


def test_errors_carry_what_there_is():
    """For a program that wants to choose."""
    agent = error(errors.unknown_agent("SHPO", ["docs", "shop"], PROGRAM))["details"]
    assert agent == {"agent": "SHPO", "nearest": "shop", "agents": ["docs", "shop"]}
    assert error(errors.unknown_agent("zzz", [], PROGRAM))["details"]["nearest"] is None
    endpoint = error(errors.unknown_endpoint("shop", "wbe", [WEB, API], PROGRAM))["details"]
    assert endpoint["nearest"] == "web"
    assert [each["name"] for each in endpoint["endpoints"]] == ["web", "api"]


def test_the_nearest_is_a_link():
    """And so are all others; never is anything opened instead."""
    page = Page(PAGES["agents"])
    main = [node["href"] for node in page.find("a") if "main" in node["path"]]
    assert main == ["http://shop.localhost:8080/", "http://shop.localhost:8080/", "http://docs.localhost:8080/"]
    assert "Did you mean shop?" in page.text
    page = Page(PAGES["endpoints"])
    assert [node["href"] for node in page.find("a") if "main" in node["path"]] == [WEB.url, WEB.url, API.url]


def test_many_agents_are_not_all_listed():
    """On the page."""
    page = Page(errors.unknown_agent("x", [f"agent-{at}" for at in range(60)], BROWSER))
    assert "agent-49" in page.text
    assert "agent-50" not in page.text
    assert "and 10 more" in page.text


@pytest.mark.parametrize(
    "make",
    [lambda asker: errors.not_listening("shop", WEB, asker), lambda asker: errors.starting("shop", "web", asker)],
)
def test_who_waits_looks_again(make):
    """A page by its script, or by the browser without; a program is told when. What was posted is not sent again."""
    page = Page(make(BROWSER))
    assert page.find("script")
    assert page.find("meta", **{"http-equiv": "refresh"})[0]["content"] == "2"
    assert make(PROGRAM).headers["Retry-After"] == make(BROWSER).headers["Retry-After"] == "2"
    posted = Page(make(POST))
    assert not posted.find("script")
    assert not posted.find("meta", **{"http-equiv": "refresh"})
    assert "The POST was not delivered." in posted.text


@pytest.mark.parametrize("answer", [errors.run_ended(OVER, BROWSER), errors.too_slow("shop", "web", 30, BROWSER)])
def test_what_will_not_come_back_is_not_waited_for(answer):
    """The command that tells more is shown."""
    page = Page(answer)
    assert not page.find("script")
    assert "Retry-After" not in answer.headers
    assert any(node["text"].startswith("moat logs ") for node in page.find("code"))


@pytest.mark.parametrize(
    ("word", "names", "found"),
    [
        ("shpo", ["docs", "shop"], "shop"), ("SHOP", ["shop"], "shop"), ("web", ["api"], ""), ("x", [], ""),
        ("", ["a"], ""), ("a" * 100_000, ["a" * 63], "a" * 63),
    ],
)  # fmt: skip
def test_the_nearest_name(word, names, found):
    """Or none."""
    assert nearest(word, names) == found


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (0, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (172799, "47h"), (172800, "2d")],
)
def test_ages_are_those_of_the_list(seconds, text):
    """As `moat list` writes them."""
    from moat_core.cli import render

    assert age(seconds) == text
    if seconds >= 0:
        assert render.age(render.time.time() - seconds - 0.01) in {text, age(seconds + 1)}


@pytest.mark.parametrize(
    ("site", "host", "url"),
    [
        (Site(), "localhost", "http://localhost:8080/"),
        (Site("http", 80), "a.localhost", "http://a.localhost/"),
        (Site("https", 443), "a.localhost", "https://a.localhost/"),
        (Site("https", 80), "a.localhost", "https://a.localhost:80/"),
    ],
)
def test_addresses(site, host, url):
    """With the port, unless it is the scheme's own."""
    assert site.url(host) == url


def test_lists_in_sentences():
    """One, two, three."""
    assert (join(["a"]), join(["a", "b"]), join(["a", "b", "c"])) == ("a", "a and b", "a, b and c")
