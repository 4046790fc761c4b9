"""The router, Caddy and nginx side by side on one core, each doing the same host routing, and what is behind them.

As a program: ``rivals.py router CONFIG`` is the router, ``rivals.py echo PORT`` a service that switches protocols and
echoes. Everything that `rivals` starts it stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from moat_core.errors import RuntimeUnavailable

HOST = "web.app1.localhost"
SIZES = {"100 B": 100, "10 KB": 10_240, "1 MB": 1_048_576}
CORE, OTHER_CORE = 0, 1
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def check():
    """Say plainly what is missing.

    Raises:
        RuntimeUnavailable: Something is.
    """
    missing = [name for name in ("caddy", "nginx", "wrk") if shutil.which(name, path=path()) is None]
    if missing:
        raise RuntimeUnavailable(
            f"The router is measured against others, and {', '.join(missing)} cannot be found.",
            hint=f"On Debian and Ubuntu: sudo apt install --no-install-recommends {' '.join(missing)}.",
        )
    if len(os.sched_getaffinity(0)) < 2:
        raise RuntimeUnavailable(
            "The router is measured on a core of its own.", hint="Use a machine with two cores or more."
        )


def path():
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


class Process:
    """One of the rivals: its ports and the process that does the work."""

    def __init__(self, plain, secure, popen, worker=None):
        self.plain, self.secure, self.popen = plain, secure, popen
        self.pid = worker or popen.pid

    def cpu_s(self):
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_bytes(self):
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def certify(folder):
    """Write a certificate for HOST to FOLDER."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST), x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def nginx_config(folder, body, core):
    folder.mkdir()
    text = f"""
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
worker_cpu_affinity {"01" if core == CORE else "10"}; worker_rlimit_nofile 20000;
events {{ worker_connections 19000; }}
http {{
  access_log off; keepalive_requests 100000000; sendfile on; tcp_nopush on;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e; default_type text/plain;
  {body}
}}
"""
    (folder / "nginx.conf").write_text(text)
    return [
        shutil.which("nginx", path=path()),
        "-p",
        str(folder),
        "-e",
        f"{folder}/error.log",
        "-c",
        f"{folder}/nginx.conf",
    ]


def nginx_service(folder, port):
    files = folder / "files"
    files.mkdir()
    for name, size in SIZES.items():
        (files / name.replace(" ", "")).write_bytes(b"x" * size)
    return nginx_config(
        folder / "service", f"server {{ listen 127.0.0.1:{port} backlog=4096; root {files}; }}", OTHER_CORE
    )


def nginx_proxy(folder, plain, secure, service, echo):
    body = f"""
  map $host $place {{ {HOST} web; ws.app1.localhost ws; default none; }}
  map $http_upgrade $hop {{ default upgrade; '' ''; }}
  upstream web {{ server 127.0.0.1:{service}; keepalive 512; keepalive_requests 100000000; }}
  upstream ws {{ server 127.0.0.1:{echo}; }}
  upstream none {{ server 127.0.0.1:1; }}
  ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
  server {{
    listen 127.0.0.1:{plain} backlog=4096; listen 127.0.0.1:{secure} ssl backlog=4096;
    location / {{
      proxy_pass http://$place; proxy_http_version 1.1;
      proxy_set_header Host $http_host; proxy_set_header Connection $hop; proxy_set_header Upgrade $http_upgrade;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Port $server_port;
    }}
  }}"""
    return nginx_config(folder / "nginx", body, CORE)


def caddy_config(folder, plain, secure, service, echo):
    def to(port):
        return {
            "handler": "reverse_proxy",
            "upstreams": [{"dial": f"127.0.0.1:{port}"}],
            "transport": {"protocol": "http", "keep_alive": {"max_idle_conns": 4096, "max_idle_conns_per_host": 1024}},
        }

    routes = [
        {"match": [{"host": [host]}], "handle": [to(port)], "terminal": True}
        for host, port in ((HOST, service), ("ws.app1.localhost", echo))
    ]
    off = {"disable": True}
    config = {
        "admin": {"disabled": True, "config": {"persist": False}},
        "logging": {"logs": {"default": {"level": "ERROR"}}},
        "apps": {
            "http": {
                "servers": {
                    "plain": {"listen": [f"127.0.0.1:{plain}"], "routes": routes, "automatic_https": off},
                    "secure": {
                        "listen": [f"127.0.0.1:{secure}"], "routes": routes, "automatic_https": off,
                        "tls_connection_policies": [{"default_sni": HOST}],
                    },
                }
            },
            "tls": {"certificates": {"load_files": [{"certificate": f"{folder}/cert.pem", "key": f"{folder}/key.pem"}]}},
        },
    }  # fmt: skip
    (folder / "caddy.json").write_text(json.dumps(config))
    return ["caddy", "run", "--config", f"{folder}/caddy.json"]


@contextlib.contextmanager
def rivals():
    """Start them all; yield name -> Process."""
    check()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moat-bench-")))
        folder.chmod(0o755)  # nginx's worker is somebody else
        log = stack.enter_context((folder / "log").open("wb"))

        def start(argv, core, **environ):
            environ = {**os.environ, "PATH": path(), "HOME": str(folder), "XDG_DATA_HOME": str(folder), **environ}
            argv = ["taskset", "-c", str(core), *argv]
            popen = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ)
            stack.callback(stop, popen)
            return popen

        certify(folder)
        service, echo = free_port(), free_port()
        start(nginx_service(folder, service), OTHER_CORE)
        start([sys.executable, __file__, "echo", str(echo)], OTHER_CORE)
        found = {}
        ports = free_port(), free_port()
        (folder / "router.json").write_text(
            json.dumps([*ports, {HOST: service, "ws.app1.localhost": echo}, f"{folder}/cert.pem", f"{folder}/key.pem"])
        )
        found["moat"] = Process(
            ports[0], ports[0], start([sys.executable, __file__, "router", f"{folder}/router.json"], CORE)
        )
        ports = free_port(), free_port()
        found["Caddy"] = Process(*ports, start(caddy_config(folder, *ports, service, echo), CORE, GOMAXPROCS="1"))
        ports = free_port(), free_port()
        nginx = start(nginx_proxy(folder, *ports, service, echo), CORE)
        for each in (service, echo, ports[0], *(process.plain for process in found.values())):
            wait_for(each, folder / "log")
        found["nginx"] = Process(*ports, nginx, child_of(nginx.pid))
        yield found


def stop(popen):
    popen.send_signal(signal.SIGTERM)
    try:
        popen.wait(5)
    except subprocess.TimeoutExpired:
        popen.kill()
        popen.wait()


def child_of(pid):
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def wait_for(port, log):
    end = time.monotonic() + 15
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > end:
                raise RuntimeUnavailable(
                    "One of the programs to measure does not start.", hint=log.read_text(errors="replace")[-2000:]
                ) from None
            time.sleep(0.05)
        else:
            return


async def router(config):
    """The proxy as it is, over a store with as many runs as a busy machine has."""
    from moat_core.api import Moat
    from moat_core.http.serve import serve
    from moat_plugins.routing.router import Router
    from moat_plugins.routing.runs import Runs
    from moat_plugins.routing.table import Table

    plain, _, places, certificate, key = json.loads(Path(config).read_text())
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        locks = write_runs(home, {f"web.app{number}.localhost": 1 for number in range(50, 100)} | places)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
        tls.set_alpn_protocols(["http/1.1"])
        tls.num_tickets = 1
        listener = socket.create_server(("127.0.0.1", plain), backlog=4096)
        table = Table(home)
        moat = Moat(home=home, keep_going=True)
        proxy = Router(table, Runs(moat, table), version="bench", port=plain, tls=tls, idle_s=600)
        async with serve(proxy, [listener], drain_s=0):
            await asyncio.Event().wait()
        del locks


def write_runs(path, places):
    """Write what live runs write into the ledger, and return the locks that say that they live.

    Args:
        places: Host name -> port on this machine.
    """
    from moat_core.ledger.resource import to_row
    from moat_core.store import Home, Store
    from moat_core.store.paths import Lock
    from moat_plugins.routing.resources import AgentName, Route

    agents = {}
    for host, port in places.items():
        endpoint, agent, _ = host.split(".")
        agents.setdefault(agent, {})[endpoint] = port
    home = Home(path)
    home.make()
    locks = []
    with contextlib.closing(Store(home)) as store:
        for number, (agent, ports) in enumerate(agents.items()):
            run_id = f"run-{number:08x}"
            locks.append(Lock(home.run_lock(run_id)))
            locks[-1].acquire()
            routes = [Route(agent, endpoint, port, "127.0.0.1", port) for endpoint, port in ports.items()]
            for resource in (AgentName(agent, ports), *routes):
                store.set_state(store.add_intent(run_id, resource.kind, to_row(resource)), "live")
    return locks


class Echo(asyncio.Protocol):
    """Switches protocols, and sends back what comes."""

    def connection_made(self, transport):
        self.transport = transport
        self.head = b""

    def data_received(self, data):
        if self.head is None:
            self.transport.write(data)
            return
        self.head += data
        if b"\r\n\r\n" in self.head:
            self.head = None
            self.transport.write(SWITCH)


async def echo(port):
    await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", int(port), backlog=1024)
    await asyncio.Event().wait()


if __name__ == "__main__":
    from moat_core.http.serve import run

    with contextlib.suppress(KeyboardInterrupt):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        run({"router": router, "echo": echo}[sys.argv[1]](sys.argv[2]))
