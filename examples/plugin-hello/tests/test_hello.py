"""The plugin, tested with what moat offers its authors. No engine is needed."""

import asyncio

import moat_plugin_hello
import pytest

from moat_core import hookimpl
from moat_core.errors import ConfigError


@pytest.fixture(autouse=True)
def _hello(moat):
    """Load the plugin; the fixture leaves all installed ones out."""
    moat.register(moat_plugin_hello)


def test_the_variable_is_in_the_plan(moat):
    """Under this plugin's name."""
    item = moat.plan(name="fox").env["HELLO"]
    assert (item.value, item.origin) == ("Hello, fox!", "moat_plugin_hello")


def test_the_section_is_read(moat):
    """From the workspace's file."""
    moat.file("agent.yaml", "hello: {word: Ciao, loud: true}\n")
    assert moat.plan(name="fox").env["HELLO"].value == "CIAO, FOX!"


def test_a_mistake_in_the_section_is_told_with_the_nearest_key(moat):
    """With file and line."""
    moat.file("agent.yaml", "hello:\n  wrd: Ciao\n")
    with pytest.raises(ConfigError, match="agent.yaml:2") as caught:
        moat.plan()
    assert "word" in str(caught.value)


def test_the_verb_greets(moat):
    """In a process of its own, as the user runs it."""
    moat.file("agent.yaml", "hello: {word: Ciao}\n")
    done = moat.cli("hello", "fox")
    assert (done.returncode, done.stdout) == (0, "Ciao, fox!\n"), done.stderr


async def test_a_run_is_greeted(moat):
    """The container has the variable; without the guest book nothing surrounds the run."""
    record = (await moat.run(["true"], name="fox")).assert_clean()
    assert record.plan.env["HELLO"].value == "Hello, fox!"
    assert not any(call.hook == "moat_open_run" for call in record.hooks)


async def test_the_guest_book_is_kept(moat):
    """Opened before everything, closed after everything."""
    moat.file("agent.yaml", "hello: {guest_book: true}\n")
    record = (await moat.run(["true"], name="fox")).assert_clean()
    record.assert_order(
        "moat_plugin_hello:moat_open_run", "moat_open_sandbox", "-moat_open_sandbox", "-moat_plugin_hello:moat_open_run"
    )
    assert read_book(moat, record) == "fox came\nfox left: finished\n"


@pytest.mark.parametrize(("ending", "word"), [("fails", "failed"), ("is cancelled", "cancelled")])
async def test_the_guest_book_is_closed_however_the_run_ends(moat, ending, word):
    """After a failure and after a cancellation."""
    moat.file("agent.yaml", "hello: {guest_book: true}\n")
    results = []

    class Listener:
        @hookimpl
        async def moat_on_closed(self, result):
            results.append(result)

    moat.register(Listener())

    async def body(run):
        if ending == "fails":
            raise ValueError
        limit.reschedule(asyncio.get_running_loop().time())
        await asyncio.sleep(3600)

    with pytest.raises(TimeoutError) if ending == "is cancelled" else does_not_raise():
        async with asyncio.timeout(None) as limit:
            await moat.run(body, name="fox")
    assert read_book(moat, results[0]) == f"fox came\nfox left: {word}\n"
    assert moat.left() == []


def read_book(moat, run):
    """Read the guest book of a run."""
    run_id = getattr(run, "run_id", None) or run.plan.run_id
    with open(f"{moat.home.run_folder(run_id)}/guest-book") as file:
        return file.read()


def does_not_raise():
    """Be a context that expects nothing."""
    import contextlib

    return contextlib.nullcontext()
