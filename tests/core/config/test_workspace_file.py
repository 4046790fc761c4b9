"""Where agent.yaml may lead, what it may be, and that nothing of it changes between the look and the reading."""

from __future__ import annotations

import os

import pytest

from moat_core.config import ConfigSchema, load_config
from moat_core.config.tree import Problems
from moat_core.config.workspace_file import ConfigFile, find_file
from moat_core.errors import ConfigError


@pytest.fixture
def read(tmp_path):
    """Return a function that reads the config file of a folder, and what is wrong with it."""

    def run(folder=None):
        problems = Problems()
        return find_file(folder or tmp_path / "w", problems), [each.message for each in problems.found]

    (tmp_path / "w").mkdir()
    (tmp_path / "secret.yaml").write_text("name: secret\n")
    run.folder = tmp_path / "w"
    return run


OUT = {
    "absolute": lambda w: (w / "agent.yaml").symlink_to(w.parent / "secret.yaml"),
    "relative": lambda w: (w / "agent.yaml").symlink_to("../secret.yaml"),
    "chain": lambda w: ((w / "a").symlink_to("../secret.yaml"), (w / "agent.yaml").symlink_to("a")),
    "through a folder": lambda w: ((w / "up").symlink_to(".."), (w / "agent.yaml").symlink_to("up/secret.yaml")),
    "in and out again": lambda w: (w / "agent.yaml").symlink_to(f"../{w.name}/../secret.yaml"),
    "moat.yaml": lambda w: (w / "moat.yaml").symlink_to("../secret.yaml"),
    "a sibling of like name": lambda w: (
        w.with_name("w2").mkdir(),
        (w.with_name("w2") / "x").write_text("name: secret"),
        (w / "agent.yaml").symlink_to("../w2/x"),
    ),
    "procfs": lambda w: (w / "agent.yaml").symlink_to("/proc/self/environ"),
    "a device": lambda w: (w / "agent.yaml").symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("make", OUT.values(), ids=OUT)
def test_a_link_out_of_the_workspace_is_refused_with_the_way_to_mend_it(read, make):
    """Wherever it says that it leads."""
    make(read.folder)
    file, found = read()
    assert file is None
    assert len(found) == 1
    assert "leads out of the workspace" in found[0]
    with pytest.raises(ConfigError) as caught:
        load_config(ConfigSchema(), read.folder, environ={})
    assert "--config" in caught.value.problems[0].hint


def test_a_link_that_stays_in_the_workspace_is_followed(read):
    """Many keep their configs in a folder."""
    (read.folder / "conf").mkdir()
    (read.folder / "conf/real.yaml").write_text("name: fox")
    (read.folder / "agent.yaml").symlink_to(read.folder / "conf/real.yaml")
    file, found = read()
    assert (file.text, found) == ("name: fox", [])


def test_a_workspace_behind_a_link_is_one(read, tmp_path):
    """The user's own link above the workspace is no link out of it."""
    (read.folder / "agent.yaml").write_text("name: fox")
    (tmp_path / "link").symlink_to("w")
    assert read(tmp_path / "link")[0].text == "name: fox"
    assert read(tmp_path / "link")[0].workspace == read()[0].workspace


@pytest.mark.parametrize("at", ["file", "folder"])
def test_what_is_put_there_between_the_look_and_the_opening_is_not_followed(read, monkeypatch, at):
    """A link in the place of the file, or of a folder on a link's way, that has just been resolved."""
    (read.folder / "conf").mkdir()
    (read.folder / "conf/real.yaml").write_text("name: fox")
    (read.folder / "agent.yaml").symlink_to("conf/real.yaml")

    def swap(*_):
        if at == "file":
            (read.folder / "conf/real.yaml").unlink()
            (read.folder / "conf/real.yaml").symlink_to("../../secret.yaml")
        else:
            (read.folder / "conf").rename(read.folder / "old")
            (read.folder / "conf").symlink_to("..")
            (read.folder.parent / "real.yaml").write_text("name: secret")
        return True

    monkeypatch.setattr("moat_core.config.workspace_file.is_inside", swap)
    file, found = read()
    assert file is None
    assert len(found) == 1
    assert "cannot be read" in found[0]


def test_a_fifo_in_the_place_of_the_file_holds_nobody_up(read, monkeypatch):
    """Also where it came after the look."""
    os.mkfifo(read.folder / "agent.yaml")
    monkeypatch.setattr("moat_core.config.workspace_file._kind", lambda *_: 0o100000 if _[1] == "agent.yaml" else 0)
    assert read() == (None, ["It is not a regular file."])


def test_a_folder_is_known_by_its_inode_and_path(read, tmp_path):
    """Another folder in its place is another workspace."""
    (read.folder / "agent.yaml").write_text("name: fox")
    first = read()[0]
    read.folder.rename(tmp_path / "away")
    (tmp_path / "w").mkdir()
    (read.folder / "agent.yaml").write_text("name: fox")
    second = read()[0]
    assert first.digest == second.digest
    assert first.workspace != second.workspace
    assert ConfigFile.from_json(first.to_json()) == first


def test_the_users_own_config_must_be_nobody_elses_to_write(tmp_path):
    """Its ceiling, and all else that it says, would be theirs."""
    mine = tmp_path / "mine.yaml"
    mine.write_text("name: fox\n")
    for mode, is_fine in ((0o600, True), (0o644, True), (0o666, False), (0o602, False)):
        mine.chmod(mode)
        if is_fine:
            assert load_config(ConfigSchema(), tmp_path, environ={}, user_config=mine).core.name == "fox"
            continue
        with pytest.raises(ConfigError) as caught:
            load_config(ConfigSchema(), tmp_path, environ={}, user_config=mine)
        (found,) = caught.value.problems
        assert "Everybody may write" in found.message
        assert found.hint == f"chmod go-w {mine}"


def test_the_callers_own_file_is_read_instead(tmp_path):
    """Its relative paths start at its own folder, it needs no trust, and it must be there."""
    (tmp_path / "agent.yaml").write_text("name: theirs\nnonsense: 1\n")
    mine = tmp_path / "sub/mine.yaml"
    mine.parent.mkdir()
    mine.write_text("sandbox: none\nmounts: ['./d:/d']\n")
    config = load_config(ConfigSchema(), tmp_path, environ={}, source=mine)
    assert (config.core.name, config.core.sandbox) == (None, "none")
    assert config.core.mounts[0].source == str(tmp_path / "sub/d")
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(ConfigSchema(), tmp_path, environ={}, source=tmp_path / "none.yaml")


def test_a_mapping_is_the_callers_own_word(tmp_path):
    """It is checked like a file, and needs no trust; the workspace's file is not even looked at."""
    (tmp_path / "agent.yaml").write_text("nonsense: 1\n")
    config = load_config(ConfigSchema(), tmp_path, environ={}, source={"sandbox": "none", "mounts": ["./d:/d"]})
    assert (config.core.sandbox, config.core.mounts[0].source) == ("none", str(tmp_path / "d"))
    assert config.origin("sandbox") == "argument config"
    with pytest.raises(ConfigError, match="nmae"):
        load_config(ConfigSchema(), tmp_path, environ={}, source={"nmae": "x"})
