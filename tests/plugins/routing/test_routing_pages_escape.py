"""Whatever an agent calls itself or prints, a page says it and does nothing."""

from __future__ import annotations

import html.parser
import json

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moat_plugins.routing.pages import errors
from moat_plugins.routing.pages.accept import Asker
from moat_plugins.routing.pages.agent import agent_page
from moat_plugins.routing.pages.index import index_page, runs_event
from moat_plugins.routing.pages.log import end_event, lines_event, log_page
from moat_plugins.routing.pages.markup import Element, el, render, to_json
from moat_plugins.routing.pages.state import EndpointView, LogLine, RunView, Site
from moat_plugins.routing.pages.text import LINE_CHARACTERS, clean, clean_line

SITE = Site("http", 8080, "1.0")
BROWSER = Asker(SITE, html=True)
PROGRAM = Asker(SITE, html=False)
NASTY = st.sampled_from(
    [
        "<script>",
        "</script>",
        "</style>",
        "--><b>",
        "\"'><img src=x onerror=a>",
        "&lt;",
        "\x00",
        "\x1b[31m",
        "\r\n\r\n",
        "\u202e",
        "\ud800",
        "javascript:a",
        "`",
        "<!--",
        "]]>",
    ]
)
TEXT = st.lists(NASTY | st.text(st.characters(), max_size=8), min_size=1, max_size=6).map("".join).filter(str.strip)


class Skeleton(html.parser.HTMLParser):
    """The tags and the names of attributes, and all text that is not a script's or a style's."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.values = [], "", []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self._inside = tag
        self.tags.append((tag, *(name for name, _ in attrs if name != "href")))
        self.values += [(name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        self._inside = ""
        self.tags.append((f"/{tag}",))

    def handle_data(self, data):
        if self._inside not in {"script", "style"}:
            self.text += data

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")

    def handle_pi(self, data):
        raise AssertionError(f"an instruction: {data}")


def endpoint(text):
    return EndpointView(text, text, 3000, "waiting")


def run(text):
    return RunView(
        id=text, name=text, state=text, isolation="none", oci_runtime=text, created=1.0, endpoints=(endpoint(text),),
        url=text, workspace=text, command=(text,), ended=2.0, exit_code=1, error=text,
    )  # fmt: skip


PAGES = {
    "index": lambda text, asker: index_page([run(text)], asker, now=9),
    "agent": lambda text, asker: agent_page(run(text), asker),
    "log": lambda text, asker: log_page(run(text), [LogLine("stderr", text.encode("utf-8", "replace"))], asker, cursor=text),
    "unknown_agent": lambda text, asker: errors.unknown_agent(text, [text], asker),
    "unknown_endpoint": lambda text, asker: errors.unknown_endpoint(text, text, [endpoint(text)], asker),
    "unknown_host": errors.unknown_host,
    "not_listening": lambda text, asker: errors.not_listening(text, endpoint(text), asker),
    "starting": lambda text, asker: errors.starting(text, text, asker),
    "run_ended": lambda text, asker: errors.run_ended(run(text), asker),
    "too_slow": lambda text, asker: errors.too_slow(text, text, 3, asker),
    "unreachable": lambda text, asker: errors.unreachable(text, text, text, asker),
    "bad_response": lambda text, asker: errors.bad_response(text, text, text, asker),
    "bad_request": lambda text, asker: errors.bad_request(400, text, asker),
    "unknown_page": errors.unknown_page,
    "method": lambda text, asker: errors.not_listening("a", endpoint("b"), attrs.evolve(asker, method=text)),
}  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
@settings(max_examples=60, deadline=None)
@given(text=TEXT)
def test_no_text_makes_a_tag_or_an_attribute(page, text):
    """The page of a hostile name has the skeleton of a harmless one's, and says the name."""
    make = PAGES[page]
    # Of the same length, and near or far from itself as the other is, so that the same parts are shown.
    plain = "".join(c if c == "`" else "x" for c in text)
    answer = make(text, BROWSER)
    got, expected = Skeleton(answer.body.decode()), Skeleton(make(plain, BROWSER).body.decode())
    ignored = (
        {("li",), ("/li",), ("a",), ("/a",), ("p",), ("/p",), ("b",), ("/b",)} if page.startswith("unknown_") else set()
    )
    assert [tag for tag in got.tags if tag not in ignored] == [tag for tag in expected.tags if tag not in ignored]
    assert all(not value.lower().startswith(("javascript", "data")) for name, value in got.values if name == "href")
    assert all(clean(character) == character for character in got.text)


@pytest.mark.parametrize("page", PAGES)
@settings(max_examples=60, deadline=None)
@given(text=TEXT)
def test_json_is_json_and_heads_are_lines(page, text):
    """And no header holds what came from outside."""
    answer = PAGES[page](text, PROGRAM)
    json.loads(answer.body)
    assert answer.body.isascii()
    for name, value in {**answer.headers, **PAGES[page](text, BROWSER).headers}.items():
        assert name.isascii()
        assert value.isascii()
        assert value.isprintable()


def parse_events(stream):
    """As a browser reads them (WHATWG HTML, 9.2.6), strictly: one field a line, nothing unknown."""
    events = []
    for block in stream.decode().removesuffix("\n\n").split("\n\n"):
        fields = {}
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            assert name in {"id", "event", "data"}
            assert name not in fields
            fields[name] = value
        events.append(fields)
    return events


@settings(max_examples=60, deadline=None)
@given(text=TEXT)
def test_an_event_is_one_event(text):
    """No text ends it early, or begins another."""
    lines = [LogLine("stdout", text.encode("utf-8", "replace"))]
    stream = runs_event([run(text)], SITE, now=9) + lines_event(lines, cursor=text) + end_event(run(text))
    assert b"\r" not in stream
    runs, said, end = parse_events(stream)
    assert json.loads(runs["data"])[0] == "div"
    assert json.loads(said["data"])["lines"][0]["text"] == lines[0].text
    assert json.loads(end["data"])["exit_code"] == 1


def rebuild(tree):
    return tree if isinstance(tree, str) else Element(tree[0], tree[1], tuple(map(rebuild, tree[2])))


@settings(max_examples=60, deadline=None)
@given(text=TEXT)
def test_the_event_brings_what_the_page_shows(text):
    """Node for node: then nothing moves when the first one arrives."""
    page = index_page([run(text)], BROWSER, now=9).body.decode()
    (event,) = parse_events(runs_event([run(text)], SITE, now=9))
    assert render(rebuild(json.loads(event["data"]))) in page


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_a_line_of_a_log_is_a_line_of_text(data):
    """Whatever its bytes are."""
    text = clean_line(data)
    assert clean(text) == text
    assert "\n" not in text
    assert len(text) <= LINE_CHARACTERS


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain\n", "plain"),
        (b"windows\r\n", "windows"),
        (b"\x1b[1;31mred\x1b[0m", "red"),
        (b"\x1b[38;2;1;2;3mtrue\x1b[m", "true"),
        (b"\x1b]0;a title\x07after", "after"),
        (b"\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        (b"\x1bP1$r0m\x1b\\after", "after"),
        (b"\x1b(Bcharset", "charset"),
        (b"\x1b]52;never ends", "52;never ends"),
        (b"cut off \x1b[3", "cut off "),
        ("\x9b31mc1\x9b0m".encode(), "c1"),
        ("\x9d0;title\x9cafter".encode(), "after"),
        (b"10%\r20%\r100%", "100%"),
        (b"\x07bell \x00nul \x7fdel", "\\x07bell \\x00nul \\x7fdel"),
        (b"a\tb", "a\tb"),
        ("a\u202eb\u2066c".encode(), "a\\u202eb\\u2066c"),
        ("a\u00a0b\u2028c".encode(), "a b\\u2028c"),
        ("\U0001f468\u200d\U0001f469 \u00e9".encode(), "\U0001f468\u200d\U0001f469 \u00e9"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        ("\U000e0001".encode(), "\\U000e0001"),
        (b"", ""),
        (b"x" * 1000, "x" * 1000),
        (b"x" * 1001, "x" * 999 + "…"),
        (b"x" * 9000, "x" * 999 + "…"),
        (b"short\r" * 9000, "shor…"),
    ],
)
def test_a_line_of_a_log_as_it_is_shown(data, text):
    """As on a terminal, less what only a terminal should do."""
    assert clean_line(data) == text


@pytest.mark.parametrize(
    "piece", [b"\x1b]", b"\x1b[", b"\x1b[;", b"\x1b", "\x9d".encode(), "\x9b1".encode(), b"\r", b"\x1b]a"]
)
def test_a_long_line_costs_no_more_than_its_length(piece):
    """Ten megabytes of the beginnings of sequences: what would be quadratic would not end today."""
    assert len(clean_line(piece * (10_000_000 // len(piece)))) <= LINE_CHARACTERS


def test_elements_are_made_of_texts_only():
    """Markup in a text stays text; neighbours are one text, as in a browser; nothing is nothing."""
    made = el(
        "p", "<b>", ["&", None, el("i", "x")], "", class_="a", aria_label='"', hidden=True, title=None, open=False
    )
    assert render(made) == '<p class="a" aria-label="&quot;" hidden="">&lt;b&gt;&amp;<i>x</i></p>'
    assert to_json(made) == ["p", {"class": "a", "aria-label": '"', "hidden": ""}, ["<b>&", ["i", {}, ["x"]]]]


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("http://a.localhost/", True), ("https://a", True), ("HTTP://a", True), ("/runs/x/log", True), ("#main", True),
        ("javascript:alert(1)", False), (" javascript:alert(1)", False), ("java\nscript:alert(1)", False),
        ("data:text/html,x", False), ("//elsewhere", False), ("/\\elsewhere", False), ("http:", False), ("x", False),
        ("http://\x00", False),
    ],
)  # fmt: skip
def test_a_link_leads_to_a_web_address(url, kept):
    """Or is none."""
    assert ("href" in el("a", "x", href=url).attributes) is kept


@pytest.mark.parametrize("text", ["</script>", "<!-- "])
def test_a_script_cannot_end_early(text):
    """Ours do not; one that would is an error when the page is made, not in the browser."""
    with pytest.raises(ValueError, match="end too early"):
        render(el("script", text))
