"""`moat-init`: the sh text that turns a started container into the run's.

It is assembled per run from the plan and handed to the container as the argument of ``/bin/sh -c``, so it is there
before the start, needs no image of its own and leaves nothing behind: its last line is an ``exec``. The engine's
init (tini) above it is PID 1, reaps zombies and forwards signals.

Order: the plugins' steps as root, the user's passwd entry and home, the steps as that user, then the drop of
privileges and the command.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from moat_core.checks import is_utf8
from moat_core.errors import PlanError
from moat_core.plan.raw import raw_words
from moat_core.types import Problem

if TYPE_CHECKING:
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

_MISSING = """\
if ! command -v -- "$1" >/dev/null; then
  case $1 in
  */*) if [ -e "$1" ]; then echo "moat: $1: permission denied" >&2; exit 126; fi ;;
  esac
  echo "moat: $1: command not found" >&2; exit 127
fi
"""


def make_init(plan: Plan) -> tuple[str, ...]:
    """Return the container's whole argv: ``/bin/sh -c TEXT moat-init [COMMAND …]``.

    Raises:
        PlanError: The text is too long to be an argument.
    """
    user, home = plan.user, shlex.quote(plan.user.home)
    text = ["set -eu", "umask 022"]
    text += [_root_step(step) for step in plan.init_steps if not step.as_user]
    drop = ""
    if user.uid != 0:
        ids = f"{user.uid}:{user.gid}"
        text.append(
            _USER.format(
                gid=user.gid,
                passwd=shlex.quote(f"{user.name}:x:{ids}:{user.name}:{user.home}:/bin/sh"),
                group=shlex.quote(f"{user.name}:x:{user.gid}:"),
            )
        )
        text.append(f"[ -d {home} ] || install -d -m 700 -o {user.uid} -g {user.gid} {home}")
        groups = ",".join(str(gid) for gid in plan.groups)
        drop = (
            f"setpriv --reuid={user.uid} --regid={user.gid} "
            + (f"--groups={groups}" if groups else "--clear-groups")
            + " --inh-caps=-all "
        )
        text.append(
            "command -v setpriv >/dev/null || "
            "{ echo 'moat: the base image has no setpriv (Debian: util-linux).' >&2; exit 125; }"
        )
    text += [
        _USER_STEP.format(
            drop=drop, script=shlex.quote(step.script), message=shlex.quote(f"moat: {step.name} ended with")
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
    else:
        text.append(_MISSING + f'exec {drop}"$@"')
    script = "\n".join(text)
    size = len(script.encode(errors="surrogateescape"))
    if size > _LIMIT_BYTES:
        problem = Problem(
            f"The init steps have {size} bytes; {_LIMIT_BYTES} is the most.",
            "Put large contents into the image or a mount.",
        )
        raise PlanError([problem])
    return ("/bin/sh", "-c", script, "moat-init", *command)


def _root_step(step: InitStep) -> str:
    message = shlex.quote(f"moat: the init step '{step.name}' failed.")
    if step.inline:
        return _INLINE_STEP.format(script=step.script, trap=shlex.quote(f"echo {message} >&2; exit 125"))
    return _STEP.format(script=step.script, message=message)
