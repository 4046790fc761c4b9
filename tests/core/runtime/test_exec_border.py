"""What plugins call directly is checked as well, before anything is started."""

from __future__ import annotations

import pytest

from moat_core.runtime import files
from moat_core.runtime.exec import exec_command
from moat_core.types import Command


class Untouched:
    """A sandbox in which nothing may be started."""

    def open_process(self, command):
        raise AssertionError(command)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"timeout_s": float("nan")}, ValueError),
        ({"timeout_s": -1}, ValueError),
        ({"timeout_s": "1"}, TypeError),
        ({"limit_bytes": -1}, ValueError),
        ({"limit_bytes": None}, TypeError),
        ({"stdin": 5}, TypeError),
        ({"stdin": [b"x"]}, TypeError),
    ],
    ids=str,
)
async def test_a_command_that_cannot_be_run_so(arguments, kind):
    """Python's own errors."""
    with pytest.raises(kind):
        await exec_command(Untouched(), Command(("true",)), **arguments)


async def test_files_that_cannot_be(tmp_path):
    """Neither inside nor on the host; the empty path is a missing file, as for `open`."""
    for call in (
        lambda path: files.read(Untouched(), path),
        lambda path: files.write(Untouched(), path, b""),
        lambda path: files.upload(Untouched(), path, "/x"),
        lambda path: files.upload(Untouched(), tmp_path, path),
        lambda path: files.download(Untouched(), path, tmp_path / "new"),
        lambda path: files.download(Untouched(), "/x", path),
    ):
        with pytest.raises(ValueError, match="embedded null byte"):
            await call("a.txt\0.sh")
        with pytest.raises(TypeError):
            await call(None)
    for call in (files.read(Untouched(), ""), files.write(Untouched(), b"", b""), files.download(Untouched(), "", "x")):
        with pytest.raises(FileNotFoundError):
            await call
    assert not (tmp_path / "new").exists()
