"""What `moat doctor` says of names under localhost."""

from __future__ import annotations

import socket

import pytest

from moat_plugins.routing import resolver


def answer(*addresses):
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in addresses]


@pytest.mark.parametrize(
    ("found", "status", "words"),
    [
        (answer("127.0.0.1"), "ok", "is 127.0.0.1"),
        (answer("127.0.0.1", "::1"), "ok", "127.0.0.1, ::1"),
        (answer("203.0.113.9"), "warning", "is 203.0.113.9"),
        (answer("127.0.0.1", "203.0.113.9"), "warning", "203.0.113.9"),
        ([], "warning", "is not known"),
        (OSError("no such name"), "warning", "is not known"),
        (TimeoutError(), "warning", "is unknown: its resolver did not answer in 3 s"),
    ],
)
async def test_the_doctor_knows_whether_names_resolve(monkeypatch, found, status, words):
    """To this machine, all of them; else how to mend it."""

    async def look_up(*_args, **_options):
        if isinstance(found, OSError):
            raise found
        return found

    monkeypatch.setattr(resolver.anyio, "getaddrinfo", look_up)
    check = await resolver.check_resolver()
    assert check.status == status
    assert words in check.message
    assert bool(check.fix) is (status == "warning")
