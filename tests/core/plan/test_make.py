"""From a request to a plan: who wins, what clashes, that all problems come at once, and that nothing else is raised."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moat_core import hookimpl
from moat_core.errors import ConfigError, HookFailed, InvalidValue, PlanError, PluginError, UnknownName, UsageError
from moat_core.plan import RunRequest, list_demands, make_init, random_name
from moat_core.runtime.base import RuntimeInfo
from moat_core.types import Mount, Problem, is_name, new_run_id


class Adds:
    """A plugin that does WHAT with the plan in the making."""

    def __init__(self, what):
        self.what = what

    @hookimpl
    def moat_add_to_plan(self, request, config, plan):
        self.what(plan)


WHO_WINS = [
    # by the first plugin, by the second, in the config, by flag -> value and origin
    (("1", None, None, None), ("1", "one")),
    (("1", "2", None, None), ("2", "two")),
    (("1", "2", "3", None), ("3", "config: agent.yaml")),
    (("1", "2", "3", "4"), ("4", "flag: request")),
    (("1", None, None, "4"), ("4", "flag: request")),
    ((None, None, "3", "4"), ("4", "flag: request")),
]


@pytest.mark.parametrize(("values", "expected"), WHO_WINS)
def test_flags_win_over_the_config_that_over_plugins_and_later_ones_over_earlier(moat, values, expected):
    """And the plan says whose value it is."""
    first, second, config, flag = values
    for name, value in (("one", first), ("two", second)):
        if value is not None:
            moat.register(Adds(lambda plan, value=value: plan.set_env("KEY", value)), name)
    if config is not None:
        moat.file("agent.yaml", f"env:\n  KEY: '{config}'\n")
    item = moat.plan(env={} if flag is None else {"KEY": flag}).env["KEY"]
    assert (item.value, item.origin) == expected


def test_what_a_plugin_reads_is_what_those_before_it_have_set(moat):
    """Core first, then the workspace, third parties as they came, the last; the user after all."""
    seen = {}

    class Reads:
        def __init__(self, name):
            self.name = name

        def _read(self, plan):
            there = [key for key in ("MOAT_NAME", "ZZZ", "AAA", "LAST", "MINE") if plan.get_env(key) is not None]
            seen[self.name] = there, plan.user
            plan.set_env(self.name, "here")

    class Reader(Reads):
        @hookimpl
        def moat_add_to_plan(self, plan):
            self._read(plan)

    class LastReader(Reads):
        @hookimpl(trylast=True)
        def moat_add_to_plan(self, plan):
            self._read(plan)

    for plugin in (LastReader("LAST"), Reader("ZZZ"), Reader("AAA")):
        moat.register(plugin, plugin.name.lower())
    plan = moat.plan(env={"MINE": "flag"})
    assert [(name, there) for name, (there, _) in seen.items()] == [
        ("ZZZ", ["MOAT_NAME"]),
        ("AAA", ["MOAT_NAME", "ZZZ"]),
        ("LAST", ["MOAT_NAME", "ZZZ", "AAA"]),
    ]
    assert {user for _, user in seen.values()} == {plan.user}, "the workspace plugin has set it by then"
    assert set(plan.env) >= {"ZZZ", "AAA", "LAST", "MINE"}


def test_values_of_flags_are_not_printed(moat):
    """They may be secrets; those of the config and of plugins are the workspace's own."""
    moat.file("agent.yaml", "env: {FILE: open}\n")
    plan = moat.plan(env={"TOKEN": "secret"})
    text = json.dumps(plan.to_json())
    assert "secret" not in text
    assert plan.to_json()["env"]["FILE"] == {"origin": "config: agent.yaml", "value": "open"}
    assert plan.to_json()["env"]["TOKEN"] == {"origin": "flag: request"}
    assert "secret" not in repr(RunRequest(workspace=Path("/"), env={"TOKEN": "secret"}))


def test_a_target_mounted_twice_is_a_problem_that_names_both(moat):
    """However it is spelled."""
    moat.register(Adds(lambda plan: plan.add_mount("/a", "/data/x")), "one")
    moat.file("agent.yaml", "mounts: ['/tmp:/data/../data/x/']\n")
    with pytest.raises(PlanError) as caught:
        moat.plan(mounts=[Mount("/usr", "/data/x")])
    said = [str(problem) for problem in caught.value.problems]
    assert len(said) == 2
    assert all("/data/x is mounted twice, by one and by " in words for words in said)


def test_all_problems_come_at_once(moat):
    """Of the request, of every plugin, of those who check: nobody has to try again and again."""

    class Checks:
        @hookimpl
        def moat_check_plan(self, plan):
            yield Problem("checked", severity="error")
            yield Problem("only a warning", severity="warning")

    moat.register(Adds(lambda plan: plan.problem("from one", "do this", where="here")), "one")
    moat.register(Adds(lambda plan: plan.problem("from two")), "two")
    moat.register(Checks(), "checks")
    with pytest.raises(PlanError) as caught:
        moat.plan(name="Not A Name", command=[""], env={"1": "x"}, ports={"web": 0})
    said = "\n".join(str(problem) for problem in caught.value.problems)
    for words in (
        "Not A Name",
        "command is empty",
        "'1' cannot",
        "web: 0",
        "from one",
        "from two",
        "checked",
    ):
        assert words in said
    assert "warning" not in said
    assert len(caught.value.problems) == 7
    assert caught.value.exit_code == 2
    assert caught.value.to_json()["problems"][0]["message"]


def test_warnings_are_in_the_plan(moat):
    """They stop nothing; each is told when the run starts."""

    class Checks:
        @hookimpl
        def moat_check_plan(self, plan):
            return [Problem("checked", severity="warning")]

    moat.register(Adds(lambda plan: plan.warn("careful", "look")), "one")
    moat.register(Checks(), "checks")
    assert [problem.message for problem in moat.plan().warnings] == ["careful", "checked"]


def test_two_plans_of_the_same_request_are_equal(moat):
    """Planning asks nobody and rolls no dice."""
    moat.file("data/file", "")
    moat.file("agent.yaml", "env: {A: b}\nmounts: ['./data:/data:ro']\nports: {web: 80}\n")
    moat.register(Adds(lambda plan: (plan.add_init_step("s", "true"), plan.note("why"), plan.add_group(7))), "one")
    run_id = new_run_id()
    first, second = (moat.plan(run_id=run_id, command=["x"], env={"B": "c"}) for _ in range(2))
    assert first == second
    assert first.to_json() == second.to_json()
    assert moat.plan().run_id != run_id


def test_config_and_request_together_have_one_endpoint_a_port(moat):
    """As the config has by itself; what the request says of the same endpoint counts."""
    moat.file("agent.yaml", "ports: {web: 80}\n")
    with pytest.raises(PlanError) as caught:
        moat.plan(ports={"admin": 80})
    assert "'web' and 'admin' name the same port, 80" in str(caught.value)
    plan = moat.plan(ports={"admin": 80, "web": 81})
    assert {port.endpoint: port.number for port in plan.ports} == {"admin": 80, "web": 81}


def test_names_are_as_random_as_the_runs_and_always_labels():
    """A name is made from the run's id, and may be part of a host name."""
    names = [random_name(new_run_id()) for _ in range(500)]
    assert all(is_name(name) for name in names)
    assert len(set(names)) > 450
    assert random_name("run-00000000") == random_name("run-00000000")


def test_the_name_is_the_requests_then_the_configs(moat):
    """Then a random one."""
    moat.file("agent.yaml", "name: from-config\n")
    assert moat.plan().name == "from-config"
    assert moat.plan(name="from-flag").name == "from-flag"


COMMANDS = [
    ({}, None, None),
    ({"command": ["a"]}, None, ("a",)),
    ({}, "['b', 'c']", ("b", "c")),
    ({"command": ["a"]}, "['b']", ("a",)),
    ({"hold": True}, "['b']", None),
]


@pytest.mark.parametrize(("arguments", "config", "command"), COMMANDS)
def test_the_command_is_the_requests_then_the_configs_unless_held(moat, arguments, config, command):
    """The library holds a run open unless it is given a command."""
    if config is not None:
        moat.file("agent.yaml", f"command: {config}\n")
    assert moat.plan(**arguments).command == command


def test_an_unknown_runtime_is_told_with_what_there_is(moat):
    """The nearest, or all."""
    with pytest.raises(UnknownName) as caught:
        moat.plan(runtime="fakee")
    assert caught.value.hint == "Known: fake."


class Runtimes:
    """Registers runtimes, and chooses one perhaps."""

    def __init__(self, *names, choice=None):
        self.names, self.choice = names, choice

    @hookimpl
    def moat_register_runtimes(self):
        return [RuntimeInfo(name, "nowhere:Nothing", honours=list_demands()) for name in self.names]

    @hookimpl
    def moat_choose_runtime(self, request, config):
        return self.choice


def test_the_runtime_is_the_flags_then_the_configs_then_the_newest_plugins_choice(moat):
    """A third party is asked before the built-ins."""
    moat.register(Runtimes("x", "y", choice="y"), "third")
    assert moat.plan().runtime == "y"
    moat.file("agent.yaml", "runtime: x\n")
    assert moat.plan().runtime == "x"
    assert moat.plan(runtime="fake").runtime == "fake"


def test_two_plugins_with_one_runtime_are_an_error_that_names_both(moat):
    """Neither silently takes the other's place."""
    moat.register(Runtimes("fake"), "third")
    with pytest.raises(PluginError, match="'fake' and 'third' both register a runtime 'fake'"):
        moat.plan()


def test_a_plugin_that_raises_is_named(moat):
    """An error of its code is its bug, not the user's."""
    moat.register(Adds(lambda plan: 1 / 0), "clumsy")
    with pytest.raises(HookFailed, match="'clumsy' failed in moat_add_to_plan: ZeroDivisionError"):
        moat.plan()


def test_contributions_are_collected_under_their_plugins_names(moat):
    """Everything the builder takes comes out of the plan."""

    def add(plan):
        plan.add_capability("CAP_NET_RAW", "ping")
        plan.add_group(5)
        plan.add_group(5)
        plan.add_host("db", "10.0.0.2")
        plan.add_init_step("late", "true", order=90)
        plan.add_init_step("early", "true", order=10)
        plan.add_mount("/src", "/b/")
        plan.add_mount("/src", "/a", read_only=True)
        plan.note("because")
        plan.details["one"] = {"x": 1}
        assert plan.get_env("MOAT_NAME") == plan.name
        assert plan.get_env("NONE") is None

    moat.register(Adds(add), "one")
    plan = moat.plan(ports={"web": 80})
    assert plan.capabilities == {"NET_RAW": "ping"}
    assert plan.groups == (5,)
    assert plan.hosts == {"db": "10.0.0.2"}
    assert [step.name for step in plan.init_steps] == ["early", "late"]
    assert [str(mount) for mount in plan.mounts] == ["/src:/a:ro", "/src:/b"]
    assert [(note.origin, note.text) for note in plan.notes] == [("one", "because")]
    assert [(port.endpoint, port.number) for port in plan.ports] == [("web", 80)]


def test_a_request_survives_its_way_through_a_pipe():
    """As a detached run's does; the values of its environment with it, since no file sees them."""
    request = RunRequest(
        workspace=Path("/w"),
        command=("a", "b"),
        env={"K": "v"},
        mounts=(Mount("/a", "/b", read_only=True),),
        ports={"web": 1},
        dependencies=("python",),
        options={"section": {"key": 1}},
        timeout_s=1.5,
    )
    assert RunRequest.from_json(json.loads(json.dumps(request.to_json()))) == request


def test_what_a_request_does_not_have_is_a_usage_error(moat):
    """Not a TypeError from the depths."""
    with pytest.raises(UsageError, match="unexpected keyword"):
        moat.plan(no_such_argument=1)


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ({"env": {"OK": "\0"}}, ValueError),
        ({"env": {"OK": None}}, TypeError),
        ({"env": [("A", "b")]}, TypeError),
        ({"command": "ls"}, TypeError),
        ({"command": ["ls", 1]}, TypeError),
        ({"command": ["ls", "a\0b"]}, ValueError),
        ({"command": ["ls", "x" * 200_000]}, OSError),
        ({"timeout_s": -1}, ValueError),
        ({"timeout_s": 0}, ValueError),
        ({"timeout_s": float("nan")}, ValueError),
        ({"timeout_s": float("inf")}, ValueError),
        ({"timeout_s": "1"}, TypeError),
        ({"timeout_s": True}, TypeError),
        ({"keep": "no"}, TypeError),
        ({"sandbox": "none"}, TypeError),
        ({"name": b"x"}, TypeError),
        ({"ports": {"web": "80"}}, TypeError),
        ({"ports": {"web": True}}, TypeError),
        ({"mounts": "/a:/b"}, TypeError),
        ({"mounts": [("/a", "/b")]}, TypeError),
        ({"mounts": ["/a\0:/b"]}, ValueError),
        ({"dependencies": "python"}, TypeError),
        ({"options": {"section": 1}}, TypeError),
        ({"size": (1, 2, 3)}, TypeError),
        ({"size": (-1, 2)}, ValueError),
        ({"run_id": "../x"}, ValueError),
    ],
    ids=str,
)
def test_what_could_not_be_passed_on_cannot_even_be_asked_for(moat, asked, kind):
    """Python's own kinds of error, as errors of ours."""
    with pytest.raises(kind) as caught:
        moat.plan(**asked)
    assert isinstance(caught.value, UsageError)
    assert caught.value.exit_code == 2


def test_bytes_in_a_command_are_passed_on_and_elsewhere_told(moat):
    """What an engine cannot be told is no plan, rather than another file's name."""
    moat.file("b\udcff/x", "")
    plan = moat.plan(command=["cat", b"\xff"])
    assert make_init(plan)[3:] == ("moat-init",)
    assert "printf '\\377x'" in make_init(plan)[2]
    with pytest.raises(PlanError) as caught:
        moat.plan(env={"A": b"\xff"}, mounts=[Mount("/tmp/\udcff", "/a"), Mount("/tmp", b"/\xff")])
    said = [str(problem) for problem in caught.value.problems]
    assert sum("is not UTF-8" in words for words in said) == 3


odd = st.text(max_size=8) | st.sampled_from(["", " ", "-", "a" * 64, "A", "ä", "\0", "a\n", "a.b", "..", "\ud800"])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    name=st.none() | odd,
    command=st.none() | st.lists(odd, max_size=3),
    env=st.dictionaries(odd, odd, max_size=3),
    ports=st.dictionaries(odd, st.integers(), max_size=3),
    mounts=st.lists(st.tuples(odd, odd, st.booleans()), max_size=3),
    timeout_s=st.none() | st.floats(),
    base_image=st.none() | odd,
)
def test_whatever_is_asked_for_is_planned_or_refused_with_reasons(moat, mounts, **asked):
    """Never another error, and what is planned can be printed."""
    try:
        plan = moat.plan(mounts=[Mount(*mount) for mount in mounts], **asked)
    except InvalidValue:
        return  # it cannot even be asked for
    except (PlanError, ConfigError) as error:
        refused = error
    else:
        refused = None
    if refused is not None:
        assert refused.problems
        assert all(problem.message for problem in refused.problems)
        return
    assert is_name(plan.name)
    assert all("\0" not in key + item.value for key, item in plan.env.items())
    json.dumps(plan.to_json())


def test_a_config_that_was_read_before_asks_nothing_of_a_plugin(moat):
    """It is core's, whatever it is written down as."""
    moat.file("agent.yaml", "name: fox\n")
    library = moat.moat()
    for config in (library.config(moat.workspace).file, {"name": "fox"}, "trusted", "workspace"):
        assert library.plan(library.request(moat.workspace, config=config)).name == "fox"
