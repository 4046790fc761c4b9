"""Where our processes look for code: nowhere that an agent may write, and last of all where it may."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from moat_core import imports

_SEE = "import json, sys; print(json.dumps([sys.path, sys.argv, __name__]))"


def see(tmp_path, monkeypatch, *entries, needs=()):
    """Return what a process of ours sees whose owner has ENTRIES first on its path: sys.path, argv, name."""
    (tmp_path / "needed").mkdir(exist_ok=True)
    (tmp_path / "needed/seen_by_us.py").write_text(_SEE)
    monkeypatch.syspath_prepend(str(tmp_path / "needed"))
    monkeypatch.setattr(imports, "_NEEDED", {*imports._NEEDED, *needs})
    monkeypatch.setattr(sys, "path", [*map(str, entries), *sys.path])
    __import__("seen_by_us")
    argv = imports.process_argv("seen_by_us", "a", "b c")
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tmp_path)
    del sys.modules["seen_by_us"]
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else done.stderr


def test_only_what_is_needed_is_looked_at_and_last(tmp_path, monkeypatch):
    """The script's folder and others of `sys.path` are not there; the standard library comes first."""
    (tmp_path / "script").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "script"))
    path, argv, name = see(tmp_path, monkeypatch, "", tmp_path / "script", needs=["seen_by_us"])
    assert str(tmp_path / "script") not in path
    assert not {"", ".", str(tmp_path)} & set(path)
    library = next(number for number, each in enumerate(path) if each.endswith("lib-dynload"))
    assert path.index(str(tmp_path / "needed")) > library
    assert (argv[1:], name) == (["a", "b c"], "__main__")


def test_what_nobody_needs_is_not_found(tmp_path, monkeypatch):
    """A module of a plugin has to be named as needed, which loading it does."""
    assert "No module named seen_by_us" in see(tmp_path, monkeypatch)
    imports.need("seen_by_us.sub")
    try:
        assert str(tmp_path / "needed") in see(tmp_path, monkeypatch)[0]
    finally:
        imports._NEEDED.discard("seen_by_us")


def test_moat_is_found_wherever_it_was_imported_from(tmp_path):
    """From any folder, with nobody's variables."""
    argv = imports.process_argv("moat_core.cli", "version")
    assert subprocess.run(argv, capture_output=True, cwd=tmp_path, env={}, check=True).stdout


@pytest.fixture
def last(monkeypatch):
    """Look last in folders, for this test alone."""
    made = imports._Last()
    monkeypatch.setattr(imports, "_LAST", made)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    return made


def test_what_is_installed_is_not_found_in_a_runs_folder(tmp_path, monkeypatch, last):
    """But what is only there is; other folders come first as ever."""
    for folder in ("ws", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "both_have_it.py").write_text(f"where = {folder!r}")
    (tmp_path / "ws/stringprep.py").write_text("where = 'ws'")
    (tmp_path / "ws/only_here.py").write_text("where = 'ws'")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "ws"), "", str(tmp_path / "other"), *sys.path])
    monkeypatch.chdir(tmp_path / "ws")
    imports.look_there_last([str(tmp_path / "ws"), str(tmp_path / "elsewhere")])
    for name in ("stringprep", "only_here", "both_have_it"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert not hasattr(__import__("stringprep"), "where")
    assert __import__("only_here").where == "ws"
    assert __import__("both_have_it").where == "other"
    assert last.folders == {str(tmp_path / "ws")}
    imports.look_there_last([str(tmp_path / "ws")])
    assert sys.meta_path.count(last) == 1


def test_nothing_changes_where_no_code_comes_from(tmp_path, last):
    """A workspace that is on nobody's path costs no look."""
    imports.look_there_last([str(tmp_path)])
    assert last not in sys.meta_path


def test_our_own_code(monkeypatch):
    """Python, packages, moat; nothing that lies in another of them; no link that could be changed."""
    places = imports.own_code()
    assert all(os.path.isabs(each) and os.path.realpath(each) == each and os.path.exists(each) for each in places)
    moat = os.path.dirname(os.path.realpath(imports.__file__))
    assert any(moat == each or moat.startswith(each + "/") for each in places)
    assert os.path.realpath(sys.prefix) in places
    assert not [one for one in places for other in places if one != other and one.startswith(other + "/")]


def test_a_script_that_was_started_without_site_is_no_process_of_ours(tmp_path):
    """`python -S` has the script's folder on its path, which is nothing that is needed."""
    script = tmp_path / "script.py"
    entries = [each for each in sys.path if each]
    script.write_text(
        f"import sys; sys.path += {entries!r}\nfrom moat_core import imports\nprint(imports.process_argv('m')[6])"
    )
    done = subprocess.run([sys.executable, "-S", script], capture_output=True, text=True, check=True)
    assert str(tmp_path) not in done.stdout.splitlines()
