"""What the pages show, as plain values: made in one place from the store, named as in ``moat list --json``."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from moat_plugins.routing.pages.text import clean_line

__all__ = ["OVER", "EndpointState", "EndpointView", "LogLine", "RunView", "Site"]

OVER = frozenset({"kept", "gone", "exited", "failed"})
"""The states of runs that have ended."""

Isolation = Literal["gvisor", "none", ""]
EndpointState = Literal["ready", "waiting", ""]


@attrs.frozen
class Site:
    """How the proxy is reached.

    Args:
        scheme: ``http`` or ``https``.
        port: That of the request's Host.
        version: Of moat.
    """

    scheme: str = "http"
    port: int = 8080
    version: str = ""

    def url(self, host: str = "localhost", path: str = "/") -> str:
        """Return the address of PATH at HOST."""
        port = "" if self.port == (443 if self.scheme == "https" else 80) else f":{self.port}"
        return f"{self.scheme}://{host}{port}{path}"


@attrs.frozen
class EndpointView:
    """One endpoint of a run.

    Args:
        url: Where a browser finds it.
        port: Of the container.
        state: ``ready`` when something answers, ``waiting`` when nothing listens yet, ``""`` when nobody has looked.
    """

    name: str
    url: str
    port: int
    state: EndpointState = ""

    def to_json(self) -> dict[str, Any]:
        """Return the fields."""
        return attrs.asdict(self)


@attrs.frozen
class RunView:
    """One run.

    Args:
        id: ``run-`` and 8 hex digits.
        isolation: ``gvisor``, ``none`` of it, or ``""`` when the container has not been started.
        oci_runtime: What it was started with.
        created: Seconds since 1970; ``ended`` likewise.
        url: Of the default endpoint, or of the agent's page; ``""`` if it has no endpoint.
        has_log: There is something at ``/runs/<id>/log``.
    """

    id: str
    name: str
    state: str
    isolation: Isolation = ""
    oci_runtime: str = ""
    created: float | None = None
    endpoints: tuple[EndpointView, ...] = ()
    url: str = ""
    workspace: str = ""
    command: tuple[str, ...] | None = None
    ended: float | None = None
    exit_code: int | None = None
    error: str | None = None
    has_log: bool = True

    @property
    def log_path(self) -> str:
        """Where its log is, on the index's host."""
        return f"/runs/{self.id}/log"

    def to_json(self) -> dict[str, Any]:
        """Return the fields under the names of ``moat list --json``, and those that are only here."""
        fields = attrs.asdict(self, recurse=False, filter=lambda field, _: field.name != "has_log")
        fields["ports"] = {endpoint.name: endpoint.port for endpoint in self.endpoints}
        fields["endpoints"] = [endpoint.to_json() for endpoint in self.endpoints]
        fields["log"] = self.log_path if self.has_log else None
        return fields


@attrs.frozen
class LogLine:
    """A line of a run's log.

    Args:
        stream: ``stdout`` or ``stderr``.
        data: As it was written, with or without its newline.
        time: Seconds since 1970, or ``None``.
    """

    stream: str
    data: bytes
    time: float | None = None

    @property
    def text(self) -> str:
        """What is shown of it."""
        return clean_line(self.data)

    def to_json(self) -> dict[str, Any]:
        """Return ``{"time", "stream", "text"}``."""
        return {"time": self.time, "stream": self.stream, "text": self.text}
