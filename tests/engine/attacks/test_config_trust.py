"""A stranger's repository, or what an agent wrote for the next run: ``agent.yaml`` gives itself more than it may.

The control takes away the one function that finds what widens, or the one check that the row is about.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from attack import attack
from world import MOAT

from moat_core.api import Moat
from moat_core.cli.main import main
from moat_core.config.judges import is_inside
from moat_core.errors import ConfigError, MoatError
from moat_core.host_path import holder_of
from moat_core.store import Home
from moat_core.store.trusted import TrustedFiles


@pytest.fixture
def repository(tmp_path, home, monkeypatch):
    """A stranger's folder beside a secret of ours; no config of ours, nobody at a terminal."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("MOAT_PROXY_PORT")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("the key")
    (tmp_path / "repository").mkdir()
    return tmp_path / "repository"


@pytest.fixture
def undefended(monkeypatch):
    """Take the defence away: nothing is found to widen, nor a link where a run could have put it."""

    def take_away():
        monkeypatch.setattr("moat_core.config.load.find_widenings", lambda *_: ())
        monkeypatch.setattr("moat_core.host_path._Walk._judge", lambda walk, folder: None)

    return take_away


def given(plan):
    """What of a plan is more than a run has by default."""
    more = {
        "no gVisor": not plan.sandboxed,
        "another runtime": plan.oci_runtime not in {"runsc", None},
        "host": any(not is_inside(mount.source, plan.workspace) for mount in plan.mounts),
        "system": any(mount.target.startswith(("/usr", "/etc")) for mount in plan.mounts),
        "inside": any(holder_of(mount.target, [each.target for each in plan.mounts]) for mount in plan.mounts),
        "engine": any(name.startswith("docker:") for name in plan.details.get("dependencies", ())),
        "package": any(":" in name for name in plan.details.get("dependencies", ())),
        "build": "of-the-stranger" in (plan.image.dockerfile or "") + str(plan.image.files),
        "image": plan.image.base.startswith("evil"),
        "processes": plan.limits.pids > 4096,
        "keyboard": plan.stdin,
        "port": plan.details.get("routing", {}).get("proxy", {}).get("port") == 80,
        "timeout": plan.details.get("docker", {}).get("timeout_s") is not None,
        "CA": any(b"from-the-host" in each for each in plan.image.trust),
        "raw": plan.details.get("docker_host", {}).get("access") == "raw",
        "allowed": bool(plan.details.get("docker_host", {}).get("allow")),
        "sidecar": plan.details.get("buildkit", {}).get("image", "").startswith("evil"),
    }
    return ", ".join(name for name, is_so in more.items() if is_so)


def not_refused(error, *words):
    """Whether an error is another one than the defence's, with the way to mend it."""
    said = f"{error}\n{error.hint}"
    return [word for word in words if word not in said]


LINKED = "mounts: ['./into:/x']"
WIDE = {
    "a mount of the host": "mounts: ['/etc:/x:ro']",
    "relative, by way of dots": "mounts: ['./a/../../secret:/x']",
    "the long form": "mounts: [{source: ../secret, target: /x, mode: rw}]",
    "a flow mapping over lines": 'mounts: [{"source":\n "../secret"\n, "target": "/x"}]',
    "a link in the repository": LINKED,
    "over what root works from": "mounts: ['./into-self:/usr/bin']",
    "at a place in the workspace": "mounts: ['./into-self:/workspace/link/sbin']",
    "at a place in another mount": "mounts: ['./into-self:/x', './into-self:/x/link/sbin']",
    "without gVisor": "sandbox: none",
    "without gVisor, quoted": '"sandbox": "none"',
    "without gVisor, as an escape": '"s\\x61ndbox": "n\\u006fne"',
    "without gVisor, as a block": "sandbox: >-\n  none",
    "another OCI runtime": "gvisor: {runtime: runc}",
    "the engine": "dependencies: ['docker:host']",
    "an engine inside": "dependencies: ['docker:dind']",
    "anybody's package": "dependencies: [python, 'pip:evil']",
    "commands in the build": "hooks: {post_build_root: 'touch /of-the-stranger'}",
    "commands in the build, not as root": "hooks: {post_build: 'touch /of-the-stranger'}",
    "an image": "base_image: evil/image",
    "more processes": "container: {pids: 1000000}",
    "how long the host waits": "docker: {timeout: 0.001}",
    "files read on the host": "host_ca: {files: ['../secret/ca.pem']}",
    "the proxy's port": "ports: {web: 3000}\nproxy: {port: 80}",
}


def write(repository, text):
    """Leave the stranger's file, and what it wants to find."""
    repository.joinpath("agent.yaml").write_text(text)
    repository.joinpath("into").symlink_to("../secret")
    repository.joinpath("into-self").mkdir()
    repository.parent.joinpath("secret/ca.pem").write_text(
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
             "/dev/null", "-subj", "/CN=from-the-host", "-days", "2"],
            capture_output=True, text=True, check=True,
        ).stdout
    ) if "host_ca" in text else None  # fmt: skip


def plan_of(repository, **arguments):
    """What the library makes of it by default."""
    moat = Moat()
    return moat.plan(moat.request(repository, **arguments))


@attack("config trust", WIDE)
def test_the_library_gives_a_stranger_nothing(repository, undefended, defended, row):
    """`Moat.run` on a repository that asks for more."""
    write(repository, row)
    if not defended:
        undefended()
    plan = plan_of(repository)
    if "host_ca" in row:
        return any("host_ca" in note.origin and "CAs" in note.text for note in plan.notes) and len(
            plan.image.trust
        ) > len(plan_of(repository, config={}).image.trust)
    return given(plan)


def detached(*argv):
    """Run the command in this process, with nobody at a terminal; its exit code."""
    return main(["run", "-d", *argv])


CLI = {name: WIDE[name] for name in ("a mount of the host", "without gVisor", "the engine", "the proxy's port")}


@attack("config trust", CLI)
def test_the_command_asks_nobody_where_nobody_is(repository, undefended, defended, row, monkeypatch, capfd):
    """No run and no row of one comes of a file that nobody trusts: whether it would, shows where it is detached."""
    write(repository, row)
    monkeypatch.chdir(repository)
    if not defended:
        undefended()
    asked = []

    async def detach(home, request, **_):
        asked.append(request)
        return {"id": "run-0", "name": "x", "oci_runtime": "", "urls": {}}

    monkeypatch.setattr("moat_core.api.supervisor.detach", detach)
    status = detached("--", "true")
    said = capfd.readouterr().err
    if defended:
        assert status == 2
        assert "needs trust" in said
        assert "moat config trust" in said
    return [given(Moat().plan(each)) for each in asked if given(Moat().plan(each))]


HIDDEN = {
    "a second document": "name: a\n---\nsandbox: none\n",
    "an anchor and a merge": "x: &x {sandbox: none}\n<<: *x\n",
    "a key given twice": "sandbox: gvisor\nsandbox: none\n",
    "a tag": "sandbox: !!str none\n",
    "a byte order mark and CR": "\ufeffname: a\rsandbox: none\r",
    "UTF-16": "sandbox: none\n".encode("utf-16"),
    "a line separator": "name: a\u2028sandbox: none\n",
    "both names": None,
}


@attack("config trust", HIDDEN)
def test_what_yaml_hides_is_found_or_refused(repository, undefended, defended, row):
    """As another reader of YAML would read it, or where nobody looks. The control is the plain spelling of it."""
    if row is None:
        (repository / "agent.yaml").write_text("name: a\n")
        (repository / "moat.yaml").write_text("sandbox: none\n")
    else:
        (repository / "agent.yaml").write_bytes(row if isinstance(row, bytes) else row.encode())
    if not defended:
        undefended()
        (repository / "agent.yaml").write_text("sandbox: none\n")
        (repository / "moat.yaml").unlink(missing_ok=True)
    try:
        return given(plan_of(repository))
    except ConfigError:
        return False


def trust(repository):
    """The user looks at the file, and says yes."""
    assert main(["config", "trust", "--yes", str(repository)]) == 0


def trusted_plan(repository):
    """What a user's command plans who has said yes before."""
    moat = Moat()
    return moat.plan(moat.request(repository, config="trusted"))


def changes(repository, tmp_path):
    (repository / "agent.yaml").write_text("name: fox\nsandbox: none\nmounts: ['/etc:/x']\n")


def is_elsewhere(repository, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(repository / "agent.yaml", other)
    return other


def takes_its_place(repository, tmp_path):
    (tmp_path / "new").mkdir()
    shutil.copy(repository / "agent.yaml", tmp_path / "new")
    repository.rename(tmp_path / "old")
    (tmp_path / "new").rename(repository)


def adds_a_space(repository, tmp_path):
    (repository / "agent.yaml").write_text((repository / "agent.yaml").read_text() + " ")


def is_called_otherwise(repository, tmp_path):
    (repository / "agent.yaml").rename(repository / "moat.yaml")
    (repository / "moat.yaml").write_text("sandbox: none\nhooks: {post_build: 'touch /of-the-stranger'}\n")


AFTER = {
    "the content changes": changes,
    "by a space": adds_a_space,
    "the same file in another folder": is_elsewhere,
    "another folder takes its place": takes_its_place,
    "it gets the other name": is_called_otherwise,
}


@attack("config trust", AFTER)
def test_trust_is_in_one_content_of_one_folder(repository, tmp_path, monkeypatch, defended, row):
    """What changed after the user's yes is not what they said yes to."""
    write(repository, "sandbox: none\n")
    trust(repository)
    assert given(trusted_plan(repository))
    where = row(repository, tmp_path) or repository
    if not defended:
        monkeypatch.setattr(TrustedFiles, "covers", lambda *_: True)
    return given(trusted_plan(where))


@attack("config trust", ["between the question and the plan", "between the plan and the supervisor"])
def test_what_is_trusted_is_what_is_run(repository, defended, row, monkeypatch, capfd):
    """The file is swapped when the yes has been said: it is not read a second time."""
    from moat_core.plan import RunRequest

    write(repository, "container: {pids: 5000}\n")
    monkeypatch.chdir(repository)
    seen = []

    def swap():
        (repository / "agent.yaml").write_text("sandbox: none\n")

    async def detach(home, request, **_):
        if row.endswith("supervisor"):
            swap()
        handed = RunRequest.from_json(json.loads(json.dumps(request.to_json())))
        if not defended:  # the path is handed on, with the yes
            handed = RunRequest.from_json(handed.to_json() | {"config": {"word": "workspace"}})
        seen.append(given(Moat().plan(handed)))
        return {"id": "run-0", "name": "x", "oci_runtime": "", "urls": {}}

    def say(*_):
        if row.endswith("plan"):
            swap()
        return True

    monkeypatch.setattr("moat_core.cli.trust.ask", say)
    monkeypatch.setattr("moat_core.api.supervisor.detach", detach)
    assert detached("--", "true") == 0
    return "no gVisor" in seen[0]


@attack("config trust", ["agent.yaml", "moat.yaml", "by way of a folder", "to procfs"])
def test_a_config_that_is_a_link_out_tells_nothing(repository, monkeypatch, defended, row, capfd):
    """What it leads to would be read as ours, and shown: here a variable's name that is a secret."""
    secret = repository.parent / "secret/conf.yaml"
    secret.write_text("env: {TOKEN: 's3cret'}\nname: from-outside\n")
    if row == "by way of a folder":
        (repository / "up").symlink_to("../secret")
        (repository / "agent.yaml").symlink_to("up/conf.yaml")
    elif row == "to procfs":
        (repository / "agent.yaml").symlink_to(f"/proc/{os.getpid()}/root{secret}")
    else:
        (repository / row).symlink_to(secret)
    if not defended:
        monkeypatch.setattr("moat_core.config.workspace_file.is_inside", lambda *_: True)
        monkeypatch.setattr("moat_core.config.workspace_file._open_link", lambda *_: os.open(_[1] / _[2], os.O_RDONLY))
    try:
        return plan_of(repository).name == "from-outside"
    except ConfigError as error:
        return not_refused(error, "leads out of the workspace", "--config")


NOBODY = 65534
FORGED = """
import json, os, sys
home, record = sys.argv[1:3]
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    os.makedirs(home + "/trust", exist_ok=True)
    open(home + "/trust/" + os.path.basename(record), "w").write(open(record).read())
except OSError as error:
    sys.exit(str(error))
"""


def open_to_all(home):
    home.chmod(0o777)
    (home / "trust").chmod(0o777)


def belongs_to_them(home):
    os.chown(home, NOBODY, NOBODY)
    os.chown(home / "trust", NOBODY, NOBODY)


def above_is_open(home):
    home.parent.chmod(0o777)
    home.rename(home.with_name("aside"))
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)


def group_may(home):
    for folder in (home, home / "trust"):
        os.chown(folder, 0, NOBODY)
        folder.chmod(0o770)


def behind_a_link(home):
    real = home.with_name("theirs")
    home.rename(real)
    home.symlink_to(real.name)
    os.chown(home, NOBODY, NOBODY, follow_symlinks=False)
    os.chown(real, NOBODY, NOBODY)
    os.chown(real / "trust", NOBODY, NOBODY)


STATE = {
    "mode 0777": open_to_all,
    "another owner": belongs_to_them,
    "a folder above that others may write to": above_is_open,
    "a group": group_may,
    "a link of theirs": behind_a_link,
}


@attack("state folder", STATE)
def test_a_state_folder_that_others_may_write_to_is_refused(tmp_path, home, repository, monkeypatch, defended, row):
    """Another local user, a real one, writes there that we trust what the stranger wants."""
    if os.getuid() != 0:
        pytest.fail("this needs root, as CI and the engine's namespace have it")
    write(repository, "sandbox: none\n")
    trust(repository)
    (record,) = (home / "trust").glob("*.json")
    copy = tmp_path / record.name
    shutil.copy(record, copy)
    copy.chmod(0o644)
    record.unlink()
    for folder in (tmp_path, *tmp_path.parents):  # pytest's own are not for others
        folder.chmod(folder.stat().st_mode | 0o011)
    row(home)
    script = subprocess.run(
        [sys.executable, "-c", FORGED, str(home), str(copy)], capture_output=True, text=True, check=False
    )
    assert script.returncode == 0, script.stderr
    if not defended:
        monkeypatch.setattr(Home, "check", lambda *_, **__: None)
    try:
        return given(trusted_plan(repository))
    except MoatError as error:
        return not_refused(error, "not yours alone", "MOAT_HOME")


CEILINGS = {
    "no gVisor": ("{sandbox: required}", {"sandbox": False}),
    "a mount": ("{mounts: []}", {"mounts": ["/etc:/x:ro"]}),
    "the engine": ("{dependencies: plain}", {"dependencies": ["docker:host"]}),
    "an option": ("{fixed: [gvisor]}", {"options": {"gvisor": {"runtime": "runc"}}}),
    "the caller's own mapping": ("{pids: 4096}", {"config": {"container": {"pids": 1_000_000}}}),
    "an image": ("{fixed: [base_image]}", {"base_image": "evil/image"}),
}


@attack("ceiling", CEILINGS)
def test_the_users_ceiling_is_over_flags_too(repository, tmp_path, defended, row):
    """A script, or an agent's framework, asks for more than the user lets any run have."""
    ceiling, arguments = row
    if defended:
        (tmp_path / "xdg/moat").mkdir(parents=True)
        (tmp_path / "xdg/moat/config.yaml").write_text(f"ceiling: {ceiling}\n")
    try:
        return given(plan_of(repository, **arguments))
    except MoatError as error:
        return not_refused(error, "ceiling")


@attack("ceiling", ["ceiling: {memory: 64g}", "ceiling: {fixed: []}", "ceiling: null"])
def test_a_workspace_does_not_raise_the_ceiling(repository, tmp_path, defended, row):
    """Nor takes it away. The control is the user's own file, where it belongs."""
    mine = tmp_path / "xdg/moat/config.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("ceiling: {memory: 1g, fixed: [container.memory]}\n")
    if defended:
        (repository / "agent.yaml").write_text(row + "\ncontainer: {memory: 32g}\n")
    else:
        mine.write_text(row + "\n")
    try:
        limits = plan_of(repository, config="workspace").limits
        return limits.memory_bytes is None or limits.memory_bytes > 1024**3
    except ConfigError:
        return False


REAL = {
    "a file of the host is written": ("mounts: ['../secret:/x']", "echo stolen >/x/key", b""),
    "standard input is read": ("interactive: true", "cat >/workspace/got", b"the key"),
    "the host's kernel": ("sandbox: none", "cat /proc/version >/workspace/got", b""),
}


@attack("config trust, with an engine", REAL)
def test_a_real_run_has_no_more_than_it_may(world, repository, defended, row):
    """`moat run` in the repository, and what is on the host afterwards; the control is a user who says yes."""
    text, script, stdin = row
    write(repository, f"network: none\n{text}\ncommand: ['sh', '-c', '{script}']\n")
    argv = [*MOAT, "run", "--no-trust" if defended else "--trust"]
    done = subprocess.run(argv, cwd=repository, input=stdin, capture_output=True, timeout=120, check=False)
    got = repository / "got"
    evidence = [(repository.parent / "secret/key").read_text(), got.read_text() if got.exists() else ""]
    assert done.returncode in ({0, 1, 2} if defended else {0}), done.stderr
    return [text for text in evidence if text in {"stolen\n", Path("/proc/version").read_text()}] + [
        text for text in evidence[1:] if text == "the key"
    ]
