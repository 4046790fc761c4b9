"""A path of the host is not the thing itself: links that were left, and things swapped under a plan.

The attacker is a run that could write where the path of a later run leads. Each attack is judged by what lies in the
victim's folder afterwards, which no run was ever given.
"""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import tarfile
import tempfile
from functools import partial
from pathlib import Path

import anyio
import attrs
import pytest
from attack import attack

from moat_core import hookimpl
from moat_core.api import Moat
from moat_core.api.handle import RunHandle
from moat_core.errors import HostPathError, MoatError, PlanError
from moat_core.host_path import hold, nobody
from moat_core.store import Store
from moat_core.store.given import Given
from moat_plugins.buildkit import outputs
from moat_plugins.buildkit.api import BuildKit, DiskSource, ExportError, Output
from moat_plugins.buildkit.session import filesend

WRITE = "echo evil >/data/evil; echo evil >>/data; cat /data/key"


@pytest.fixture
def pool(tmp_path):
    """A folder with a workspace, another folder of the attacker's, and the victim's beside."""
    pool = tmp_path / "pool"
    for name in ("pool/ws/data/sub", "pool/decoy", "victim/sub"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "victim/key").write_text("secret")
    (pool / "ws/file").write_text("")
    return pool


@pytest.fixture
def victim(pool):
    """What no run was given."""
    return pool.parent / "victim"


def harm(folder):
    """What was done to FOLDER that its owner did not do."""
    found = [os.path.relpath(path, folder) for path in folder.rglob("evil")]
    return ", ".join(found) + ("key" if (folder / "key").exists() and "evil" in (folder / "key").read_text() else "")


def no_judge(monkeypatch):
    """Take away that links are not followed where a run can write."""
    monkeypatch.setattr("moat_core.host_path._Walk._judge", lambda walk, folder: None)


def no_check(monkeypatch):
    """Take away that what is mounted is what was looked at."""
    monkeypatch.setattr("moat_core.lifecycle.mounts._hold", lambda mount, given: hold(mount.source))
    monkeypatch.setattr("moat_core.lifecycle.mounts.is_same", lambda meant, seen: True)


class Swapper:
    """Puts something else in a thing's place at one moment of the next run's opening."""

    def __init__(self, moment, swap, step=None):
        self.moment, self.swap, self.step = moment, swap, step

    async def _do(self, moment):
        if moment == self.moment and self.swap is not None:
            swap, self.swap = self.swap, None
            done = swap()
            if done is not None:
                await done

    @hookimpl
    def moat_add_to_plan(self, request, config, plan):
        if self.step is not None:
            plan.add_init_step("test", self.step[0], as_user=self.step[1] == "user")

    @hookimpl
    async def moat_on_ledger_step(self, step):
        await self._do(step.step if step.step == "opened" else f"{step.step} {getattr(step.resource, 'kind', '')}")


def put_link(path, target):
    """Move PATH away and put a link to TARGET there."""
    os.rename(path, f"{path}.gone")
    os.symlink(target, path)


async def run(workspace, *, script=WRITE, plugin=None, sandbox=False, **arguments):
    """Run a command as the attacker's next run would; return its output, or the error that it came to."""
    try:
        async with (
            Moat(plugins={"swapper": plugin} if plugin else {}) as moat,
            moat.run(workspace, command=["sh", "-c", script], sandbox=sandbox, **arguments) as handle,
        ):
            return (await handle.wait()).text
    except (PlanError, HostPathError) as error:
        return error


# -- links that were left -------------------------------------------------------------------------------------------


def _left(ws, victim):
    """Leave the links of all rows."""
    for name, target in {
        "link": victim, "up": "../../victim", "root": "/", "proc": "/proc/self/root", "deep": victim.parent,
        "chain": "link", "key": victim / "key",
    }.items():  # fmt: skip
        (ws / name).symlink_to(target)
    (ws / "data/inner").symlink_to(victim)


LEFT = {
    "the mount itself": "link",
    "relative": "up",
    "a component": "deep/victim",
    "by way of the root": "root{victim}",
    "by way of proc": "proc{victim}",
    "a link to a link": "chain",
    "in a folder of the workspace": "data/inner",
    "below it": "link/sub",
    "a file": "key",
}


@attack("host path: link left in the workspace", LEFT)
async def test_a_link_that_was_left_is_not_mounted(world, pool, victim, row, defended, monkeypatch):
    """By the run's own ``-m``: a cloned repository, or an earlier run, has put it there."""
    ws = pool / "ws"
    _left(ws, victim)
    if not defended:
        no_judge(monkeypatch)
    found = await run(ws, mounts=[f"{ws}/{row.format(victim=victim)}:/data"])
    assert defended == isinstance(found, PlanError), found
    return harm(victim)


@attack("host path: link left in the workspace", ["agent.yaml"])
def test_a_link_that_was_left_is_not_mounted_by_the_config(moat, world, pool, victim, row, defended, monkeypatch):
    """A config that came with the link."""
    ws = pool / "ws"
    _left(ws, victim)
    (ws / row).write_text("mounts: ['./link:/data']\n")
    plain = Moat().plan  # in this process: the command's own could not be patched
    if not defended:
        no_judge(monkeypatch)
    try:
        plan = plain(Moat().request(ws, command=["true"], config="workspace"))
    except PlanError:
        return False
    return any(os.path.samefile(mount.source, victim) for mount in plan.mounts)


EARLIER = {
    "the workspace below another's": ("workspace", False),
    "a mount below another's workspace": ("mount", False),
    "a mount below what was mounted": ("mounted", False),
    "its run is forgotten": ("workspace", True),
}


@attack("host path: link left by an earlier run", EARLIER)
async def test_what_an_earlier_run_left_leads_no_other_run(world, pool, victim, row, defended, monkeypatch):
    """The folder was its workspace, or what it was given beside; now something below it is named."""
    how, forgotten = row
    given = {"mounts": [f"{pool}:/pool"]} if how == "mounted" else {}
    first = pool / "ws" if how == "mounted" else pool
    inside = "/pool" if how == "mounted" else "/workspace"
    await run(first, script=f"ln -s {victim} {inside}/next", **given)
    assert (pool / "next").is_symlink()
    if forgotten:
        store = Store(world_home())
        for each in store.runs():
            store.forget_run(each.id)
        store.close()
    if not defended:
        no_judge(monkeypatch)
    if how == "workspace":
        found = await run(pool / "next", script="echo evil >evil")
    else:
        found = await run(pool / "decoy", mounts=[f"{pool}/next:/data"])
    assert defended == isinstance(found, PlanError), found
    return harm(victim)


def world_home():
    """The state of this test."""
    from moat_core.store import Home, default_home

    return Home(default_home())


# -- swapped while a run opens --------------------------------------------------------------------------------------

BEFORE, CREATED = "intent docker.container", "live docker.container"
SWAPS = {
    "workspace, planned": ("opened", "", "link", False),
    "workspace, before it is created": (BEFORE, "", "link", False),
    "workspace, created": (CREATED, "", "link", False),
    "workspace, created, gVisor": (CREATED, "", "link", True),
    "folder, planned": ("opened", "data", "link", False),
    "folder, created": (CREATED, "data", "link", False),
    "folder, another one in its place": (CREATED, "data", "rename", False),
    "folder, another one in its place, planned": ("opened", "data", "rename", False),
    "folder, another one in its place, gVisor": (CREATED, "data", "rename", True),
    "above the folder": (BEFORE, "data/sub", "above", False),
    "file, created": (CREATED, "file", "link", False),
    "file, created, gVisor": (CREATED, "file", "link", True),
}


@attack("host path: swapped while a run opens", SWAPS)
async def test_what_is_swapped_under_a_plan_is_not_used(world, pool, victim, row, defended, monkeypatch):
    """Another run can write above it, and waits for its moment. The command has done nothing when the run ends."""
    moment, name, how, sandbox = row
    ws = pool / "ws"
    path = ws / name if name else ws
    (pool / "decoy/evil-not").write_text("")

    def swap():
        if how == "link":
            put_link(path, victim / "key" if name == "file" else victim)
        elif how == "above":
            put_link(path.parent, victim)
        else:
            os.rename(path, f"{path}.gone")
            os.rename(victim, path)

    if not defended:
        no_check(monkeypatch)
    mounts = [f"{path}:/data"] if name else []
    script = WRITE if name else "echo evil >/workspace/evil"
    found = await run(ws, script=script, plugin=Swapper(moment, swap), sandbox=sandbox, mounts=mounts)
    assert defended == isinstance(found, HostPathError), found
    return harm(path if how == "rename" else victim)


@attack("host path: swapped, seen by somebody who is not root", {"runc": False, "gVisor": True})
async def test_mountinfo_tells_it_to_everybody(world, pool, victim, row, defended, monkeypatch):
    """Who may not look through another user's ``/proc/PID/root`` compares places in file systems."""

    def denied(*arguments, **options):
        raise PermissionError

    monkeypatch.setattr("moat_plugins.docker.look.open_below", denied)
    mounts = [f"{pool}/ws/data:/data", f"{pool}/ws/file:/file:ro"]
    assert await run(pool / "ws", script="echo well", sandbox=row, mounts=mounts) == "well\n"
    if not defended:
        no_check(monkeypatch)
    plugin = Swapper(CREATED, lambda: put_link(pool / "ws/data", victim))
    found = await run(pool / "ws", plugin=plugin, sandbox=row, mounts=mounts)
    assert defended == isinstance(found, HostPathError), found
    return harm(victim)


STEPS = {"as root": "root", "as the user": "user"}


@attack("host path: an init step before it is compared", STEPS)
async def test_no_init_step_runs_before_that(world, pool, victim, row, defended, monkeypatch):
    """Neither a plugin's as root nor the user's own ``pre_run``."""
    plugin = Swapper(CREATED, lambda: put_link(pool / "ws", victim), ("echo evil >/workspace/evil", row))
    if not defended:
        no_check(monkeypatch)
    await run(pool / "ws", script="true", plugin=plugin)
    return harm(victim)


@attack("host path: swapped while a run opens", ["without a command of its own"])
async def test_a_run_that_waits_for_exec_is_compared_before_the_first(world, pool, victim, row, defended, monkeypatch):
    """It is never given to who asked for it."""
    plugin = Swapper(CREATED, lambda: put_link(pool / "ws", victim))
    if not defended:
        no_check(monkeypatch)
    try:
        async with Moat(plugins={"swapper": plugin}) as moat, moat.run(pool / "ws", sandbox=False) as handle:
            await handle.exec(["sh", "-c", "echo evil >evil"])
    except HostPathError:
        pass
    return harm(victim)


@attack("host path: swapped under a live run", ["started anew"])
async def test_a_container_that_is_started_anew_is_compared_again(world, pool, victim, row, defended, monkeypatch):
    """The engine opens the paths again."""
    if not defended:
        no_check(monkeypatch)
    plugin = Swapper("", None, ("echo begun >>/workspace/evil", "root"))
    try:
        async with Moat(plugins={"swapper": plugin}) as moat, moat.run(pool / "ws", sandbox=False) as handle:
            put_link(pool / "ws", victim)
            restart = ["docker", "restart", "-t", "0", handle.sandbox.info.id]
            await asyncio.to_thread(subprocess.run, restart, check=True, capture_output=True)
            await wait_for_restart(handle, victim)
    except MoatError:
        pass
    return harm(victim)


async def wait_for_restart(handle, victim):
    """Wait until the run is over, or has done its harm."""
    with anyio.move_on_after(20):
        while not harm(victim) and not handle.run.cancel_requested:
            await anyio.sleep(0.05)


# -- worktrees ------------------------------------------------------------------------------------------------------


@pytest.fixture
def worktrees(tmp_path):
    """A repository with two worktrees."""
    main = tmp_path / "main"
    main.mkdir()
    environ = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environ |= {f"GIT_{who}_{what}": "a@b.example" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    for argv in (
        ["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "one"],
        ["worktree", "add", "-q", str(tmp_path / "one")], ["worktree", "add", "-q", str(tmp_path / "two")],
    ):  # fmt: skip
        subprocess.run(["git", *argv], cwd=main, env=environ, check=True, capture_output=True)
    return main / ".git"


FORGE = """\
set -e
mkdir -p /workspace/fake/objects /workspace/fake/refs /workspace/fake/worktrees/two
echo 'ref: refs/heads/main' >/workspace/fake/HEAD
echo {two}/.git >/workspace/fake/worktrees/two/gitdir
echo ../.. >/workspace/fake/worktrees/two/commondir
mv {git}/worktrees {git}/worktrees.gone
ln -s {one}/fake/worktrees {git}/worktrees
"""


@attack("host path: a worktree's repository", ["replaced by the first", "and swapped before it is mounted"])
async def test_a_worktree_does_not_lead_the_other_elsewhere(
    world, worktrees, victim, tmp_path, row, defended, monkeypatch
):
    """The first run forges a repository in its own folder, lets the real one lead there, and replaces it by a link."""
    one, two = tmp_path / "one", tmp_path / "two"
    if not defended:
        no_judge(monkeypatch)
        no_check(monkeypatch)
    async with Moat() as moat, moat.run(one, sandbox=False) as first:
        await first.exec(["sh", "-c", FORGE.format(one=one, two=two, git=worktrees)], check=True)

        async def swap():
            await first.exec(["sh", "-c", f"mv fake gone; ln -s {victim} fake"], check=True)

        plugin = Swapper(BEFORE, swap) if "swapped" in row else None
        await run(two, script=f"echo evil >{worktrees}/evil", plugin=plugin)
    return harm(victim) or harm(one)


# -- others of this machine, and guests -----------------------------------------------------------------------------


@attack("host path: another user's link", {"sticky": 0o1777, "not even sticky": 0o777})
async def test_another_users_link_in_a_folder_for_all_is_not_followed(world, pool, victim, row, defended, monkeypatch):
    """As in /tmp, whatever the kernel's own setting is: the engine is root, and would follow it."""
    (pool / "tmp").mkdir()
    (pool / "tmp").chmod(row)
    (pool / "tmp/link").symlink_to(victim)
    os.lchown(pool / "tmp/link", 1234, 1234)
    if not defended:
        monkeypatch.setattr("moat_core.host_path.os.geteuid", lambda: 1234)
    await run(pool / "ws", mounts=[f"{pool}/tmp/link:/data"])
    return harm(victim)


@attack("host path: a guest's bind", ["swapped after it was judged", "swapped before", "a folder is made"])
async def test_a_guest_is_bound_to_what_the_run_was_given(world, pool, victim, row, defended, monkeypatch):
    """The run's workspace lies in another run's; what the engine would open last is looked at with its eyes."""
    from guarded import make_scope

    from moat_plugins.docker_host.folders import find_folder
    from moat_plugins.docker_host.policy.verdict import Refused

    ws = pool / "workspace"
    ws.mkdir()
    store = Store(world_home())
    given = Given(store)
    given.add([((os.stat(pool).st_dev, os.stat(pool).st_ino), str(pool))])
    with hold(ws, given, follow=False) as held:
        scope = attrs.evolve(make_scope(pool), held={"/workspace": held}, given=given)
        if not defended:
            monkeypatch.setattr("moat_plugins.docker_host.folders._hold", lambda mount, scope: hold(mount.source))
            monkeypatch.setattr("moat_plugins.docker_host.folders._pin", lambda mount, held, scope: "")
        try:
            if row != "swapped after it was judged":
                put_link(ws, victim)
            source = "/workspace/evil" if row == "a folder is made" else "/workspace"
            bind = find_folder(source, "/x", scope, read_only=False, make=True)
            if row == "swapped after it was judged":
                put_link(ws, victim)
            device = bind.pinned or bind.root
            worked = os.path.samefile(device, victim) or harm(victim)
        except Refused:
            worked = harm(victim)
    store.close()
    return bool(worked)


@attack("host path: a guest's bind", ["opened by the engine"])
def test_the_engine_opens_what_is_pinned(world, pool, victim, row, defended):
    """A volume on a descriptor of ours, of which a part is mounted, after the folder was swapped."""
    with hold(pool / "ws") as held:
        put_link(pool / "ws", victim)
        device = f"/proc/{os.getpid()}/fd/{held.fd}" if defended else str(pool / "ws")
        mount = f"type=volume,dst=/x,volume-nocopy,volume-opt=type=none,volume-opt=o=bind,volume-opt=device={device}"
        command = ["docker", "run", "--rm", "--network=none", f"--mount={mount}", "debian:bookworm-slim"]
        subprocess.run([*command, "sh", "-c", "echo evil >/x/evil"], check=True, capture_output=True)
    assert defended == (pool / "ws.gone/evil").exists()
    return harm(victim)


# -- what goes on working -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sandbox", [False, True], ids=["runc", "runsc"])
async def test_a_users_own_links_above_a_workspace_work(world, pool, sandbox):
    """And a folder of the workspace mounted a second time, a file, and a file whose name is no text."""
    (pool.parent / "short").symlink_to(pool)
    short = pool.parent / "short/ws"
    odd = os.fsdecode(os.path.join(os.fsencode(pool), b"a b\xc3\xa4"))
    os.mkdir(odd)
    script = "echo one >/workspace/made; echo two >/data/made; echo three >/file; echo four >/odd/made"
    await run(
        short, script=script, sandbox=sandbox, mounts=[f"{short}/data:/data", f"{short}/file:/file", f"{odd}:/odd"]
    )
    assert (pool / "ws/made").read_text() == "one\n"
    assert (pool / "ws/data/made").read_text() == "two\n"
    assert (pool / "ws/file").read_text() == "three\n"
    assert (Path(odd) / "made").read_text() == "four\n"


@attack("host paths", {"the file": "a/b/key", "its folder": "a/b", "a folder above": "a"})
def test_a_build_sends_what_was_put_in_a_files_place(row, defended, pool, victim, monkeypatch):
    """The context is a folder that a run can write to: between its listing and its sending another thing is there."""
    context = pool / "ws/data"
    (context / "a/b").mkdir(parents=True)
    (context / "a/b/key").write_text("mine")
    if not defended:
        monkeypatch.setattr(
            DiskSource, "open", lambda source, path: io.BytesIO(Path(source.root, os.fsdecode(path)).read_bytes())
        )
    source = DiskSource(context)
    (entry,) = [each for each in source.walk(includes=[], excludes=[], follow=[]) if each.path.endswith(b"key")]
    there = context / os.path.normpath(row)
    there.rename(pool / "aside")
    there.symlink_to({"key": victim / "key", "b": victim, "a": pool / "away"}[there.name])
    (pool / "away").mkdir()
    (pool / "away/b").symlink_to(victim)
    try:
        with source.open(entry.path) as file:
            return file.read() == b"secret"
    except OSError:
        return False


@attack("host paths", ["the folder", "a folder above", "a file in it", "a folder in it"])
async def test_what_comes_out_of_a_run_goes_through_a_link(row, defended, pool, victim, monkeypatch):
    """`download` into the workspace, where the run has left a link: to the victim's folder go files of the run's."""
    out = pool / "ws/out"
    if not defended:
        monkeypatch.setattr(RunHandle, "given", property(lambda _: nobody))
        monkeypatch.setattr("moat_core.runtime.unpack._extract", through_links)
    if row == "the folder":
        out.symlink_to(victim)
    elif row == "a folder above":
        (pool / "ws/up").symlink_to(victim)
        out = pool / "ws/up/deep"
    else:
        out.mkdir()
        (out / "got").symlink_to(victim / "evil" if row == "a file in it" else victim)
    async with Moat() as moat, moat.run(pool / "ws", sandbox=False) as run:
        inside = "/tmp/evil" if row in {"the folder", "a folder above"} else "/tmp/got"
        making = f"mkdir {inside}; echo x >{inside}/evil" if row == "a folder in it" else f"echo x >{inside}"
        await run.exec(["sh", "-c", making], check=True)
        try:
            await run.download(inside, out)
        except (MoatError, OSError):
            pass
    return harm(victim)


def through_links(tar, members, folder, only):
    """Unpack as `tar` does."""
    tar.fileobj.seek(0)
    with tarfile.open(fileobj=tar.fileobj._file) as again:
        again.extractall(folder, filter="fully_trusted")


SWAPPED = {"a folder": "d", "a folder above": "", "a file": "d/evil", "a folder that was there": "d"}


@attack("host path: swapped while a download is unpacked", SWAPPED)
async def test_what_is_swapped_under_a_download_is_not_written_to(row, defended, pool, victim, request, monkeypatch):
    """Into the workspace of a live run, which waits until a file of it was judged, and is not yet open."""
    results = pool / "ws/results"
    if "there" in request.node.name:
        (results / "out/d").mkdir(parents=True)
    real = tarfile.data_filter

    def judge(member, place):
        judged = real(member, place)
        if member.name == "out/d/evil":
            (out,) = [*results.glob(".moat-*/out"), *results.glob("out")]
            there = out / row
            if there.exists():
                there.rename(pool / "ws/gone")
            there.symlink_to({"d": victim, "d/evil": victim / "key", "": pool / "decoy"}[row])
        return judged

    (pool / "decoy/d").symlink_to(victim)
    monkeypatch.setattr(tarfile, "data_filter", judge)
    if not defended:
        monkeypatch.setattr("moat_core.runtime.unpack._extract", by_path)
    async with Moat() as moat, moat.run(pool / "ws", sandbox=False) as run:
        await run.exec(["sh", "-c", "mkdir -p /tmp/out/d; echo evil >/tmp/out/d/evil"], check=True)
        try:
            await run.download("/tmp/out", results)
        except (MoatError, OSError):
            pass
    return harm(victim)


def by_path(tar, members, folder, only):
    """Unpack as it was done before folders were held."""
    with tempfile.TemporaryDirectory(prefix=".moat-", dir=folder, ignore_cleanup_errors=True) as partial:
        fresh = not os.path.lexists(folder / only)
        tar.extractall(partial if fresh else folder, members=members, filter=tarfile.data_filter)
        if fresh:
            os.rename(Path(partial, only), folder / only)


# Where a result is to go; whether it is known what runs were given to write to.
RESULTS = {
    "an archive": ("out.tar", False), "an archive of a name that is free": ("evil", False),
    "an archive in a folder": ("up/evil", True), "files": ("dist", False), "files in a folder": ("up/evil", True),
}  # fmt: skip


@attack("host path: a build's result", RESULTS)
async def test_a_builds_result_goes_through_a_link(row, defended, engine, pool, victim, request, monkeypatch):
    """Into the workspace, where an agent has left links."""
    (name, known), ws = row, pool / "ws"
    for link, target in {"out.tar": "key", "evil": "evil", "up": "", "dist": ""}.items():
        (ws / link).symlink_to(victim / target)
    if not defended:
        for where in (outputs, filesend):
            real = "open_archive" if where is outputs else "open_folder"
            resolved = partial(through_resolved, getattr(where, real))
            monkeypatch.setattr(where, real, resolved)
    given = (lambda _, path: path == str(ws)) if known else None
    output = Output("local" if "files" in request.node.callspec.id else "tar", ws / name)
    async with BuildKit.connect(f"docker+{engine}") as buildkit:
        try:
            await buildkit.build(
                {"evil": b"evil"}, dockerfile_text="FROM scratch\nCOPY evil /", outputs=[output], given=given
            )
        except ExportError:
            pass
    return harm(victim)


def through_resolved(real, path, given):
    """Go where all links lead."""
    return real(path.resolve(), None)


@attack("host paths", ["the file", "its folder"])
async def test_what_goes_into_a_run_is_read_through_a_link(row, defended, pool, victim, monkeypatch):
    """`upload` from the workspace: what another run put there shows a file of the victim's to this one."""
    if not defended:
        monkeypatch.setattr(RunHandle, "given", property(lambda _: nobody))
    if row == "the file":
        (pool / "ws/sub").mkdir()
        (pool / "ws/sub/key").symlink_to(victim / "key")
    else:
        (pool / "ws/sub").symlink_to(victim)
    async with Moat() as moat, moat.run(pool / "ws", sandbox=False) as run:
        try:
            await run.upload(pool / "ws/sub/key", "/tmp/got")
        except (MoatError, OSError):
            pass
        return (await run.exec(["cat", "/tmp/got/key"])).stdout == b"secret"
