"""docs/routing.md says what is: options, errors, variables, commands; and the callback's way round works."""

from __future__ import annotations

import ast
import http.client
import re
import shlex
import subprocess
import sys
import time

import click
import pytest
from doc_pages import DOCS, ROOT, blocks

from moat_core.cli.main import make_cli
from moat_core.config import ConfigSchema, markdown_reference
from moat_plugins.routing.config import ProxyConfig
from moat_plugins.routing.names import make_env

PAGE = DOCS / "routing.md"
TEXT = PAGE.read_text()


def _commands():
    """Each line of a shell block, and of one that calls `moat` in another's arguments, as words."""
    for block in blocks(PAGE, "sh"):
        for line in block.code.splitlines():
            words = shlex.split(line, comments=True)
            yield from ([words] if words else [])
            for inner in re.findall(r"\$\((moat [^)]*)\)", line):
                yield shlex.split(inner)


def _codes():
    """Every (status, code) that `errors` can answer, read from its source."""
    tree = ast.parse((ROOT / "moat_plugins/routing/pages/errors.py").read_text())
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name("Fault"), args=[ast.Constant(int(status)), ast.Constant(str(code)), *_]):
                yield status, code
            case ast.Assign(targets=[ast.Name("_REQUESTS")], value=ast.Dict() as table):
                for status, (code, _title) in ast.literal_eval(table).items():
                    yield status, code


def test_the_options_are_those_of_the_code():
    """The table is what the help texts give; else copy `markdown_reference` there."""
    schema = ConfigSchema()
    schema.add_section("proxy", ProxyConfig, owner="routing")
    fields = [field for field in schema.fields if field.key == "proxy"]

    assert markdown_reference(fields).strip() in TEXT


def test_every_error_is_explained():
    """Each status and code of the proxy has its row, and there is no row for anything else."""
    rows = re.findall(r"^\| (\d{3}) \| `([a-z-]+)` \|", TEXT, re.MULTILINE)
    codes = sorted(_codes())

    assert len(codes) > 15
    assert sorted((int(status), code) for status, code in rows) == codes


def test_the_variables_are_those_of_the_code():
    """The table of variables has what a run is given, with these values."""
    env = make_env("demo", {"web": 3000}, "http://localhost:8080")
    section = TEXT.partition("## What a run is told")[2].partition("\n## ")[0]

    assert {name for name in env if f"`{name}`" not in section} == set()
    assert {name: value for name, value in env.items() if f"`{value}`" not in section} == {}


@pytest.mark.parametrize("words", list(_commands()), ids=" ".join)
def test_the_commands_exist(words):
    """Verbs and options of `moat` that the page names exist; other programs are ones that it explains."""
    program, *words = words
    if program != "moat":
        assert program in {"curl", "git", "cd", "python3"}
        return
    command = make_cli()
    with click.Context(command) as context:
        while words and isinstance(command, click.Group):
            command = command.get_command(context, words.pop(0))
            assert command is not None
        known = {option for each in command.get_params(context) for option in each.opts}
    assert {word for word in words if word.startswith("-")} <= known


def test_pictures_have_words():
    """Each picture is there, and has a text for those who cannot see it."""
    pictures = re.findall(r"```\{image\} (\S+)\n(.*?)```", TEXT, re.DOTALL)

    assert len(pictures) >= 2
    for path, options in pictures:
        assert (DOCS / path).is_file()
        assert len(re.search(r':alt: "(.*)"', options)[1]) > 60


def test_the_callback_goes_on(tmp_path):
    """`callback.py` sends the browser on with path and query, and to nobody else's host."""
    script = ROOT / "examples/two-services/callback.py"
    port = _free_port()
    with subprocess.Popen([sys.executable, script, str(port), "http://web.demo.localhost:8080"]) as program:
        try:
            _wait_for(port)
            assert _ask(port, "/callback?code=a%2Bb&state=c") == (
                307,
                "http://web.demo.localhost:8080/callback?code=a%2Bb&state=c",
            )
            assert _ask(port, "@evil.example/") == (400, None)
            assert _ask(port, "//evil.example/")[1].startswith("http://web.demo.localhost:8080/")
        finally:
            program.terminate()


def _free_port():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def _wait_for(port):
    deadline = time.monotonic() + 20
    while True:
        try:
            return _ask(port, "/")
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def _ask(port, target):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        return answer.status, answer.headers["Location"]
    finally:
        connection.close()
