"""What an agent leaves for the next run's root: programs, libraries and variables that are to act before the command.

The host is asked afterwards: in a workspace that is another user's, root leaves nothing, least of all set-uid files.
"""

from __future__ import annotations

import io
import os
import shlex
import stat
import subprocess
import tarfile

import pytest
from attack import attack

from moat_core import Moat, MoatError, hookimpl
from moat_core.lifecycle import mounts
from moat_core.plan import init
from moat_plugins.docker import container, look, sandbox

UID = 4711
MARK = "was-root"
_EVIL = f"""\
#!/bin/sh
# Whatever it is called: as root it leaves a shell for everybody; then it does what it is for.
if [ "$(/usr/bin/id -u)" = 0 ]; then
  /bin/cp /bin/sh /workspace/{MARK}
  /bin/chmod 4755 /workspace/{MARK}
fi
PATH=/usr/bin:/bin
exec "${{0##*/}}" "$@"
"""
_LIBRARY = f"""\
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
__attribute__((constructor)) static void act(void) {{
  if (geteuid() != 0) return;
  int file = open("/workspace/{MARK}", O_CREAT | O_WRONLY, 0755);
  if (file >= 0) {{ fchmod(file, 04755); close(file); }}
}}
unsigned int la_version(unsigned int version) {{ act(); return version; }}
"""
_PERL = f'if ($> == 0) {{ open F, ">", "/workspace/{MARK}"; chmod 04755, "/workspace/{MARK}" }} 1;\n'


class Runs:
    """The attacker's workspace and the victim's next runs in it."""

    def __init__(self, folder, home, monkeypatch):
        self.folder, self.home, self.monkeypatch = folder, home, monkeypatch
        for name in ("install", "setpriv", "sleep", "sh", "cat", "stty"):
            self.leave(f"bin/{name}", _EVIL, 0o755)
        self.leave("lib/Evil.pm", _PERL)
        self.leave(
            "env.sh", f"[ $(/usr/bin/id -u) != 0 ] || {{ : >/workspace/{MARK}; chmod 4755 /workspace/{MARK}; }}\n"
        )
        self.leave("agent.yaml", "network: none\n")

    def leave(self, name, text, mode=0o644):
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def set(self, module, name, value):
        self.monkeypatch.setattr(module, name, value)

    def expose_env(self):
        """The control: the run's environment is the container's, as Docker has it."""
        hidden, adopted = container.hide_env, init.adopt_env
        self.set(container, "hide_env", lambda env: {**hidden(env), **env})
        self.set(init, "adopt_env", lambda env, wanted=None: adopted(env, wanted).replace("unset ", ": "))
        made = init.make_init
        self.set(container, "make_init", lambda *args: tuple(word.replace("\ncd /\n", "\n") for word in made(*args)))

    def seen(self):
        """What root left on the host: evidence, or nothing."""
        for path in [*self.folder.rglob("*")]:
            found = path.lstat()
            if found.st_uid == 0:
                return f"{path.name} is root's, {stat.filemode(found.st_mode)}"
        return ""

    async def run(self, *, body=None, plugins=None, **arguments):
        for path in [self.folder, *self.folder.rglob("*")]:
            os.chown(path, UID, UID, follow_symlinks=False)
        arguments.setdefault("sandbox", False)
        arguments.setdefault("config", "workspace")  # the user trusts the file: that is another defence
        async with Moat(home=self.home, plugins=plugins) as moat:
            try:
                async with moat.run(self.folder, **arguments) as run:
                    await (body(run) if body is not None else run.wait())
            except MoatError:
                pass  # what has been done by then has been done
        return self.seen()


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """A shared library that acts as soon as it is loaded, as the attacker compiled it."""
    folder = tmp_path_factory.mktemp("library")
    source = folder / "evil.c"
    source.write_text(_LIBRARY)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "evil.so", source], check=True)
    return (folder / "evil.so").read_bytes()


@pytest.fixture
def runs(engine, workspace, world, monkeypatch, library):
    """See `Runs`."""
    made = Runs(workspace, world.home, monkeypatch)
    (workspace / "evil.so").write_bytes(library)
    (workspace / "lib" / "libselinux.so.1").write_bytes(library)
    return made


VARIABLES = {
    "PATH, its install": {"PATH": "/workspace/bin:/usr/bin:/bin"},
    "PATH, the working folder": {"PATH": ".:bin:/usr/bin:/bin"},
    "PATH, an empty entry": {"PATH": "bin:/usr/bin:/bin:"},
    "LD_PRELOAD": {"LD_PRELOAD": "/workspace/evil.so"},
    "LD_PRELOAD, relative": {"LD_PRELOAD": "./evil.so"},
    "LD_AUDIT": {"LD_AUDIT": "/workspace/evil.so"},
    "LD_LIBRARY_PATH": {"LD_LIBRARY_PATH": "/workspace/lib"},
}


@attack("root steps: variable by request", VARIABLES)
async def test_a_variable_does_not_act_while_root_works(runs, row, defended):
    """Given by -e or the library; the loader and shells would obey before anybody has looked."""
    if not defended:
        runs.expose_env()
    return await runs.run(command=["true"], env=row)


@attack("root steps: variable by agent.yaml", ["PATH", "LD_PRELOAD"])
async def test_a_variable_of_the_config_does_not_act_while_root_works(runs, row, defended):
    """`env:` in a file that the agent wrote."""
    values = {"PATH": "/workspace/bin:/usr/bin:/bin", "LD_PRELOAD": "/workspace/evil.so"}
    runs.leave("agent.yaml", f"network: none\nenv: {{{row}: '{values[row]}'}}\n")
    if not defended:
        runs.expose_env()
    return await runs.run(command=["true"])


@attack("root steps: variable, in gVisor", ["PATH", "LD_PRELOAD"])
async def test_a_variable_does_not_act_in_gvisor_either(runs, row, defended):
    """There root inside leaves root's files on the host as well."""
    if not defended:
        runs.expose_env()
    return await runs.run(
        command=["true"], sandbox=True, env={row: VARIABLES.get(row, VARIABLES["PATH, its install"])[row]}
    )


class Step:
    """A third party's plugin whose root step starts a program that reads its environment."""

    def __init__(self, script):
        self.script = script

    @hookimpl
    def moat_add_to_plan(self, plan):
        plan.add_init_step("third party", self.script)


PROGRAMS = {
    "BASH_ENV": ("/bin/bash -c :", {"BASH_ENV": "/workspace/env.sh"}),
    "ENV": ("/bin/sh -i -c : </dev/null 2>/dev/null", {"ENV": "/workspace/env.sh"}),
    "PERL5OPT": ("perl -e 1", {"PERL5LIB": "/workspace/lib", "PERL5OPT": "-MEvil"}),
    "PATH of a plugin's helper": ("cat /dev/null", {"PATH": "/workspace/bin:/usr/bin:/bin"}),
    "the working folder": ("[ ! -x ./bin/cat ] || ./bin/cat /dev/null", {}),
}


@attack("root steps: a plugin's own", PROGRAMS)
async def test_a_plugins_step_finds_nothing_of_the_runs(runs, row, defended):
    """Whatever program it starts: neither variables nor the working folder are the run's."""
    script, env = row
    if not defended:
        runs.expose_env()
    return await runs.run(command=["true"], env=env, plugins={"third": Step(script)})


def build(tag, env):
    """What an agent with `docker:host`, or the Dockerfile that it left, makes: an image with variables of its own."""
    lines = [
        "FROM debian:bookworm-slim",
        *(f"ENV {shlex.quote(key)}={shlex.quote(value)}" for key, value in env.items()),
    ]
    text = "\n".join(lines).encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
    subprocess.run(["docker", "build", "-q", "-t", tag, "-"], input=archive.getvalue(), check=True, capture_output=True)


@pytest.fixture
def image(engine):
    """The names of images that are removed afterwards."""
    yield
    subprocess.run(["docker", "rmi", "-f", "moat-attack-env"], check=False, capture_output=True)


IMAGES = {
    "LD_PRELOAD": {"LD_PRELOAD": "/workspace/evil.so"},
    "PATH": {"PATH": "/workspace/bin:/usr/bin:/bin"},
    "LD_AUDIT": {"LD_AUDIT": "/workspace/evil.so"},
}


@attack("root steps: the image's ENV", IMAGES)
async def test_an_images_variables_do_not_act_while_root_works(runs, image, row, defended):
    """They are taken away by name, and come back with the command."""
    build("moat-attack-env", row)
    runs.leave("agent.yaml", "network: none\nbase_image: moat-attack-env\n")
    if not defended:
        start = container.make_start_env
        runs.set(container, "make_start_env", lambda plan, image_env: _only_ours(start(plan, image_env), row))
    return await runs.run(command=["true"])


def _only_ours(lines, names):
    """Leave out what takes the image's variables away or hides them."""
    return [line for line in lines if line.partition("=")[0] not in names]


COVERS = {
    "one program": "./bin/install:/usr/sbin/install",
    "one program, merged folders": "./bin/install:/sbin/install",
    "by way of": "./bin/install:/usr/share/../sbin/install",
    "the loader's list": "./preload:/etc/ld.so.preload",
    "a library": "./lib/libselinux.so.1:/lib/x86_64-linux-gnu/libselinux.so.1",
    "a folder of libraries": "./lib:/usr/local/lib/x86_64-linux-gnu",
    "read-only": "./bin/install:/usr/sbin/install:ro",
}


@attack("root steps: a mount over what root needs", COVERS)
async def test_nothing_is_mounted_over_what_root_runs(runs, row, defended):
    """A folder that an earlier run wrote, where root looks for programs and libraries."""
    runs.leave("preload", "/workspace/evil.so\n")
    runs.leave("agent.yaml", f"network: none\nmounts: ['{row}']\n")
    if not defended:
        runs.set(init, "find_covered", lambda plan: [])
    if "local/lib" in row and not defended:
        # The loader looks there by its cache alone, which the image's ldconfig made: let a plugin's step make it anew.
        return await runs.run(command=["true"], plugins={"third": Step("/sbin/ldconfig; install --version >/dev/null")})
    return await runs.run(command=["true"])


BEHIND = {
    "one program": ("./bin/install:/workspace/link/install", "../usr/sbin", False),
    "one program, in gVisor": ("./bin/install:/workspace/link/install", "../usr/sbin", True),
    "the link is the target": ("./bin/install:/workspace/link", "/usr/sbin/install", False),
    "the loader's list": ("./preload:/workspace/link", "/etc/ld.so.preload", False),
}
LATE = [f"{row}, put there late" for row in BEHIND if "list" not in row]
"""Not the loader's list: it acts as soon as any program starts, before anybody can look."""


@attack("root steps: a mount behind a link", [*BEHIND, *LATE])
async def test_nothing_is_mounted_behind_a_link_over_what_root_runs(runs, row, defended):
    """The target is in the workspace, which needs no trust; a link there leads to the image's own programs."""
    mount, target, isolated = BEHIND[row.removesuffix(", put there late")]
    runs.leave("preload", "/workspace/evil.so\n")
    runs.leave("agent.yaml", f"network: none\nmounts: ['{mount}']\n")
    (runs.folder / "link").symlink_to(target)
    if not defended or "late" in row:  # as if it had been put there between our look and the engine's
        runs.set(mounts, "_check_targets", lambda plan, held: None)
    if not defended:
        runs.set(look, "holder_of", lambda path, places: None)
    return await runs.run(command=["true"], sandbox=isolated)


@attack("root steps: root's exec", {"PATH": VARIABLES["PATH, its install"], "LD_PRELOAD": VARIABLES["LD_PRELOAD"]})
async def test_a_command_as_root_does_not_find_the_runs_variables(runs, row, defended):
    """`moat exec -u root` and `exec(user="root")` are for mending things inside, not for the agent's programs."""
    if not defended:
        made = sandbox.make_exec_env
        runs.set(sandbox, "make_exec_env", lambda env, is_own: made(env, is_own=True))

    async def body(run):
        for path in runs.folder.rglob("*"):
            os.chown(path, UID, UID)
        await run.exec(["install", "--version"], user="root")

    return await runs.run(env=row, body=body)


# What busybox has for setpriv starts the program without a word, in this image of the attacker's.
_BUSYBOX = """\
cat >/usr/bin/busybox <<'END'
#!/bin/sh
for word; do case $1 in --*) shift ;; esac; done
exec "$@"
END
chmod 755 /usr/bin/busybox
ln -sf busybox /usr/bin/setpriv
"""


@attack("root steps: a busybox for setpriv")
async def test_who_cannot_drop_privileges_does_not_start_the_command(runs, defended):
    """A helper that does not do what it is asked for must not leave the command root's."""
    if not defended:
        runs.set(init, "_FIND_SETPRIV", "moat_setpriv=/usr/bin/setpriv\n")
    return await runs.run(command=["touch", "/workspace/mine"], plugins={"third": Step(_BUSYBOX)})
