"""`moat-init`, run for real by sh: as root, in a mount namespace of its own, with its own /etc and folders.

Each shell that is here runs it: dash (Debian's sh), bash as sh, busybox where it is installed.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moat_core.errors import PlanError
from moat_core.plan import READY, ROOT_PATH, PlanBuilder, hide_env, make_env, make_init
from moat_core.types import EnvValue, InitStep, Mount, Tmpfs, User, Volume

SHELLS = {
    name: [program, *more]
    for name, *more in (["sh"], ["dash"], ["bash", "--posix"], ["busybox", "sh"])
    if (program := shutil.which(name))
}

# /etc is a copy of the test's; whatever else is written (homes) goes to memory.
_ENTER = """
set -e
mount -t tmpfs moat-test /mnt
cp -a "$1" /mnt/etc
mount --bind /mnt/etc /etc
mount -t tmpfs moat-test /home
shift
exec "$@"
"""


def plan(command=None, *, user=None, steps=(), groups=()):
    base = PlanBuilder(run_id="run-00000000", name="fox", runtime="fake", workspace=Path("/")).freeze()
    return attrs.evolve(base, command=command, user=user or User(), init_steps=tuple(steps), groups=tuple(groups))


@pytest.fixture
def etc(tmp_path):
    """What the container's /etc is."""
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n")
    (folder / "group").write_text("root:x:0:\ndaemon:x:1:\n")
    return folder


@pytest.fixture(params=SHELLS)
def init(request, etc):
    """Run what `make_init` makes of a plan, by one of the shells, and return the completed process."""

    def run(wanted, stdin=b"", image_env=None, **how):
        argv = make_init(wanted, image_env)
        assert argv[0] == "/bin/sh"
        return subprocess.run(
            ["unshare", "-m", "/bin/sh", "-c", _ENTER, "enter", etc, *SHELLS[request.param], *argv[1:]],
            input=stdin,
            capture_output=True,
            timeout=30,
            check=False,
            cwd="/",
            env=hide_env(make_env(wanted, image_env)),
            **how,
        )

    return run


FOX = User(4321, 4322, "fox", "/home/fox")
ENV = hide_env(make_env(plan(user=FOX)))


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("user", [User(), FOX], ids=["root", "fox"])
def test_every_shell_can_parse_it(shell, user):
    """Nothing in it is more than POSIX sh, with steps, users and a command or without."""
    steps = [InitStep("a", "true"), InitStep("it's", "echo 'x'\n: done")]
    for command in (None, ("true",)):
        _, _, text, *_ = make_init(plan(command, user=user, steps=steps, groups=(7, 8)))
        subprocess.run([*SHELLS[shell], "-n", "-c", text], check=True)


def test_the_commands_own_end_and_streams_are_the_containers(init):
    """Its exit code, its output byte for byte, its input."""
    done = init(plan(("sh", "-c", "cat; printf err >&2; exit 37")), stdin=b"\0in\xff")
    assert (done.returncode, done.stdout, done.stderr) == (37, b"\0in\xff", b"err")


@pytest.mark.parametrize("user", [User(), FOX], ids=["root", "fox"])
def test_arguments_are_the_commands_word_for_word(init, user):
    """Whatever is in them, no shell reads it."""
    words = ["", " ", "'", '"', "$HOME", "`id`", "a\nb", "*", "ä", "-n", "\\"]
    done = init(plan(("printf", "%s|", *words), user=user))
    assert done.stdout.decode() == "".join(f"{word}|" for word in words), done.stderr


@pytest.mark.parametrize("user", [User(), FOX], ids=["root", "fox"])
def test_a_missing_command_is_127_and_one_that_may_not_be_run_126(init, etc, user):
    """With the sentence that shells say."""
    for command, code, words in [
        ("no-such-command", 127, b"command not found"),
        ("/no/such/command", 127, b"command not found"),
        ("passwd-in-no-path", 127, b"command not found"),
        ("/etc/passwd", 126, b"ermission denied"),
    ]:
        done = init(plan((command, "x"), user=user))
        assert (done.returncode, done.stdout) == (code, b""), (command, done.stderr)
        assert words in done.stderr, (command, done.stderr)


def test_a_file_of_the_working_folder_is_no_command(init):
    """Only what the PATH names, or a path: as every shell does."""
    done = init(plan(("etc",)))
    assert done.returncode == 127


def test_privileges_are_dropped_to_a_real_user(init, etc):
    """Uid, gid, no other groups, a passwd entry that is found first, a home of its own, no capabilities."""
    script = "id -u; id -g; id -G; id -un; id -gn; grep CapEff /proc/self/status; stat -c '%u:%g %a' /home/fox; umask"
    done = init(plan(("sh", "-c", script), user=FOX))
    lines = done.stdout.decode().split("\n")
    assert lines[:5] == ["4321", "4322", "4322", "fox", "fox"], done.stderr
    assert lines[5].split() == ["CapEff:", "0000000000000000"]
    assert lines[6] == "4321:4322 700"
    assert lines[7] == "0022"


def test_groups_are_given(init):
    """Those of the plan, and none else."""
    done = init(plan(("id", "-G"), user=FOX, groups=(77, 88)))
    assert sorted(done.stdout.split()) == [b"4322", b"77", b"88"]


def test_a_known_uid_gets_our_name_and_nobody_is_lost(init, etc):
    """The image's own user of that uid comes second, and its last line may lack a newline."""
    (etc / "passwd").write_text(
        "root:x:0:0::/root:/bin/sh\nnode:x:4321:4321::/home/node:/bin/sh\nlast:x:9:9::/:/bin/sh"
    )
    (etc / "group").write_text("root:x:0:\nnode:x:4322:")
    done = init(plan(("sh", "-c", "id -un; id -gn; id -u node; id -u last; wc -l </etc/passwd"), user=FOX))
    assert done.stdout.split() == [b"fox", b"node", b"4321", b"9", b"4"], done.stderr


def test_a_home_that_is_there_is_left_as_it_is(init):
    """It may be a mount of the user's."""
    step = InitStep("home", "mkdir /home/fox; chmod 751 /home/fox")
    done = init(plan(("stat", "-c", "%u %a", "/home/fox"), user=FOX, steps=[step]))
    assert done.stdout == b"0 751\n", done.stderr


def test_steps_run_as_root_in_order_before_the_command(init):
    """Each in a shell of its own, reading nothing of the command's input."""
    steps = [
        InitStep("one", "id -u; x=1; cd /usr"),
        InitStep("two", 'echo "${x-unset}"; pwd; cat'),
    ]
    done = init(plan(("cat",), user=FOX, steps=steps), stdin=b"mine\n")
    assert done.stdout == b"0\nunset\n/\nmine\n", done.stderr


def test_inline_steps_share_a_shell(init):
    """They may return early, read nothing of the command's input, and a trap of theirs does not reach the command."""
    steps = [
        InitStep("one", "moat_x=1; return 0; echo never", inline=True),
        InitStep("two", 'echo "$moat_x"; cat', inline=True),
    ]
    done = init(plan(("cat",), user=FOX, steps=steps), stdin=b"mine\n")
    assert (done.returncode, done.stdout) == (0, b"1\nmine\n"), done.stderr


FAILING = ["false", "exit 3", "false\ntrue", "echo $undefined", "cat /nowhere\necho on", "false | true; (exit 7)"]


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("script", [*FAILING, "exit 0"])
def test_a_step_that_fails_ends_it_with_its_name(init, script, inline):
    """In its midst too, and for an unset variable; the command is not started. An inline one may not exit at all."""
    if script == "exit 0" and not inline:
        return
    steps = [InitStep('it\'s "mine" $HOME', script, inline=inline), InitStep("never", "echo never")]
    done = init(plan(("echo", "never"), steps=steps))
    assert done.returncode == 125
    assert b"never" not in done.stdout
    assert b"moat: the init step 'it's \"mine\" $HOME' failed." in done.stderr


def test_without_a_command_it_says_it_is_ready_and_waits(etc):
    """The word comes after all steps, and what waits has no privileges."""
    argv = make_init(plan(None, user=FOX, steps=[InitStep("one", "echo one")]))
    with subprocess.Popen(
        ["unshare", "-m", "/bin/sh", "-c", _ENTER, "enter", etc, *argv], stdout=subprocess.PIPE, cwd="/", env=ENV
    ) as process:
        assert process.stdout.readline() == b"one\n"
        assert process.stdout.readline() == READY
        assert process.poll() is None
        status = Path(f"/proc/{process.pid}/status")
        while "sleep" not in status.read_text().split("\n")[0]:
            pass
        assert "Uid:\t4321\t4321\t4321\t4321" in status.read_text()
        process.kill()


def test_too_long_a_text_is_an_error_that_says_so():
    """In bytes, since that is what the kernel counts."""
    with pytest.raises(PlanError, match="is the most") as caught:
        make_init(plan(steps=[InitStep("large", ": " + "ä" * 70_000)]))
    assert "image or a mount" in caught.value.problems[0].hint
    make_init(plan(steps=[InitStep("fits", ": " + "a" * 100_000)]))


names = st.text(st.characters(exclude_characters="\0\n:", exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=names, home=names, step=names)
def test_hostile_names_are_only_names(etc, name, home, step):
    """Of a user, a home, a step: nothing in them is ever run, and they come out as they went in."""
    user = User(4321, 4322, name, f"/home/{home.replace('/', '_')}x")
    argv = make_init(
        plan(
            ("sh", "-c", 'IFS=: read -r n _ _ _ _ h _ </etc/passwd; printf "%s\\0%s" "$n" "$h"'),
            user=user,
            steps=[InitStep(step, "true")],
        )
    )
    done = subprocess.run(
        ["unshare", "-m", "/bin/sh", "-c", _ENTER, "enter", etc, *argv],
        capture_output=True,
        timeout=30,
        check=False,
        cwd="/",
        env=ENV,
    )
    assert done.returncode == 0, done.stderr
    found, found_home = done.stdout.split(b"\0")
    # `read` strips spaces at the ends of a line, as the C library does.
    assert found.decode().strip() == name.strip()
    assert found_home.decode() == user.home


HOSTILE = {
    "PATH": "/tmp/mine:/usr/bin:/bin",
    "LD_PRELOAD": "/tmp/mine/no-such.so",
    "ENV": "/tmp/mine/env",
    "BASH_ENV": "/tmp/mine/env",
    "IFS": "abc",
    "CDPATH": "/tmp",
    "PS4": "$(touch /tmp/x)",
    "LC_ALL": "xx",
    "A": "a b='c'\n$HOME \\ \xff",
    "EMPTY": "",
}


@pytest.mark.parametrize("user", [User(), FOX], ids=["root", "fox"])
def test_the_runs_variables_are_there_with_the_command_and_not_before(init, user):
    """Root's steps find their own PATH and nothing that acts; the command finds every value as it was given."""
    env = {key: EnvValue(value, "flag") for key, value in HOSTILE.items()}
    look = 'echo "$PATH"; tr "\\0" "\\n" </proc/self/environ | grep -v ^MOAT_ENV_ | cut -d= -f1 | sort >&2'
    command = ("/usr/bin/env", "-u", "LD_PRELOAD", "/usr/bin/env", "-0")
    done = init(attrs.evolve(plan(command, user=user, steps=[InitStep("look", look)]), env=env))
    path, _, said = done.stdout.partition(b"\n")
    assert path.decode() == ROOT_PATH
    assert set(done.stderr.split(b"ERROR")[0].split()) <= {b"PATH", b"PWD", b"OLDPWD", b"SHLVL", b"_"}
    found = dict(item.split(b"=", 1) for item in said.split(b"\0") if item)
    assert {key: found.get(key.encode(), b"").decode("utf-8", "surrogateescape") for key in HOSTILE} == {
        **HOSTILE,
        "LD_PRELOAD": "",
    }
    assert not [key for key in found if key.startswith(b"MOAT_ENV_")]


def test_what_a_shell_cannot_set_is_left_out(init):
    """A name with a dot, bash's own variables: no error, and all the others are there."""
    done = init(
        plan(("/bin/sh", "-c", 'echo "$LAST"'), user=FOX), image_env={"a.b": "1", "SHELLOPTS": "x", "LAST": "2"}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"2\n", b"")


def test_a_step_gets_the_variables_that_it_names(init):
    """As data; the others stay hidden, and so do all from the next step."""
    steps = [
        InitStep("one", 'echo "$PROXY ${OTHER-unset}"', env=("PROXY", "NO_SUCH")),
        InitStep("two", 'echo "${PROXY-unset}"'),
    ]
    env = {"OTHER": EnvValue("x", "flag"), "PROXY": EnvValue("a b", "flag")}
    done = init(attrs.evolve(plan(("true",), steps=steps), env=env))
    assert done.stdout == b"a b unset\nunset\n", done.stderr


def test_root_works_elsewhere_and_the_command_in_its_folder(init, tmp_path):
    """The working folder is the run's: root's steps are not in it."""
    made = plan(("pwd",), user=FOX, steps=[InitStep("look", "pwd"), InitStep("mine", "pwd", as_user=True)])
    done = init(attrs.evolve(made, working_dir="/usr/share"))
    assert (done.stdout, done.stderr) == (b"/\n/usr/share\n", b"/usr/share\n")


def test_a_setpriv_of_busybox_is_told_apart(etc):
    """It is one file with many names, and knows no users; what is missing is said."""
    argv = make_init(plan(("id", "-u"), user=FOX))
    cover = 'for each in /usr/bin/busybox /bin/busybox; do [ -e "$each" ] || : >"$each"; mount --bind /usr/bin/setpriv "$each"; done'
    enter = _ENTER.replace(
        "shift",
        f"shift\nmkdir /mnt/up /mnt/work; mount -t overlay o -olowerdir=/usr/bin,upperdir=/mnt/up,workdir=/mnt/work /usr/bin\n{cover}",
    )
    done = subprocess.run(
        ["unshare", "-m", "/bin/sh", "-c", enter, "enter", etc, *argv],
        capture_output=True,
        env=ENV,
        check=False,
        cwd="/",
    )
    assert done.returncode == 125, done.stderr
    assert b"no setpriv that can change users" in done.stderr


COVERING = [
    "/", "/usr", "/bin", "/sbin/x", "/usr/bin/tool", "/lib", "/usr/lib/x86_64-linux-gnu/libx.so", "/lib64", "/etc",
    "/etc/passwd", "/etc/group", "/etc/ld.so.preload", "/etc/nsswitch.conf", "/usr/local/lib/moat", "/proc/version",
    "/usr/bin/../bin", "//usr//bin",
]  # fmt: skip


@pytest.mark.parametrize("target", COVERING)
def test_nothing_covers_what_root_needs(target):
    """A mount, a volume or a tmpfs over programs, libraries or accounts is refused, unless the run is root's anyway."""
    for more in ({"mounts": (Mount("/x", target),)}, {"volumes": (Volume("v", target),)}, {"tmpfs": (Tmpfs(target),)}):
        with pytest.raises(PlanError, match="root needs"):
            make_init(attrs.evolve(plan(user=FOX), **more))
        make_init(attrs.evolve(plan(user=User()), **more))


@pytest.mark.parametrize(
    "target", ["/workspace", "/usr/local/bin/tool", "/usr/share/x", "/etc/gitconfig", "/opt", "/binary"]
)
def test_other_places_can_be_mounted_over(target):
    """What root does not need is the user's to choose."""
    make_init(attrs.evolve(plan(user=FOX), mounts=(Mount("/x", target),)))
