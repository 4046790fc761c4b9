"""A list's filters tell nothing of what others have: not even whether it is there."""

from __future__ import annotations

import json
import secrets
from contextlib import suppress
from urllib.parse import quote

from attack import attack
from guard_scene import IMAGE, open_scene
from guarded import ask

from moat_core.errors import HostError
from moat_plugins.docker_host.policy.call import Call


async def _as_they_are(*_):
    """Change nothing."""


@attack("filters", [f"{kind} {end}" for kind in ("containers", "images") for end in ("before", "since")])
async def test_a_filter_tells_whether_something_of_others_is_there(row, engine, tmp_path, monkeypatch, defended):
    """What the guard answers for a name that a user has, and for one that nobody has, is not the same."""
    if not defended:
        monkeypatch.setattr(Call, "resolve_ends", _as_they_are)
    kind, end = row.split()
    async with open_scene(engine, tmp_path) as scene:
        name = f"theirs-{secrets.token_hex(6)}"
        if kind == "containers":
            identity = await scene.api.containers.create(name, {"Image": IMAGE})
        else:
            await scene.api.call("tag", "POST", f"/images/{IMAGE}/tag", params={"repo": name, "tag": "latest"})
        try:
            said = []
            for each in (name, "nobody-has-this"):
                filters = quote(json.dumps({end: [each]}))
                status, answer = await ask(await scene.connect(), "GET", f"/v1.45/{kind}/json?all=1&filters={filters}")
                said.append((status, json.dumps(answer).replace(each, "NAME")))
            return said[0] != said[1] and str(said)
        finally:
            with suppress(HostError):
                await (scene.api.containers.remove(identity) if kind == "containers" else scene.api.images.remove(name))


async def test_the_runs_own_may_be_named(engine, tmp_path):
    """As Docker has it: what is older than a container."""
    async with open_scene(engine, tmp_path) as scene:
        made = []
        for _ in range(2):
            _, answer = await ask(await scene.connect(), "POST", "/v1.45/containers/create", {"Image": IMAGE})
            made.append(answer["Id"])
        for end, expected in (("before", made[0]), ("since", made[1])):
            of = made[1] if end == "before" else made[0]
            filters = quote(json.dumps({end: [of[:12]]}))
            status, listed = await ask(await scene.connect(), "GET", f"/v1.45/containers/json?all=1&filters={filters}")
            assert (status, [item["Id"] for item in listed]) == (200, [expected])
