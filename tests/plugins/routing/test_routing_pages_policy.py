"""Headers, hashes, who is given what, and colours that can be read."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from moat_core.http.answer import Answer
from moat_plugins.routing.pages import accept, errors
from moat_plugins.routing.pages.accept import Asker
from moat_plugins.routing.pages.agent import agent_page
from moat_plugins.routing.pages.assets import ASSETS, asset, read
from moat_plugins.routing.pages.index import index_page
from moat_plugins.routing.pages.log import events_answer, log_page
from moat_plugins.routing.pages.state import EndpointView, RunView, Site

SITE = Site("http", 8080, "9.9")
BROWSER = Asker(SITE, html=True)
PROGRAM = Asker(SITE, html=False)
WEB = EndpointView("web", "http://web.shop.localhost:8080/", 3000)
RUN = RunView(
    "run-0badcafe", "shop", "running", workspace="/home/ada/secret", command=("secret-command",), endpoints=(WEB,)
)
INDEX = [index_page([RUN], BROWSER, now=1), log_page(RUN, [], BROWSER)]
ON_AGENTS = [
    agent_page(RUN, BROWSER),
    errors.unknown_agent("shpo", ["shop"], BROWSER),
    errors.unknown_endpoint("shop", "wbe", [WEB], BROWSER),
    errors.unknown_host("evil.example", BROWSER),
    errors.not_listening("shop", WEB, BROWSER),
    errors.not_listening("shop", WEB, Asker(SITE, html=True, method="POST")),
    errors.starting("shop", "web", BROWSER),
    errors.run_ended(RUN, BROWSER),
    errors.too_slow("shop", "web", 30, BROWSER),
    errors.unreachable("shop", "web", "No route to host", BROWSER),
    errors.bad_response("shop", "web", "It was cut.", BROWSER),
    errors.bad_request(400, "It is malformed.", BROWSER),
    errors.loop(BROWSER),
    errors.foreign(BROWSER),
    errors.unknown_page("/x", BROWSER),
]
OTHERS = [index_page([RUN], PROGRAM, now=1), errors.loop(PROGRAM), events_answer(list), *map(asset, ASSETS)]


def policy_of(answer):
    parts = (part.split() for part in answer.headers["Content-Security-Policy"].split(";"))
    return {name: values for name, *values in parts}


@pytest.mark.parametrize("answer", [*INDEX, *ON_AGENTS, *OTHERS])
def test_every_answer_keeps_others_out(answer):
    """Nothing is allowed that is not named; nobody frames it, embeds it, keeps it, or is told by CORS that he may."""
    policy = policy_of(answer)
    assert policy["default-src"] == ["'none'"]
    assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == ["'none'"]
    assert not {"'unsafe-inline'", "'unsafe-eval'", "*", "data:"} & {
        value for values in policy.values() for value in values
    }
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Vary"] == "Accept"
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    if isinstance(answer, Answer):
        answer.encode(keep_alive=False, is_head=False)


def test_a_page_that_only_waits_keeps_the_window_that_opened_it():
    """A login's popup comes back to it. All others cut the handle."""
    kept = [answer for answer in [*INDEX, *ON_AGENTS] if "Cross-Origin-Opener-Policy" not in answer.headers]
    assert {answer.headers["Moat-Error"] for answer in kept} == {"not-listening", "starting"}


@pytest.mark.parametrize("answer", ON_AGENTS)
def test_pages_on_agents_origins_need_nothing_from_there(answer):
    """Style and script are inside, and are those that the policy names by their hashes."""
    text, policy = answer.body.decode(), policy_of(answer)
    for tag in ("style", "script"):
        inside = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", text, re.DOTALL)
        hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in inside]
        assert policy.get(f"{tag}-src", []) == hashes
    assert " src=" not in text
    assert "<link" not in text
    assert " style=" not in text
    assert not re.search(r"\bon\w+=", text)


@pytest.mark.parametrize("answer", INDEX)
def test_the_index_loads_its_own_files_only(answer):
    """From fixed paths, which are there."""
    text = answer.body.decode()
    loaded = re.findall(r'<(?:link|script)[^>]* (?:href|src)="([^"]+)"', text)
    assert sorted(loaded) == sorted(ASSETS)
    assert policy_of(answer)["script-src"] == policy_of(answer)["style-src"] == ["'self'"]
    assert "<style" not in text
    assert "<form" not in text


def test_files_of_the_index():
    """And nothing else of this package."""
    assert {path: asset(path).content_type.partition(";")[0] for path in ASSETS} == {
        "/moat.css": "text/css", "/moat.js": "text/javascript", "/moat.svg": "image/svg+xml",
    }  # fmt: skip
    assert all(asset(path) is None for path in ("/wait.js", "/state.py", "/", "", "/../pages/moat.css"))


def test_an_origin_is_told_of_its_own_agent_only():
    """Code that an agent once left there may read it. Which moat this is, it need not know."""
    for answer in ON_AGENTS:
        assert b"secret" not in answer.body
        assert b"9.9" not in answer.body
    for asker in (BROWSER, PROGRAM):
        assert b"shop" not in errors.unknown_host("evil.example", asker).body
        assert b"shop" not in errors.unknown_agent("shpo", [], asker).body
        assert b"secret" not in agent_page(RUN, asker).body


@pytest.mark.parametrize("name", ["moat.js", "wait.js"])
def test_scripts_make_no_markup_and_no_code_of_texts(name):
    """The policy would stop them; they do not try."""
    words = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function|localStorage|cookie"
    )
    assert not re.search(words, read(name))


CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("header", "html"),
    [
        (CHROME, True),
        ("text/html, application/xhtml+xml, image/jxr, */*", True),
        ("text/html", True),
        ("TEXT/HTML", True),
        ("text/html;charset=utf-8", True),
        ("application/xhtml+xml", True),
        ("text/*", True),
        ("text/html;q=0.1", True),
        ("text/html;level=1;q=0.5, application/json;q=0.4", True),
        ("application/json, text/html", True),
        ("", False),
        ("*/*", False),
        ("*/*;q=0.8", False),
        ("application/json", False),
        ("application/json, text/plain, */*", False),
        ("application/json, text/html;q=0.9", False),
        ("text/html;q=0", False),
        ("text/html;q=0.000", False),
        ("text/html;q=nan", False),
        ("text/html;q=inf", False),
        ("text/html;q=-1", False),
        ("text/html;q=", False),
        ("text/htmlx", False),
        ("text/event-stream", False),
        ("image/png,image/svg+xml,*/*;q=0.8", False),
        (",;,;q=1,,", False),
        ("a/b," * 40 + "text/html", False),
    ],
)
def test_who_is_given_html(header, html):
    """Who asks for it by name; curl, libraries and scripts are given JSON."""
    assert accept.wants_html(header) is html


@pytest.mark.parametrize(
    ("header", "events"),
    [("text/event-stream", True), ("text/event-stream;q=0", False), (CHROME, False), ("*/*", False), ("", False)],
)
def test_who_is_given_events(header, events):
    """An EventSource says so."""
    assert accept.wants_events(header) is events


@pytest.mark.parametrize(
    ("site", "mode", "dest", "foreign", "navigation"),
    [
        ("none", "navigate", "document", False, True),
        ("same-origin", "navigate", "document", False, True),
        ("cross-site", "navigate", "document", False, True),
        ("same-origin", "cors", "empty", False, False),
        ("same-origin", "no-cors", "script", False, False),
        ("cross-site", "cors", "empty", True, False),
        ("same-site", "cors", "empty", True, False),
        ("same-site", "no-cors", "script", True, False),
        ("cross-site", "navigate", "iframe", True, False),
        ("cross-site", "navigate", "embed", True, False),
        ("cross-site", "websocket", "websocket", True, False),
        ("what", "cors", "empty", True, False),
        (None, None, None, False, True),
    ],
)
def test_whose_request_it_is(site, mode, dest, foreign, navigation):
    """As the browser says it; what is no browser says nothing."""
    names = ("sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest")
    fields = {name: value for name, value in zip(names, (site, mode, dest), strict=True) if value is not None}
    assert accept.is_foreign(fields) is foreign
    assert accept.is_navigation(fields) is navigation
    fields["service-worker-navigation-preload"] = "true"  # an agent's worker reads the answer, not a window
    assert accept.is_navigation(fields) is False


def test_fields_of_a_head():
    """By lower-case names; what comes twice is one list."""
    head = b"GET / HTTP/1.1\r\nHost: a\r\nACCEPT: text/html\r\naccept:\tapplication/json \r\nX: \xff\r\n\r\n"
    assert accept.read_fields(head) == {"host": "a", "accept": "text/html, application/json", "x": "\xff"}
    assert accept.read_fields(b"GET / HTTP/1.1\r\n") == {}


@pytest.mark.parametrize(
    ("method", "safe"), [("GET", True), ("HEAD", True), ("POST", False), ("PUT", False), ("get", False)]
)
def test_what_may_be_asked_again(method, safe):
    """Only what changes nothing."""
    assert Asker(SITE, method=method).is_safe is safe


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("ground", ["paper", "card"])
@pytest.mark.parametrize("ink", ["ink", "quiet", "link", "good", "warn", "bad"])
def test_text_has_contrast(scheme, ground, ink):
    """At least 4.5 to 1 (WCAG 2.2, 1.4.3, level AA), on both grounds, in light and in dark."""
    schemes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", block))
        for block in re.findall(r":root \{(.*?)\}", read("moat.css"), re.DOTALL)
    ]
    assert len(schemes) == 2
    lighter, darker = sorted((luminance(schemes[scheme][name]) for name in (ground, ink)), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5
