"""``moat proxy …`` and ``moat open``."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moat_core.config import left_out
from moat_core.errors import HostError, RunOver, UnknownName, UsageError
from moat_plugins.routing.config import ProxyConfig
from moat_plugins.routing.pages.state import OVER
from moat_plugins.routing.process import User, ask, check_port, ensure, find, find_differences, make_folder, stop
from moat_plugins.routing.sockets import PortTaken, bind

if TYPE_CHECKING:
    from moat_core.api import Moat, RunInfo
    from moat_plugins.routing.process import Running

__all__ = ["open_", "proxy"]

_PORT = click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 picks a free one.")
_JSON = click.option("--json", "as_json", is_flag=True, help="A JSON object on stdout, nothing else.")


@click.group()
def proxy() -> None:
    """Start, stop and look at what serves http://ENDPOINT.AGENT.localhost.

    The first run with ports starts it by itself, and it ends some time after the last one. One serves all runs of a
    user.
    """


@proxy.command()
@_PORT
@click.option("--foreground", is_flag=True, help="Stay here until Ctrl-C, and do not end for want of runs.")
@_JSON
def start(*, port: int | None, foreground: bool, as_json: bool) -> None:
    """Start it, if it does not run.

    `sudo moat proxy start --port 80` binds the port as root and goes on as you.
    """
    user = _caller()
    home = _home(user)
    section = _section(user)
    port = section.port if port is None else port
    if foreground:
        _serve_here(home, port, section, user, as_json=as_json)
        return
    running = _run(lambda: ensure(home, port, _options(section), user))
    for problem in find_differences(running, _options(section)):
        click.echo(f"warning: {problem.message}\n  {problem.hint}", err=True)
    _tell(running, as_json=as_json)


@proxy.command("stop")
def stop_() -> None:
    """End it. Runs go on, and are reached again when it is started again."""
    was = _run(lambda: stop(_home(_caller())))
    click.echo(f"The proxy on port {was.port} has ended." if was else "The proxy does not run.", err=True)


@proxy.command()
@_PORT
@_JSON
def restart(*, port: int | None, as_json: bool) -> None:
    """End it and start it on the same port, or another."""
    user = _caller()
    home, section = _home(user), _section(user)
    was = find(home)
    if was is not None:
        _try(was, port)
    _run(lambda: stop(home))
    port = port if port is not None else was.port if was else section.port
    running = _run(lambda: ensure(home, port, _options(section), user))
    _tell(running, as_json=as_json)


@proxy.command()
@_JSON
def status(*, as_json: bool) -> None:
    """Tell whether it runs, where, and what it serves. The exit code is 1 if it does not run."""
    running = find(_home(_caller()))
    if running is None:
        click.echo(json.dumps({"running": False})) if as_json else click.echo("The proxy does not run.")
        sys.exit(1)
    told = ask(running)
    if as_json:
        click.echo(json.dumps({"running": True, **running.to_json(), "url": running.base, **told}, indent=2))
        return
    click.echo(f"The proxy runs at {running.base} (pid {running.pid}, for {_span(time.time() - running.started)}).")
    if "error" in told:
        click.echo(f"It {told['error']}. `moat proxy restart` may help.")
    for run in told.get("runs", []):
        for endpoint in run["endpoints"]:
            click.echo(f"  {endpoint['url']} is port {endpoint['port']} of {run['name']} ({run['id']})")


@proxy.group()
def ca() -> None:
    """Manage the CA behind https.

    The certificate authority signs for https://ENDPOINT.AGENT.localhost. It can sign for names under localhost only,
    and its key never leaves this machine.
    """


@ca.command()
def path() -> None:
    """Print the path of its certificate."""
    click.echo(_authority() / "ca.pem")


@ca.command("trust")
def trust_() -> None:
    """Have this machine's browsers and tools trust it."""
    from moat_plugins.routing.trust import trust

    _report(trust(str(_authority() / "ca.pem")))


@ca.command("untrust")
def untrust_() -> None:
    """Take it out of everything that `moat proxy ca trust` put it into."""
    from moat_plugins.routing.trust import untrust

    _report(untrust(str(_authority() / "ca.pem")))


@click.command("open")
@click.argument("agent", required=False)
@click.argument("endpoint", required=False)
@click.option("--print", "only_print", is_flag=True, help="Print the address, and open nothing.")
def open_(agent: str | None, endpoint: str | None, *, only_print: bool) -> None:
    """Open an endpoint of a run in the browser.

    AGENT is an id, a unique id prefix or a name: the newest run with ports, if it is left out. ENDPOINT is its default
    one, or the page that lists them.
    """
    url = _run(lambda: _find_url(agent, endpoint))
    if only_print:
        click.echo(url)
        return
    import webbrowser

    click.echo(url, err=True)
    if not webbrowser.open(url):
        raise HostError("No browser was found on this machine.", hint=f"Open it yourself: {url}")


async def _find_url(agent: str | None, endpoint: str | None) -> str:
    """Return the address; the proxy is started if it is not there, and may be elsewhere than when the run began."""
    from moat_core.api import Moat

    async with Moat(keep_going=True) as moat:
        info = await _find_run(moat, agent)
        if endpoint is not None and endpoint not in info.urls:
            raise UnknownName(
                f"The run {info.name} has no endpoint '{endpoint}'.", hint=f"It has: {', '.join(sorted(info.urls))}."
            )
        section = _section(None)
        home = Path(moat.home.path)
        running = find(home) or await ensure(home, section.port, _options(section))
    endpoint = endpoint or (next(iter(info.urls)) if len(info.urls) == 1 else "")
    plain = info.urls.get(endpoint or next(iter(info.urls)), "")
    if f".{info.name}.localhost" not in plain:
        return plain  # it was started without routing
    scheme, _, rest = running.base.partition("://")
    return f"{scheme}://{endpoint}{'.' if endpoint else ''}{info.name}.{rest}"


async def _find_run(moat: Moat, agent: str | None) -> RunInfo:
    if agent is None:
        found = [info for info in await moat.list() if info.urls]
        if not found:
            raise UnknownName("No run with ports is up.", hint="Name some under `ports:` in agent.yaml.")
        return found[0]
    info = await moat.find(agent)
    if info.state in OVER:
        raise RunOver(f"The run {info.name} ({info.id}) is over.", hint="`moat list` shows those that are not.")
    if not info.urls:
        raise UsageError(f"The run {info.name} has no endpoints.", hint="They are named under `ports:` in agent.yaml.")
    return info


def _try(was: Running, port: int | None) -> None:
    """What cannot be had is told while the other one still runs: its own port, too, may take root to listen on."""
    try:
        for listener in bind(was.port if port is None else port):
            listener.close()
    except PortTaken:
        if port is not None and port != was.port:
            raise


def _options(section: ProxyConfig) -> dict[str, Any]:
    return {"idle": section.idle, "timeout": section.timeout}


def _section(user: User | None) -> ProxyConfig:
    """Read the config, that of USER: as root it would be another's, and a file that they must not read told to them."""
    from moat_core.api import Moat

    with _as(user):
        config = Moat(keep_going=True).config(Path.cwd(), config="trusted")
    if (warning := left_out(config, "proxy")) is not None:
        click.echo(f"warning: {warning.message}\n  {warning.hint}", err=True)
    return config.section(ProxyConfig)


@contextmanager
def _as(user: User | None) -> Iterator[None]:
    """Be USER for a while; nobody else if it is ``None``."""
    if user is None:
        yield
        return
    environ, groups, gid = dict(os.environ), os.getgroups(), os.getegid()
    try:
        os.environ.clear()
        os.environ.update(user.environ)
        os.setgroups(user.groups)
        os.setegid(user.gid)
        os.seteuid(user.uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)
        os.environ.clear()
        os.environ.update(environ)


def _home(user: User | None) -> Path:
    from moat_core.api import default_home

    return Path(default_home(user.environ if user else os.environ))


def _caller() -> User | None:
    """Return who called ``sudo``, if somebody did: what root binds is that user's to serve."""
    uid = os.environ.get("SUDO_UID", "")
    if os.geteuid() != 0 or not uid.isdigit() or int(uid) == 0:
        return None
    import pwd

    try:
        entry = pwd.getpwuid(int(uid))
    except KeyError as error:
        raise HostError(f"There is no user {uid}, who called sudo.", hint="Start it without sudo.") from error
    environ = {**os.environ, "HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}
    for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "SUDO_UID", "SUDO_GID"):
        environ.pop(name, None)
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return User(entry.pw_uid, entry.pw_gid, groups, environ)


def _serve_here(home: Path, port: int | None, section: ProxyConfig, user: User | None, *, as_json: bool) -> None:
    from moat_core.http.serve import run
    from moat_plugins.routing.config import DEFAULT_PORT
    from moat_plugins.routing.serve import run_proxy

    if (running := find(home)) is not None:
        check_port(running, port)
        raise UsageError(f"The proxy runs already, on port {running.port}.", hint="`moat proxy stop` ends it.")
    sockets = bind(DEFAULT_PORT if port is None else port)
    if user is not None:
        os.setgroups(user.groups)
        os.setgid(user.gid)
        os.setuid(user.uid)
        os.environ.clear()
        os.environ.update(user.environ)
    options = {"idle": None, "timeout": section.timeout}
    if not run(run_proxy(home, sockets, options, lambda running: _tell(running, as_json=as_json))):
        raise UsageError("The proxy runs already.", hint="`moat proxy status` tells where, `moat proxy stop` ends it.")


def _tell(running: Running, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**running.to_json(), "url": running.base}, indent=2))
    else:
        click.echo(f"The proxy runs at {running.base} (pid {running.pid}).", err=True)


def _authority() -> Path:
    from moat_plugins.routing.certificates import open_ca

    if _caller() is not None:
        raise UsageError(
            "The CA is its user's: root would make files in another's folder.",
            hint="Run it without sudo; what needs root is told, command by command.",
        )
    folder = make_folder(_home(None)) / "ca"
    open_ca(str(folder))
    return folder


def _report(results: Any) -> None:
    failed = False
    for result in results:
        click.echo(f"{result.store}: {result.message}")
        if result.fix:
            click.echo(f"  {result.fix}")
        failed = failed or result.status == "failed"
    if failed:
        sys.exit(125)


def _span(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _run(make: Any) -> Any:
    import anyio

    return anyio.run(make)
