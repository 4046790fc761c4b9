"""Bad input: each line of a table is a file, the place that must be named, and words that must be said."""

from __future__ import annotations

import os
import time

import pytest

from moat_core.config import load_config

BAD = [
    # text, where, in the message, in the hint
    ("nam: x", "agent.yaml:1", "Unknown key 'nam'", "Did you mean name?"),
    ("\n\ndependancies: []", "agent.yaml:3", "Unknown key 'dependancies'", "Did you mean dependencies?"),
    ("zzz: 1", "agent.yaml:1", "Unknown key 'zzz'", "moat plugins"),
    ("container:\n  memry: 5", "agent.yaml:2", "Unknown key 'memry' in container", "Did you mean memory?"),
    ("name: Red Panda", "agent.yaml:1", "cannot be 'Red Panda'", ""),
    ("name: -x", "agent.yaml:1", "cannot be '-x'", ""),
    ("name: " + "x" * 64, "agent.yaml:1", "DNS label", ""),
    ("name: 5", "agent.yaml:1", "must be text, not the number 5", 'quote it: "5"'),
    ("name: [a]", "agent.yaml:1", "must be text, not a list", ""),
    ('name: ""', "agent.yaml:1", "cannot be ''", ""),
    ('name: "\\e[31mred"', "agent.yaml:1", "'\\x1b[31mred'", ""),
    ('name: "a\\u202Eb"', "agent.yaml:1", "'a\\u202eb'", ""),
    ("name: a\nname: b", "agent.yaml:2", "given twice, first in agent.yaml:1", "Remove one"),
    ("runtime: /bin/x", "agent.yaml:1", "cannot be '/bin/x'", ""),
    ("sandbox: gvisr", "agent.yaml:1", "one of none, gvisor", "Did you mean gvisor?"),
    ("sandbox: no", "agent.yaml:1", "one of none, gvisor, not 'no'", ""),
    ("sandbox: false", "agent.yaml:1", "one of none, gvisor, not the truth value false", ""),
    ("dependencies: python", "agent.yaml:1", "must be a list, not the text 'python'", "dependencies: [python]"),
    ("dependencies:\n  - python: 3.11", "agent.yaml:2", "must be text, not a mapping", "python@3.11"),
    ("dependencies:\n  - 3.10", "agent.yaml:2", "not the number 3.10", '"3.10"'),
    ("dependencies: [a, b, a]", "agent.yaml:1", "'a' is listed twice", ""),
    ("dependencies: ['']", "agent.yaml:1", "dependencies[0] cannot be ''", ""),
    ("base_image: Debian:12", "agent.yaml:1", "cannot be 'Debian:12'", "'debian:12'"),
    ("base_image: 'debian:12 '", "agent.yaml:1", "no image reference", ""),
    ("base_image: --privileged", "agent.yaml:1", "no image reference", ""),
    ("command: npm start", "agent.yaml:1", "must be a list", '["npm", "start"]'),
    ("command: ls | wc", "agent.yaml:1", "must be a list", '["sh", "-c", "ls | wc"]'),
    ("command: []", "agent.yaml:1", "starts with a program", "list"),
    ("command: ['']", "agent.yaml:1", "starts with a program", "list"),
    ("command: [sleep, 5]", "agent.yaml:1", "command[1] must be text, not the number 5", '"5"'),
    ("command:\n  - date\n  - 12:30", "agent.yaml:3", "command[1] must be text, not '12:30'", '"12:30"'),
    ("interactive: yes", "agent.yaml:1", "true or false, not 'yes'", "Write true or false."),
    ("interactive: 'true'", "agent.yaml:1", "true or false, not the text 'true'", "Remove the quotes."),
    ("interactive:", "agent.yaml:1", "true or false, not empty", ""),
    ("env:\n  A: on", "agent.yaml:2", "env.A must be text", "quote it"),
    ("env:\n  A: 12", "agent.yaml:2", "env.A must be text, not a number", "quote it"),
    ("env:\n  A: true", "agent.yaml:2", "env.A must be text, not a truth value", "quote it"),
    ("env:\n  A: 2024-01-01", "agent.yaml:2", "env.A must be text", "quote it"),
    ("env:\n  A: 0x1F", "agent.yaml:2", "env.A must be text", "quote it"),
    ("env:\n  A:", "agent.yaml:2", "env.A must be text, not empty", ""),
    ("env:\n  1A: x", "agent.yaml:2", "A key of env cannot be '1A'", ""),
    ("env:\n  A=B: x", "agent.yaml:2", "A key of env cannot be 'A=B'", ""),
    ("env: [A]", "agent.yaml:1", "env must be a mapping, not a list", ""),
    ("env:\n  A: " + "x" * 140_000, "agent.yaml:2", "at most 131071", "file"),
    ("mounts: /a:/b", "agent.yaml:1", "must be a list", "- ./data:/data:ro"),
    ("mounts:\n  - /a", "agent.yaml:2", "a mount is source:target", ""),
    ("mounts:\n  - /a:b", "agent.yaml:2", "'b' is no absolute path", ""),
    ("mounts:\n  - /a:/b:rx", "agent.yaml:2", "'rx' is neither ro nor rw", ""),
    ("mounts:\n  - /a:/b:ro:x", "agent.yaml:2", "a mount is source:target", ""),
    ("mounts:\n  - ':/b'", "agent.yaml:2", "the path is empty", ""),
    ("mounts:\n  - /a:/workspace/", "agent.yaml:2", "/workspace is the workspace itself", "/workspace/data"),
    ("mounts:\n  - /a://workspace", "agent.yaml:2", "/workspace is the workspace itself", ""),
    ("mounts:\n  - /a:/x/../workspace", "agent.yaml:2", "/workspace is the workspace itself", ""),
    ("mounts:\n  - /a:/", "agent.yaml:2", "belongs to the container's system", ""),
    ("mounts:\n  - /a:/proc/sys", "agent.yaml:2", "belongs to the container's system", ""),
    ("mounts:\n  - ~root/a:/b", "agent.yaml:2", "only ~/", ""),
    ("mounts:\n  - /a:/b\n  - /c:/b/", "agent.yaml:1", "two mounts have the target '/b'", ""),
    ("mounts:\n  - {source: /a}", "agent.yaml:2", "lacks the key 'target'", "absolute"),
    ("mounts:\n  - {source: /a, target: /b, mod: ro}", "agent.yaml:2", "Unknown key 'mod'", "mode"),
    ("mounts:\n  - {source: /a, target: /b, mode: r}", "agent.yaml:2", "one of ro, rw", ""),
    ("mounts:\n  - 5", "agent.yaml:2", "mounts[0] must be text", ""),
    ("ports:\n  web: 12:30", "agent.yaml:2", "a whole number, not '12:30'", "plain decimal"),
    ("ports:\n  web: '80'", "agent.yaml:2", "a whole number, not the text '80'", "Remove the quotes."),
    ("ports:\n  web: 0", "agent.yaml:2", "ports.web cannot be '0'", ""),
    ("ports:\n  web: 65536", "agent.yaml:2", "1 to 65535", ""),
    ("ports:\n  web: 80.5", "agent.yaml:2", "a whole number, not the number 80.5", ""),
    ("ports:\n  web: 080", "agent.yaml:2", "a whole number, not '080'", "plain decimal"),
    ("ports:\n  web: " + "9" * 5000, "agent.yaml:2", "(5000 characters)", ""),
    ("ports:\n  Web: 80", "agent.yaml:2", "A key of ports cannot be 'Web'", ""),
    ("ports:\n  a: 80\n  b: 80", "agent.yaml:3", "'a' and 'b' name the same port, 80", "port of its own"),
    ("ports: [80]", "agent.yaml:1", "ports must be a mapping, not a list", ""),
    ("network: off", "agent.yaml:1", "one of bridge, none, not 'off'", ""),
    ("network: host", "agent.yaml:1", "one of bridge, none, not the text 'host'", ""),
    ("container: 5", "agent.yaml:1", "must be a mapping, not the number 5", "memory"),
    ("container: {memory: 5}", "agent.yaml:1", "at least 16 MiB", "MiB"),
    ("container: {memory: 2x}", "agent.yaml:1", "cannot be '2x': a size", ""),
    ("container: {memory: -1}", "agent.yaml:1", "cannot be '-1': a size", ""),
    ("container: {memory: 1_000}", "agent.yaml:1", "must be unambiguous, not '1_000'", "quote"),
    ("container: {memory: 99999999999999t}", "agent.yaml:1", "larger than any machine's memory", ""),
    ("container: {memory: [1]}", "agent.yaml:1", "container.memory cannot be used: a size", ""),
    ("container: {cpus: 0}", "agent.yaml:1", "from 0.01", ""),
    ("container: {cpus: .inf}", "agent.yaml:1", "a number, not '.inf'", ""),
    ("container: {cpus: 1e999}", "agent.yaml:1", "a number, not the number 1e999", ""),
    ("container: {pids: 1}", "agent.yaml:1", "from 16", ""),
    ("container: {dns: [localhost]}", "agent.yaml:1", "IP address", ""),
    ("container: {dns: ['fe80::1%eth0']}", "agent.yaml:1", "zone", ""),
    ("hooks: {pre_run: ' '}", "agent.yaml:1", "no command in it", ""),
    ("hooks: {pre_run: [a]}", "agent.yaml:1", "must be text, not a list", ""),
    ("hooks: {pre-run: a}", "agent.yaml:1", "Unknown key 'pre-run' in hooks", "pre_run"),
]


@pytest.mark.parametrize(("text", "where", "message", "hint"), BAD, ids=[row[0][:40] for row in BAD])
def test_a_bad_value_is_one_problem_with_its_line(problems, text, where, message, hint):
    """Every mistake gives exactly one problem that names line, value and what is allowed."""
    (found,) = problems(text)
    assert found.where == where
    assert message in found.message
    assert hint in found.hint
    assert found.message.isprintable()
    assert len(found.message) < 300
    assert found.message.endswith(".")


FORM = [
    ("a: 'x\n\nb", "agent.yaml:3", "The YAML cannot be read", "It began in line 1."),
    ("env:\n\tA: x", "agent.yaml:2", "The YAML cannot be read", "tabs"),
    ("a: b: c", "agent.yaml:1", "The YAML cannot be read", "quote"),
    ("a: [1, 2", "agent.yaml:", "The YAML cannot be read", ""),
    ("- a", "agent.yaml:1", "A config is a mapping, not a list", "key: value"),
    ("text", "agent.yaml:1", "A config is a mapping, not the text 'text'", "key: value"),
    ("name: a\n---\nname: b", "agent.yaml:2", "second YAML document", "---"),
    ("name: !x a", "agent.yaml:1", "The tag '!x'", "Remove"),
    ("name: !!python/object/apply:os.system [id]", "agent.yaml:1", "The tag", "Remove"),
    ("name: &a x", "agent.yaml:1", "The anchor '&a'", ""),
    ("<<: {name: x}", "agent.yaml:1", "merge key <<", "out"),
    ("? [a]\n: b", "agent.yaml:1", "A key must be text, not a list", "Quote"),
    ("[" * 200_000, "agent.yaml:1", "more than 32 levels", ""),
    ("{a: " * 200_000, "agent.yaml:1", "more than 32 levels", ""),
    ("- " * 40 + "x", "agent.yaml:1", "more than 32 levels", ""),
    ("env: [" + "a," * 60_000 + "]", "agent.yaml:1", "more than 50000 values", ""),
    (b"name: \xff", "agent.yaml:1", "Byte 0xff is not UTF-8", "UTF-8"),
    (b"# \n\nname: \xc3", "agent.yaml:3", "Byte 0xc3 is not UTF-8", "UTF-8"),
    ("name: x".encode("utf-16"), "agent.yaml:1", "is not UTF-8", "UTF-8"),
    (b"name: a\nruntime: \x00", "agent.yaml:2", "U+0000", "escape"),
    (b"name: \x1b", "agent.yaml:1", "U+001B", "escape"),
    ('name: "\\0"', "agent.yaml:1", "U+0000", ""),
    ('name: "\\ud800"', "agent.yaml:1", "", ""),
    ('name: "\\Uffffffff"', "agent.yaml:", "", ""),
    ("%YAML 9." + "9" * 5000 + "\n---\nname: a", "agent.yaml", "", ""),
]


@pytest.mark.parametrize(("text", "where", "message", "hint"), FORM, ids=[str(row[0][:30]) for row in FORM])
def test_what_is_no_config_at_all_is_told_by_its_line(problems, text, where, message, hint):
    """Broken YAML, and YAML that could do harm, is a problem with a line and a way out."""
    first = problems(text)[0]
    assert first.where.startswith(where)
    assert message in first.message
    assert hint in first.hint
    assert first.message.isprintable()


def test_a_huge_file_is_one_short_sentence_at_once(problems):
    """A config of 10 MB is refused without being parsed."""
    started = time.monotonic()
    (found,) = problems("name: x\n" + "# filler\n" * 1_200_000)
    assert str(found).startswith("agent.yaml: It is larger than 1024 KiB.")
    assert time.monotonic() - started < 5


def test_aliases_cannot_multiply(problems):
    """The classic bomb of nested aliases is refused where its first alias stands."""
    bomb = "a: &a [x,x]\n" + "".join(f"{b}: &{b} [*{a},*{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    found = problems(bomb)
    assert any("The alias '*a'" in each.message and each.where == "agent.yaml:2" for each in found)


def test_all_problems_are_told_at_once_and_in_order(problems):
    """Problems of one file come by line, whatever found them."""
    found = problems("zzz: 1\nname: A\nname: b\nports: {web: 0}\nenv: {A: 1}\ncommand: x")
    assert [each.where for each in found] == [f"agent.yaml:{line}" for line in (1, 2, 3, 4, 5, 6)]


def test_thousands_of_problems_are_counted_not_listed(problems):
    """A file of nonsense does not flood the terminal, and does not take long."""
    started = time.monotonic()
    found = problems("".join(f"nonsense{number}: 1\n" for number in range(20_000)))
    assert len(found) == 101
    assert "19900 more" in found[-1].message
    assert time.monotonic() - started < 10


def test_values_of_the_environment_are_never_shown(problems):
    """A wrong value in `env` may be a secret, so that no message holds it."""
    for text in ("env:\n  TOKEN: 8271828", "env: {TOKEN: [s8271828]}", 'env: {TOKEN: "8271828\\0"}'):
        shown = "\n".join(str(each) for each in problems(text))
        assert "8271828" not in shown


@pytest.mark.parametrize("name", ["agent.yaml", "moat.yaml"])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path, load, problems, name):
    """A folder, a FIFO, a device and a dead link under the config's name are problems; none of them hangs."""
    load(None)
    path = load.folder / name
    os.mkfifo(load.folder / "fifo")
    for make in (path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("fifo")):
        make()
        (found,) = problems(None)
        assert (found.where, found.message) == (name, "It is not a regular file.")
        path.rmdir() if path.is_dir() else path.unlink()
    path.symlink_to("nowhere")
    (found,) = problems(None)
    assert "does not exist" in found.message
    path.unlink()
    path.symlink_to(name)
    (found,) = problems(None)
    assert found.message.startswith("It cannot be read: ")


def test_both_names_are_an_error(load, problems):
    """agent.yaml and moat.yaml beside each other leave open which one is meant."""
    load("name: a")
    (found,) = problems("name: b", file="moat.yaml")
    assert (found.where, found.hint) == ("moat.yaml", "Keep agent.yaml and remove moat.yaml.")


def test_a_folder_that_cannot_be_looked_into_is_an_error(problems, load, monkeypatch):
    """A config that cannot be seen is not taken for none: the sandbox might be set there."""
    load(None)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("moat_core.config.workspace_file._kind", refuse)
    (found,) = problems(None)
    assert found.message == "It cannot be looked for: Permission denied."


def test_a_path_with_a_nul_is_a_config_error(load, problems, monkeypatch):
    """Not even a folder that cannot exist makes a traceback."""
    from pathlib import Path

    from moat_core.config import ConfigSchema
    from moat_core.errors import ConfigError

    with pytest.raises(ConfigError, match="looked for"):
        load_config(ConfigSchema(), Path("/a\0b"), environ={})
