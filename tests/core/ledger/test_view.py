"""What another process sees of the ledger, and when it has to look again."""

from __future__ import annotations

import os
from typing import ClassVar

import attrs

from moat_core.ledger import Entry, LedgerView, Resource
from moat_core.store import Home, Store
from moat_core.store.paths import Lock


@attrs.frozen
class Sign(Resource):
    kind: ClassVar[str] = "test.sign"
    text: str

    async def create(self, ctx):
        """Nothing."""

    async def release(self, ctx):
        return True


def test_it_sees_what_others_wrote_and_tells_that_it_changed(tmp_path):
    """Only the kinds that were asked for, oldest first; it makes nothing itself."""
    home = Home(tmp_path / "home")
    view = LedgerView(home.path, [Sign])
    view.changed()
    assert not view.changed()
    assert view.read() == []
    assert not os.path.exists(home.path)

    store = Store(home)
    first = store.add_intent("run-00000001", "test.sign", {"text": "a", "of a later version": 1})
    store.add_intent("run-00000001", "test.other", {})
    second = store.add_intent("run-00000002", "test.sign", {"text": "b"})
    store.set_state(second, "live")
    assert view.changed()
    assert not view.changed()
    assert view.read() == [
        Entry("run-00000001", first, "intent", Sign("a")),
        Entry("run-00000002", second, "live", Sign("b")),
    ]
    store.forget_resource(first)
    assert view.changed()
    assert [entry.row_id for entry in view.read()] == [second]
    assert not view.changed()
    store.close()
    view.close()


def test_a_file_put_in_the_place_of_another_is_seen(tmp_path):
    """A broken file is put aside and a new one begun: what was read from the old one counts no more."""
    home = Home(tmp_path)
    store = Store(home)
    store.add_intent("run-00000001", "test.sign", {"text": "a"})
    view = LedgerView(home.path, [Sign])
    assert view.changed()
    assert len(view.read()) == 1
    store.close()
    for name in ("moat.db", "moat.db-wal", "moat.db-shm"):
        if os.path.exists(tmp_path / name):
            os.rename(tmp_path / name, tmp_path / f"old-{name}")
    again = Store(home)
    again.add_intent("run-00000002", "test.sign", {"text": "b"})
    assert view.changed()
    assert [entry.resource.text for entry in view.read()] == ["b"]
    view.close()
    again.close()


def test_it_knows_who_lives(tmp_path):
    """By the lock of the run's owner."""
    home = Home(tmp_path)
    home.make()
    view = LedgerView(home.path, [Sign])
    lock = Lock(home.run_lock("run-00000001"))
    assert lock.acquire()
    assert view.is_live("run-00000001")
    lock.release()
    assert not view.is_live("run-00000001")
    view.close()
