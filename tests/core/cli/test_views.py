"""`moat status`, `doctor`, `plugins`, `hooks`, `config`, `system`, `version`, `completion` and what holds for all verbs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moat_core import __version__
from moat_core.cli.commands import doctor
from moat_core.cli.group import BUILTIN
from moat_core.hooks.manager import PluginManager

MOAT = [sys.executable, "-m", "moat_core.cli"]
VERBS = [info.name for info in BUILTIN]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(machine, moat, verb):
    """--help says what it does and how it is used, in lines that fit."""
    result = moat(verb, "--help")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith(f"Usage: moat {verb}")
    if verb not in {"config", "system"}:  # groups: their verbs have them
        assert f"moat {verb}" in result.out.split("\n", 1)[1]
    assert all(len(line) <= 100 for line in result.out.splitlines())


@pytest.mark.parametrize("verb", [["config", "show"], ["config", "check"], ["config", "schema"], ["system", "images"],
                                  ["system", "containers"], ["system", "networks"]], ids=" ".join)  # fmt: skip
def test_every_verb_of_a_group_has_help(machine, moat, verb):
    """And the group lists it."""
    assert moat(*verb, "-h").status == 0
    assert verb[1] in moat(verb[0], "--help").out


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_option_is_exit_2(machine, moat, verb):
    """One sentence, no traceback."""
    result = moat(verb, "--no-such-option")
    assert (result.status, result.out) == (2, "")
    assert "no-such-option" in result.err


def test_an_unknown_verb_names_the_nearest(machine, moat):
    """Exit 2."""
    result = moat("stauts")
    assert (result.status, "status" in result.err) == (2, True)


def test_status_sums_up(machine, moat):
    """Runs by state, what plugins hold, disk, and what clean would remove."""
    machine.add_run("fox")
    machine.add_run("owl", live=False, state="exited", kept=True)
    leftover = {"kind": "container", "name": "c-1", "reason": "Nobody knows it.", "size_bytes": 3000}
    machine.set_engine(leftovers=[leftover])
    result = moat("status")
    assert result.status == 0
    for words in (
        "1 running",
        "1 kept",
        "12 MB",
        "shared by runs",
        "container c-1  3.0 kB  Nobody knows it.",
        "moat clean",
    ):
        assert words in result.out
    assert "\x1b" not in result.out


def test_status_json_is_alone_and_complete(machine, moat):
    """Every part under its key."""
    machine.add_run("fox")
    data = moat("status", "--json").json
    assert set(data) == {"home", "runs", "sections", "leftovers", "dead_runs", "problems"}
    assert [run["state"] for run in data["runs"]] == ["running"]
    assert data["sections"]["images"][0]["data"] == {"size_bytes": 12_000_000}
    assert data["sections"]["disk"][0]["data"]["size_bytes"] > 0


def test_status_without_an_engine_says_so(machine, moat):
    """Exit 0, what is known is shown, the reason once on stderr."""
    machine.add_run("fox")
    machine.stop_engine()
    result = moat("status")
    assert (result.status, "1 unknown" in result.out) == (0, True)
    assert result.err.count("No fake engine answers") == 1
    data = moat("status", "--json").json
    assert ["No fake engine answers" in problem["message"] for problem in data["problems"]] == [True]


def test_doctor_says_ok_warning_and_error(machine, moat):
    """A warning alone is exit 0; an error is exit 1, with the command that mends it."""
    well = moat("doctor")
    assert (well.status, "warning" in well.out, "-> clean it" in well.out) == (0, True, True)
    machine.stop_engine()
    ill = moat("doctor")
    assert (ill.status, "-> fake-engine start" in ill.out) == (1, True)
    checks = moat("doctor", "--json").json
    assert [set(check) for check in checks] == [{"plugin", "name", "status", "message", "fix"}] * len(checks)
    assert [check["fix"] for check in checks if check["status"] == "error"] == ["fake-engine start"]


def test_doctor_names_every_problem_of_the_config(machine, moat, tmp_path):
    """Of the folder that it is called in."""
    (tmp_path / "agent.yaml").write_text("nmae: fox\nports: 3\n")
    result = moat("doctor", "--json")
    messages = [check["message"] for check in result.json if check["name"] == "config"]
    assert result.status == 1
    assert len(messages) == 2
    assert "agent.yaml:1" in messages[0]
    assert "agent.yaml:2" in messages[1]


def test_doctor_works_when_a_plugin_is_broken(machine, moat, monkeypatch):
    """The broken one is an error with the way round; the others are asked."""
    monkeypatch.setenv("MOAT_PLUGINS", "fake_engine,no_such_plugin")
    result = moat("doctor")
    assert result.status == 1
    assert "MOAT_DISABLE=no_such_plugin" in result.out
    assert "fake engine" in result.out


def test_doctor_finds_dead_owners_and_undoes_nothing(machine, moat):
    """It only looks."""
    run_id = machine.add_run("fox")
    machine.die(run_id)
    result = moat("doctor")
    assert f"The owners of {run_id} died." in result.out
    assert machine.engine["things"] == [f"c-{run_id}"]


def test_doctor_finds_a_home_that_cannot_be_written(machine, moat, monkeypatch, tmp_path):
    """Exit 1 and what to do."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOAT_HOME", str(tmp_path / "file"))
    result = moat("doctor")
    assert (result.status, "MOAT_HOME" in result.out) == (1, True)


@pytest.mark.parametrize(("free", "status"), [(10**10, "ok"), (5 * 10**8, "warning"), (10**7, "error")])
def test_doctor_looks_at_the_disk(monkeypatch, tmp_path, free, status):
    """Little is a warning, next to nothing an error."""
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, free))
    assert doctor._space(str(tmp_path / "not" / "yet")).status == status


@pytest.mark.parametrize(("version", "status"), [((3, 10, 9), "error"), ((3, 11, 0), "ok"), ((3, 14, 0), "ok")])
def test_doctor_looks_at_python(monkeypatch, version, status):
    """3.11 or newer."""
    monkeypatch.setattr(sys, "version_info", version)
    assert doctor._python().status == status


def test_doctor_looks_for_a_shell(monkeypatch):
    """The watchdog is one."""
    assert doctor._shell().status == "ok"
    monkeypatch.setattr(os, "access", lambda path, mode: path != "/bin/sh")
    assert doctor._shell().status == "error"


def test_plugins_shows_loaded_disabled_and_broken(machine, moat, monkeypatch):
    """And why; although something is broken."""
    monkeypatch.setenv("MOAT_PLUGINS", "fake_engine,no_such_plugin")
    result = moat("plugins")
    assert result.status == 0
    lines = {
        line.split()[0]: line.split()[1] for line in result.out.splitlines()[1:] if line and ":" not in line.split()[0]
    }
    assert (lines["fake_engine"], lines["docker"], lines["no_such_plugin"]) == ("loaded", "disabled", "broken")
    assert "no_such_plugin: Plugin 'no_such_plugin'" in result.out
    states = {each["name"]: each["state"] for each in moat("plugins", "--json").json}
    assert states["no_such_plugin"] == "broken"
    assert {each["name"]: each["state"] for each in moat("--without", "fake_engine", "plugins", "--json").json}[
        "fake_engine"
    ] == "disabled"


def test_a_broken_plugin_hinders_no_listing(machine, moat, monkeypatch):
    """`list`, `status`, `stop`, `clean` go on without it, with a warning."""
    monkeypatch.setenv("MOAT_PLUGINS", "fake_engine,no_such_plugin")
    machine.add_run("fox", live=False, state=None)
    for arguments in (["-v", "list"], ["status"], ["stop", "fox"], ["clean", "-f"]):
        result = moat(*arguments)
        assert (result.status, result.err.count("Going without a broken plugin")) == (0, 1), arguments


@pytest.mark.parametrize("verb", ["version", "plugins", "list", "doctor"])
def test_a_misspelt_without_is_told_by_every_verb(machine, moat, verb):
    """Exit 2 with the nearest name."""
    result = moat("--without", "dokcer", verb)
    assert (result.status, result.out, "Known: docker." in result.err) == (2, "", True)


def test_hooks_lists_all_in_the_order_of_a_life(machine, moat):
    """With kind and implementers."""
    found = moat("hooks", "--json").json
    assert [each["name"] for each in found] == list(PluginManager().hook_names)
    assert {each["kind"] for each in found} == {"collect", "first", "context", "event"}
    leftovers = next(each for each in found if each["name"] == "moat_find_leftovers")
    assert leftovers["implementers"] == ["fake_engine"]
    assert len(moat("hooks").out.splitlines()) == len(found) + 1


def test_hooks_shows_one_as_its_contract(machine, moat):
    """Signature, kind, documentation, implementers; the prefix may be left out."""
    result = moat("hooks", "find_leftovers")
    assert result.out.startswith(
        "async def moat_find_leftovers(upkeep: Upkeep) -> Iterable[Leftover]\n  collect, phase upkeep\n"
    )
    assert "1. fake_engine" in result.out
    assert "upkeep.is_live(run_id)" in result.out
    wrong = moat("hooks", "moat_find_leftover")
    assert (wrong.status, "moat_find_leftovers" in wrong.err) == (2, True)


def test_config_show_says_where_values_come_from(machine, moat, monkeypatch, tmp_path):
    """File, environment, default."""
    (tmp_path / "agent.yaml").write_text("name: fox\nenv:\n  A: b\n")
    monkeypatch.setenv("MOAT_RUNTIME", "fake")
    found = {each["key"]: (each["value"], each["origin"]) for each in moat("config", "show", "--json").json}
    assert found["name"] == ("fox", "agent.yaml:1")
    assert found["env.A"] == ("b", "agent.yaml:3")
    assert found["runtime"] == ("fake", "environment MOAT_RUNTIME")
    assert found["interactive"] == (False, "default")
    assert "agent.yaml:1" in moat("config", "show", str(tmp_path)).out


def test_config_check_names_every_problem(machine, moat, tmp_path):
    """Exit 2; a valid one is exit 0 and said."""
    (tmp_path / "agent.yaml").write_text("nmae: fox\ninteractive: perhaps\n")
    wrong = moat("config", "check")
    assert (wrong.status, wrong.out, wrong.err.count("agent.yaml:")) == (2, "", 2)
    (tmp_path / "agent.yaml").write_text("name: fox\n")
    right = moat("config", "check", str(tmp_path))
    assert (right.status, "agent.yaml is valid." in right.out) == (0, True)


@pytest.mark.parametrize("path", ["nowhere", "file"])
def test_config_of_what_is_no_folder(machine, moat, tmp_path, path):
    """Exit 2, one sentence."""
    (tmp_path / "file").write_text("")
    for verb in ("show", "check"):
        assert moat("config", verb, path).status == 2


def test_config_schema_is_json_schema(machine, moat):
    """With the base keys."""
    schema = moat("config", "schema").json
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert {"name", "env", "mounts"} <= set(schema["properties"])


def test_system_shows_what_engines_hold(machine, moat):
    """Containers of every role and state; images and networks as their plugins tell."""
    run_id = machine.add_run("fox")
    machine.add_container("run-00000000", "helper", "exited", role="buildkit")
    found = moat("system", "containers", "--json").json
    assert [(each["run_id"], each["role"], each["state"]) for each in found] == [
        (run_id, "main", "running"), ("run-00000000", "buildkit", "exited"),
    ]  # fmt: skip
    assert moat("system", "images", "--json").json[0]["size_bytes"] == 12_000_000
    assert moat("system", "networks").out.splitlines()[1].split() == ["moat", "shared", "by", "runs"]
    assert "\x1b" not in moat("system", "images").out


@pytest.mark.parametrize("what", ["containers", "images", "networks"])
def test_system_without_an_engine_is_125(machine, moat, what):
    """Nothing could be answered."""
    machine.add_run("fox")
    machine.stop_engine()
    result = moat("system", what, "--json")
    assert (result.status, result.json, "No fake engine answers" in result.err) == (125, [], True)


def test_version(machine, moat):
    """Quick, long and JSON say the same."""
    assert moat("version").out == f"moat {__version__}\n"
    assert moat("--version").out == f"moat {__version__}\n"
    assert moat("-v", "version").out == f"moat {__version__}\n"
    assert moat("version", "--json").json["version"] == __version__


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_us(machine, moat, shell):
    """Each asks moat for the words."""
    result = moat("completion", shell)
    assert (result.status, f"_MOAT_COMPLETE={shell}_complete" in result.out) == (0, True)


def test_completion_of_an_unknown_shell(machine, moat):
    """Exit 2, naming the three."""
    result = moat("completion", "tcsh")
    assert (result.status, "fish" in result.err) == (2, True)


def complete(*words):
    environ = os.environ | {
        "_MOAT_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["moat", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(MOAT, env=environ, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_completion_of_verbs_options_and_runs(machine):
    """Names of runs where a RUN is wanted, ids once `run-` is typed, without an engine."""
    run_id = machine.add_run("tidy-otter", live=False, state=None)
    machine.stop_engine()
    assert complete("sta") == ["status"]
    assert "--json" in complete("list", "--")
    for verb in ("logs", "exec", "stop", "destroy"):
        assert complete(verb, "ti") == ["tidy-otter"]
        assert complete(verb, "run-") == [run_id]


def test_completion_is_silent_about_a_broken_home(machine, monkeypatch, tmp_path):
    """Nothing to offer, nothing to say."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOAT_HOME", str(tmp_path / "file"))
    assert complete("stop", "") == []


def test_reading_verbs_write_nothing(machine, moat):
    """On a machine that never ran anything no folder is made."""
    for arguments in (["list"], ["status"], ["doctor"], ["plugins"], ["hooks"], ["config", "show"], ["system", "containers"],
                      ["logs"], ["clean", "--dry-run"]):  # fmt: skip
        moat(*arguments)
        assert not Path(machine.home.path).exists(), arguments


def test_json_is_alone_on_stdout(machine, moat):
    """Whatever else is said goes to stderr."""
    machine.add_run("fox")
    machine.die(machine.add_run("dead"))
    for arguments in (["list", "-a", "--json"], ["status", "--json"], ["doctor", "--json"], ["plugins", "--json"],
                      ["hooks", "--json"], ["config", "show", "--json"], ["system", "containers", "--json"],
                      ["version", "--json"], ["clean", "--dry-run", "--json"]):  # fmt: skip
        json.loads(moat(*arguments).out)
