"""`moat-init`: the sh text that turns a started container into the run's.

It is assembled per run from the plan and handed to the container as the argument of ``/bin/sh -c``, so it is there
before the start, needs no image of its own and leaves nothing behind: its last line is an ``exec``. The engine's
init (tini) above it is PID 1, reaps zombies and forwards signals.

Order: the plugins' steps as root, the user's passwd entry and home, the steps as that user, then the drop of
privileges and the command. Until that drop nothing of the run's is active (ADR 22): not its environment, see
`moat_core.plan.environment`; not its working folder; and no file that a run could have written is read or run.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from moat_core.checks import is_utf8
from moat_core.errors import PlanError
from moat_core.plan.environment import adopt_env, make_env
from moat_core.plan.raw import raw_words
from moat_core.plan.root_files import find_covered
from moat_core.types import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moat_core.plan.plan import Plan
    from moat_core.types import InitStep

__all__ = ["READY", "make_init"]

READY = b"moat-init: ready\n"
"""What the main process of a run without a command prints once all steps are done."""

_LIMIT_BYTES = 120 * 1024
"""A single argument may have 128 KiB (Linux's MAX_ARG_STRLEN)."""

# A step is a subshell without `|| ...` around it: sh ignores `set -e` inside the left side of an `||`.
_STEP = """\
set +e
( set -eu
{env}
{script}
) </dev/null
moat_status=$?
set -e
[ $moat_status = 0 ] || {{ echo {message} >&2; exit 125; }}
"""

# A fork is 16 ms in gVisor, so this has none. The trap tells of a failure: `||` would switch `set -e` off here too.
_INLINE_STEP = """\
moat_step() {{
{script}
}}
trap {trap} EXIT
moat_step </dev/null
trap - EXIT
"""

_USER_STEP = """\
moat_status=0
{drop}/bin/sh -euc {script} moat-init </dev/null >&2 || moat_status=$?
[ $moat_status = 0 ] || {{ echo {message} "exit code $moat_status." >&2; exit 125; }}
"""

# Ours comes first, since the first entry of a uid is what getpwuid answers; images have users of the same uid.
_USER = """\
moat_passwd={passwd}
while IFS= read -r moat_line || [ -n "$moat_line" ]; do moat_passwd="$moat_passwd
$moat_line"; done </etc/passwd
printf '%s\\n' "$moat_passwd" >/etc/passwd
moat_found=
while IFS=: read -r _ _ moat_gid _; do [ "$moat_gid" != {gid} ] || moat_found=1; done </etc/group
[ -n "$moat_found" ] || echo {group} >>/etc/group
"""

# Busybox's own knows no users, and a link may be all that tells: it is one file with many names.
_FIND_SETPRIV = """\
for moat_setpriv in /usr/bin/setpriv /bin/setpriv ''; do
  [ ! "$moat_setpriv" -ef /bin/busybox ] && [ ! "$moat_setpriv" -ef /usr/bin/busybox ] || continue
  [ ! -x "$moat_setpriv" ] || break
done
[ -n "$moat_setpriv" ] || {
  echo "moat: the base image has no setpriv that can change users (Debian: util-linux; busybox's cannot)." >&2
  exit 125
}
"""

_GO_TO_WORK = """\
cd -- {folder} || {{ echo 'moat: the working folder cannot be entered.' >&2; exit 125; }}
unset OLDPWD
"""

# Last of all, as the run's user: its environment is there now, and decides what is found.
_COMMAND = """\
if ! command -v -- "$1" >/dev/null; then
  case $1 in
  */*) if [ -e "$1" ]; then echo "moat: $1: permission denied" >&2; exit 126; fi ;;
  esac
  echo "moat: $1: command not found" >&2; exit 127
fi
exec "$@"
"""


def make_init(plan: Plan, image_env: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the container's whole argv: ``/bin/sh -c TEXT moat-init [COMMAND …]``.

    It is to be started as root, with `hide_env` of `make_env` of the same arguments for its environment.

    Raises:
        PlanError: The text is too long to be an argument, or something is mounted over what root needs.
    """
    if problems := find_covered(plan):
        raise PlanError(problems)
    env = make_env(plan, image_env)
    text = ["set -eu", "umask 022", "cd /"]
    text += [_root_step(step, env) for step in plan.init_steps if not step.as_user]
    drop = ""
    if plan.user.uid != 0:
        text.append(_make_user(plan))
        drop = _make_drop(plan)
    text.append(_GO_TO_WORK.format(folder=shlex.quote(plan.working_dir)))
    adopt = adopt_env(env)
    start = f"{adopt}\n{_COMMAND}"
    text += [
        _USER_STEP.format(
            drop=drop,
            script=shlex.quote(f"{adopt}\n{step.script}"),
            message=shlex.quote(f"moat: {step.name} ended with"),
        )
        for step in plan.init_steps
        if step.as_user
    ]
    command = plan.command or ()
    if not all(map(is_utf8, command)):
        prelude, names = raw_words(command)
        text.append(f"{prelude}set -- {' '.join(names)}")
        command = ()
    if plan.command is None:
        text.append(f"printf %s {shlex.quote(READY.decode())}")
        text.append(f"exec {drop}sleep infinity")
    elif drop:
        text.append(f'exec {drop}/bin/sh -c {shlex.quote(start)} moat-init "$@"')
    else:
        text.append(start)
    script = "\n".join(text)
    _check_length(script)
    return ("/bin/sh", "-c", script, "moat-init", *command)


def _make_user(plan: Plan) -> str:
    """Return what gives the run's user a name and a home, and finds what drops privileges."""
    user, home = plan.user, shlex.quote(plan.user.home)
    ids = f"{user.uid}:{user.gid}"
    entries = _USER.format(
        gid=user.gid,
        passwd=shlex.quote(f"{user.name}:x:{ids}:{user.name}:{user.home}:/bin/sh"),
        group=shlex.quote(f"{user.name}:x:{user.gid}:"),
    )
    make_home = f"[ -d {home} ] || install -d -m 700 -o {user.uid} -g {user.gid} {home}"
    return f"{entries}\n{make_home}\n{_FIND_SETPRIV}"


def _make_drop(plan: Plan) -> str:
    groups = ",".join(str(gid) for gid in plan.groups)
    return (
        f'"$moat_setpriv" --reuid={plan.user.uid} --regid={plan.user.gid} '
        + (f"--groups={groups}" if groups else "--clear-groups")
        + " --inh-caps=-all "
    )


def _check_length(script: str) -> None:
    size = len(script.encode(errors="surrogateescape"))
    if size > _LIMIT_BYTES:
        problem = Problem(
            f"The init steps have {size} bytes; {_LIMIT_BYTES} is the most.",
            "Put large contents into the image or a mount.",
        )
        raise PlanError([problem])


def _root_step(step: InitStep, env: Mapping[str, str]) -> str:
    message = shlex.quote(f"moat: the init step '{step.name}' failed.")
    if step.inline:
        return _INLINE_STEP.format(script=step.script, trap=shlex.quote(f"echo {message} >&2; exit 125"))
    return _STEP.format(script=step.script, message=message, env=adopt_env(env, step.env))
