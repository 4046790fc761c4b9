"""What is shown of a build: on a terminal of any width, and elsewhere."""

from __future__ import annotations

import io
import os
import re

import pytest

from moat_plugins.buildkit.progress import Progress, StepChanged, StepOutput, StepProgress, StepWarning
from moat_plugins.buildkit.view import LiveView, PlainView, make_view
from moat_plugins.buildkit.wire.control import StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning

EVENTS = [
    StepChanged(1, "[internal] load build definition", "started"),
    StepChanged(1, "[internal] load build definition", "done", 0.01),
    StepChanged(2, "[1/3] FROM debian", "cached"),
    StepChanged(3, "[2/3] COPY . /", "started"),
    StepProgress(3, "transferring", 1_500_000, 3_000_000, finished=False),
    StepChanged(3, "[2/3] COPY . /", "done", 1.25),
    StepChanged(4, "[3/3] RUN make \x1b[31mevil\x1b[2J", "started"),
    StepOutput(4, "stdout", "line with \x1b]0;title\x07 and a tab\t."),
    StepWarning(4, "a warning", "https://example.org"),
    StepChanged(4, "[3/3] RUN make", "failed", 2.0, "exit code: 1"),
]


class Screen(io.StringIO):
    """A terminal that understands what the view uses: up, erase line, erase below."""

    def isatty(self):
        return True

    @property
    def lines(self):
        rows, row = [""], 0
        for piece in re.findall(r"\x1b\[(\d*)([AJKm])|(\r|\n)|([^\x1b\r\n]+)", self.getvalue()):
            number, command, control, text = piece
            if command == "A":
                row -= int(number)
            elif command == "K":
                rows[row] = ""
            elif command == "J":
                rows = [*rows[:row], ""] if row < len(rows) else rows
            elif control == "\n":
                row += 1
                if row == len(rows):
                    rows.append("")
            elif text:
                rows[row] = text
        return rows


def test_plain_lines_are_those_that_people_know():
    """One for each thing; nothing that comes from inside moves the cursor."""
    out = io.StringIO()
    view = PlainView(out, clock=lambda: 0.0)
    for event in EVENTS:
        view.show(event)
    assert out.getvalue().splitlines() == [
        "#1 [internal] load build definition", "#1 DONE 0.0s", "#2 CACHED", "#3 [2/3] COPY . /", "#3 DONE 1.2s",
        "#4 [3/3] RUN make  [31mevil [2J", "#4 0.0 line with  ]0;title  and a tab  .",
        "#4 warning: a warning https://example.org", "#4 ERROR: exit code: 1",
    ]  # fmt: skip


@pytest.mark.parametrize("columns", [10, 20, 40, 80, 200])
@pytest.mark.parametrize("colour", [True, False])
def test_the_live_view_fits_any_terminal(monkeypatch, columns, colour):
    """It is drawn over itself, never wider than the terminal, and in the end says what failed."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("NO_COLOR", "" if colour else "1")
    now = [0.0]
    screen = Screen()
    with LiveView(screen, clock=lambda: now[0]) as view:
        for event in EVENTS:
            now[0] += 1
            view.show(event)
    text = [line for line in screen.lines if line]
    assert max(len(line) for line in text if not line.startswith("warning")) <= columns
    assert sum(line.startswith("buildi") for line in text) == 1
    assert ("\x1b[31m" in screen.getvalue()) is colour
    if columns >= 40:
        assert any("FAILED" in line and "RUN make" in line for line in text)
        assert any("and a tab" in line for line in text)
        assert any("CACHED" in line for line in text)
        assert not any("internal" in line for line in text)


def test_which_view_suits(monkeypatch):
    """A terminal that can be drawn on, or not."""
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(make_view(Screen()), LiveView)
    assert isinstance(make_view(io.StringIO()), PlainView)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_view(Screen()), PlainView)
    assert os.environ["TERM"] == "dumb"


def feed(progress, **news):
    return list(progress.feed(StatusResponse(**news)))


def test_the_last_word_on_a_step_counts():
    """The same digest comes many times; times add up over its intervals; numbers are in order of appearance."""
    progress = Progress()
    (known,) = feed(progress, vertexes=[Vertex("a", name="one")])
    assert (known.number, known.state) == (1, "known")
    assert feed(progress, vertexes=[Vertex("a", name="one")]) == []
    states = [
        feed(progress, vertexes=[Vertex("a", name="one", started=10**9)])[0],
        feed(progress, vertexes=[Vertex("a", name="one", started=10**9, completed=2 * 10**9)])[0],
        feed(progress, vertexes=[Vertex("a", name="one", started=5 * 10**9)])[0],
        feed(progress, vertexes=[Vertex("a", name="one", started=5 * 10**9, completed=7 * 10**9, cached=True)])[0],
    ]
    assert [(each.state, each.duration_s) for each in states] == [
        ("started", 0),
        ("done", 1),
        ("started", 1),
        ("cached", 3),
    ]
    (second,) = feed(progress, vertexes=[Vertex("b", name="two", error="bad")])
    assert (second.number, second.state, second.error) == (2, "failed", "bad")
    assert (progress.find_failed(), progress.name_of("b"), progress.name_of("x")) == ("b", "two", "")


def test_output_is_told_by_lines():
    """Pieces are put together, for each stream by itself; a line without an end is told at the end; none is endless."""
    progress = Progress()
    feed(progress, vertexes=[Vertex("a", name="one")])
    logs = [
        VertexLog("a", stream=1, msg=b"on"),
        VertexLog("a", stream=2, msg=b"err\nmore"),
        VertexLog("a", stream=1, msg=b"e\r\n\xff"),
    ]
    assert feed(progress, logs=[*logs, VertexLog("nobody", msg=b"x\n")]) == [
        StepOutput(1, "stderr", "err"), StepOutput(1, "stdout", "one"),
    ]  # fmt: skip
    assert {event.line for event in progress.finish()} == {"more", "�"}
    long = feed(progress, logs=[VertexLog("a", stream=1, msg=b"y" * 20_000)])
    assert [len(each.line) for each in long] == [16 * 1024, 20_000 - 16 * 1024]
    assert progress.tail_of("a")[:3] == ("err", "one", "�") or len(progress.tail_of("a")) == 5


def test_transfers_and_warnings_are_told():
    """With what is known of them."""
    progress = Progress()
    feed(progress, vertexes=[Vertex("a", name="one")])
    assert feed(
        progress,
        statuses=[VertexStatus("t", "a", "transferring", 5, 10), VertexStatus("t", "gone", "x")],
        warnings=[VertexWarning("a", short=b"careful", url="u")],
    ) == [StepProgress(1, "transferring", 5, 10, finished=False), StepWarning(1, "careful", "u")]
