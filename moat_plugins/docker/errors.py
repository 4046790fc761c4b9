"""The one place where what aiodocker, aiohttp and sockets raise becomes an error of ours.

The engine's own words stay in ``details["engine_message"]``; they are shown, never acted on, except for the
well-known messages below, which get a hint.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio

from moat_core.errors import (
    EngineError,
    EngineTimeout,
    HostError,
    ImageError,
    MoatError,
    SandboxUnavailable,
)
from moat_plugins.docker.endpoint import unavailable
from moat_plugins.docker.quick_import import aiodocker, aiohttp
from moat_plugins.docker.text import printable

if TYPE_CHECKING:
    from moat_plugins.docker.endpoint import Endpoint

__all__ = ["engine_error", "image_error", "map_errors"]

_SPACE = "Free some: `moat clean`, `docker system df`, `docker system prune`."
_HINTS: tuple[tuple[str, str], ...] = (
    (
        r"address pools? .*(fully subnetted|non-overlapping)|non-overlapping IPv4 address pool",
        "Remove unused networks (`moat clean`, `docker network prune`), or add `default-address-pools` to daemon.json.",
    ),
    (r"no space left on device|disk quota exceeded", _SPACE),
    (
        r"port is already allocated|address already in use",
        "Another program listens there. Choose another port, or stop that program.",
    ),
    (r"too old\. Minimum supported API|client version .* too (new|old)", "Update Docker to 23 or later."),
    (
        r"bind source path does not exist|mounts denied|error while creating mount source path",
        "The folder must exist on the engine's own machine; Docker Desktop must share it (Settings, Resources).",
    ),
    (
        r'exec: "/bin/sh"|failed to load /bin/sh|finding executable "/bin/sh"',
        "moat needs a POSIX shell at /bin/sh in the image; take a Debian-based one.",
    ),
    (r"docker-init|init binary", "The engine has no `docker-init`: install the package that brings it (tini)."),
    (r"cannot allocate memory|out of memory", "The machine is out of memory; end other runs."),
    (r"is already in use by container", "`moat clean` removes what an earlier run left."),
    (r"br_netfilter", "Load the kernel module on the engine's machine: `sudo modprobe br_netfilter`."),
)
_IMAGE_HINTS: tuple[tuple[str, str], ...] = (
    (
        r"no such host|dial tcp|connection refused|i/o timeout|TLS handshake timeout|server misbehaving",
        "The engine cannot reach the registry. Look at its network and proxy, or `docker load` the image.",
    ),
    (
        r"pull access denied|unauthorized|authentication required|denied: ",
        "Look at the name; if it is right, `docker login` and try again.",
    ),
    (r"manifest unknown|manifest for .* not found|not found", "There is no image of that name and tag."),
    (r"toomanyrequests|rate limit", "The registry limits anonymous pulls: `docker login`, or wait."),
    (r"no space left on device", _SPACE),
    (r"invalid reference format", "An image is written as `name:tag`, in lower case."),
    (r"No such image", "Pull it (`docker pull NAME`), or name another base image."),
)
_NO_IMAGE = re.compile(r"no such image", re.IGNORECASE)
_NO_RUNTIME = re.compile(r"unknown or invalid runtime name", re.IGNORECASE)


@contextmanager
def map_errors(doing: str, endpoint: Endpoint, timeout_s: float | None = None) -> Iterator[None]:
    """Turn foreign errors of the block into ours, chained.

    Args:
        doing: What was tried, to follow "cannot": ``start the container``.
        timeout_s: The deadline that a `TimeoutError` means, for the message.

    Raises:
        EngineTimeout: The deadline passed.
        RuntimeUnavailable: Nothing answers, or the connection broke.
        EngineError: The engine refused; a subclass or sibling for what is well known.
    """
    try:
        yield
    except MoatError:
        raise  # some of ours are an OSError, too
    except TimeoutError as error:
        after = f" within {timeout_s:.0f} s" if timeout_s else ""
        raise EngineTimeout(
            f"The Docker engine did not answer{after}, asked to {doing}.",
            hint="Is the machine overloaded? MOAT_ENGINE_TIMEOUT_S gives it more time.",
            address=endpoint.address,
        ) from error
    except aiodocker.DockerError as error:
        raise engine_error(doing, error.status, error.message) from error
    except aiohttp.ClientConnectorError as error:
        raise unavailable(endpoint, error.os_error) from error
    except (aiohttp.ClientError, OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        raise unavailable(endpoint, error) from error


def engine_error(doing: str, status: int, text: str) -> HostError:
    """Return the error for an engine that refused to do something.

    Args:
        status: HTTP status, 0 if the refusal came inside a stream.
        text: The engine's message.
    """
    text = printable(" ".join(text.split())) or f"status {status}"
    if _NO_RUNTIME.search(text):
        name = text.rsplit(":", 1)[-1].strip()
        return SandboxUnavailable(
            f"The engine does not know the OCI runtime '{name}'.",
            hint="Register it in the engine's daemon.json and reload the engine.",
            engine_message=text,
        )
    if _NO_IMAGE.search(text):
        return image_error(f"The image is not there: {_sentence(text)}", text, status=status)
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, text, re.IGNORECASE)), "")
    return EngineError(
        f"The Docker engine cannot {doing}: {_sentence(text)}", status=status, hint=hint, engine_message=text
    )


def image_error(message: str, text: str, **details: object) -> ImageError:
    """Return the error for an image that cannot be had; TEXT, the engine's message, decides the hint."""
    hint = next((hint for pattern, hint in _IMAGE_HINTS if re.search(pattern, text, re.IGNORECASE)), "")
    return ImageError(message, hint=hint, engine_message=text, **details)


def _sentence(text: str) -> str:
    text = text.removeprefix("Error response from daemon: ")
    return text if text.endswith((".", "!", "?")) else text + "."
