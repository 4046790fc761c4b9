"""What gVisor adds to a plan, and what its init steps do in a real shell."""

from __future__ import annotations

import subprocess

import pytest

from moat_core.config import ConfigSchema, load_config
from moat_core.errors import ConfigError
from moat_plugins import gvisor
from moat_plugins.gvisor.dns import PUBLIC_SERVERS, choose_servers, make_step, parse_servers
from moat_plugins.gvisor.intent import CHECK_STEP, DNS_STEP

GVISOR = "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016"
NEW_GVISOR = "Linux version 4.19.0-gvisor #1 SMP Sun Jan 10 15:06:54 PST 2016"
LINUX = "Linux version 6.18.44 (builder@host) (gcc 15.3.0) #1 SMP PREEMPT_DYNAMIC @0"


def warnings(plan):
    return [problem.message for problem in plan.problems if problem.severity == "warning"]


@pytest.mark.parametrize(
    ("text", "sandbox", "environ", "on"),
    [
        ("", None, {}, True),
        ("sandbox: gvisor", None, {}, True),
        ("sandbox: none", None, {}, False),
        ("", False, {}, False),
        ("sandbox: gvisor", False, {}, False),
        ("sandbox: none", True, {}, True),
        ("", None, {"MOAT_NO_SANDBOX": "1"}, False),
        ("", True, {"MOAT_NO_SANDBOX": "1"}, True),
    ],
)
def test_on_unless_the_user_says_otherwise(planned, text, sandbox, environ, on):
    """gVisor is asked for by default; flag beats environment beats file; without it there is one warning."""
    plan = planned(gvisor, text=text, sandbox=sandbox, environ=environ)
    assert plan.sandboxed is on
    assert plan.oci_runtime == ("runsc" if on else None)
    assert len([text for text in warnings(plan) if "without gVisor" in text]) == (0 if on else 1)
    assert bool(plan.freeze().init_steps) is on


def test_another_runtime_is_left_alone(planned):
    """A runtime that does not choose between OCI runtimes gets no gVisor and no warning."""
    plan = planned(gvisor, runtime="apple", sandbox=False)
    assert not plan.sandboxed
    assert plan.problems == []


def test_registered_name_is_an_option(planned):
    """Another name in daemon.json is taken from the section; nonsense is refused."""
    assert planned(gvisor, text="gvisor: {runtime: runsc-kvm}").oci_runtime == "runsc-kvm"
    with pytest.raises(ConfigError, match="OCI runtime's name"):
        planned(gvisor, text="gvisor: {runtime: 'run sc'}")


def test_dns_of_the_config_wins(planned):
    """Servers named by the user are used as they are."""
    plan = planned(gvisor, text="container: {dns: [192.0.2.7]}")
    assert plan.dns == ("192.0.2.7",)
    assert "nameserver 192.0.2.7" in {step.name: step.script for step in plan.freeze().init_steps}[DNS_STEP]


def test_no_network_needs_no_name_servers(planned):
    """Without a network nothing is said about name servers."""
    plan = planned(gvisor, network="none")
    assert plan.dns == ()
    assert [step.name for step in plan.freeze().init_steps] == [CHECK_STEP]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nameserver 10.0.0.1\n", ("10.0.0.1",)),
        ("# c\nsearch a b\nnameserver 127.0.0.53\nnameserver 10.0.0.1", ("10.0.0.1",)),
        ("nameserver ::1\nnameserver fe80::1%eth0\nnameserver 0.0.0.0\nnameserver 169.254.1.1", ()),
        ("nameserver 2001:db8::1\nnameserver 2001:db8::1", ("2001:db8::1",)),
        ("nameserver\nnameserver x\nnameserver 1;rm -rf /\n\0", ()),
        ("".join(f"nameserver 10.0.0.{n}\n" for n in range(1, 9)), ("10.0.0.1", "10.0.0.2", "10.0.0.3")),
    ],
)
def test_only_servers_that_a_container_reaches(text, expected):
    """Loopback, link-local, unspecified and broken addresses are dropped, and what no resolver would ask."""
    assert parse_servers(text) == expected


def test_systemd_stub_is_looked_behind(tmp_path):
    """Where resolv.conf names systemd's stub, its own servers are taken; with neither, public ones as a guess."""
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("nameserver 127.0.0.53\n")
    real.write_text("nameserver 10.1.1.1\n")
    assert choose_servers(str(stub), str(real)) == (("10.1.1.1",), False)
    assert choose_servers(str(stub), str(tmp_path / "none")) == (PUBLIC_SERVERS, True)


def run_step(script, **files):
    """Run an init step as `moat-init` does, on files of the test instead of the container's."""
    for path, mine in files.values():
        script = script.replace(path, str(mine))
    return subprocess.run(
        ["sh", "-c", f"( set -eu\n{script}\n) </dev/null"], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("kernel", "code"), [(GVISOR, 0), (NEW_GVISOR, 0), (LINUX, 125), ("", 125)])
def test_check_inside_fails_closed(planned, tmp_path, kernel, code):
    """The first step ends a container whose kernel is not gVisor's, and starts no process to find out."""
    step = planned(gvisor).freeze().init_steps[0]
    assert step.name == CHECK_STEP
    mine = tmp_path / "version"
    mine.write_text(kernel)
    done = run_step(f"PATH=/nowhere\n{step.script}", version=("/proc/version", mine))
    assert done.returncode == code
    assert ("not started" in done.stderr) is (code != 0)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "search corp.example\nnameserver 127.0.0.11\noptions ndots:0\n",
            "search corp.example\noptions ndots:0\nnameserver 10.0.0.1\nnameserver 10.0.0.2\n",
        ),
        ("nameserver 10.9.9.9\n", "nameserver 10.9.9.9\n"),
        ("", ""),
    ],
)
def test_engines_resolver_is_replaced_inside(tmp_path, before, after):
    """Docker's 127.0.0.11 gives way to the host's servers, search and options stay; else nothing is touched."""
    mine = tmp_path / "resolv.conf"
    mine.write_text(before)
    step = make_step(("10.0.0.1", "10.0.0.2"))
    done = run_step(f"PATH=/nowhere\n{step}", conf=("/etc/resolv.conf", mine))
    assert (done.returncode, done.stderr) == (0, "")
    assert mine.read_text() == after


def test_section_has_defaults():
    """Without any config the section is there."""
    schema = ConfigSchema()
    gvisor.moat_add_config(schema)
    from pathlib import Path

    from moat_plugins.gvisor.config import GvisorConfig

    assert load_config(schema, Path("/nonexistent"), environ={}).section(GvisorConfig).runtime == "runsc"
