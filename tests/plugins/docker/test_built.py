"""What was built is remembered by its id."""

from __future__ import annotations

import pytest

from moat_core.errors import StoreError
from moat_plugins.docker.built import is_current, read_all, remember

IDS = [f"sha256:{number:064x}" for number in range(20)]


def test_only_the_newest_is_current(tmp_path):
    """Older ones are ours all the same, as many as are remembered; other engines and names have theirs."""
    home = str(tmp_path / "home")
    assert not is_current(home, "unix:///a", "moat/run:1", IDS[0])
    assert read_all(home, "unix:///a") == {}
    for identity in IDS:
        remember(home, "unix:///a", "moat/run:1", identity)
    remember(home, "unix:///b", "moat/run:1", IDS[0])
    assert is_current(home, "unix:///a", "moat/run:1", IDS[-1])
    assert not is_current(home, "unix:///a", "moat/run:1", IDS[-2])
    assert not is_current(home, "unix:///a", "moat/run:2", IDS[-1])
    assert read_all(home, "unix:///a") == dict.fromkeys(IDS[-8:], "moat/run:1")
    assert read_all(home, "unix:///b") == {IDS[0]: "moat/run:1"}


@pytest.mark.parametrize("content", ["", "x", "unix:///a\nmoat/run:1", "unix:///a\nmoat/run:1\nnot an id", "\n\n\n"])
def test_what_is_not_whole_says_nothing(tmp_path, content):
    """The image is built anew then."""
    home = str(tmp_path)
    remember(home, "unix:///a", "moat/run:1", IDS[0])
    (path,) = (tmp_path / "docker" / "images").iterdir()
    path.write_text(content)
    assert not is_current(home, "unix:///a", "moat/run:1", IDS[0])
    assert read_all(home, "unix:///a") == {}
    remember(home, "unix:///a", "moat/run:1", IDS[0])
    assert is_current(home, "unix:///a", "moat/run:1", IDS[0])


def test_what_cannot_be_written_is_told(tmp_path):
    """With the way to mend it."""
    (tmp_path / "docker").write_text("a file")
    with pytest.raises(StoreError, match="written down"):
        remember(str(tmp_path), "unix:///a", "moat/run:1", IDS[0])
