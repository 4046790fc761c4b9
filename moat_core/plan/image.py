"""From what plugins ask of an image to what is built: its Dockerfile's last lines of ours, and its name.

The name stands for everything that decides the content: an image is built once, and never wrongly reused.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

import attrs

from moat_core.plan.trust import TRUST_ENV, trust_script

if TYPE_CHECKING:
    from moat_core.types import ImageSpec

__all__ = ["PROXY_ARGS", "finish_image", "image_tag"]

PROXY_ARGS = frozenset(
    form
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for form in (name, name.lower())
)
"""Build arguments that every builder knows and keeps out of the image (Dockerfile reference, ARG)."""

_RECIPE = 1
"""Part of every tag; to be raised when images must be made anew although nothing they name has changed."""

_TRUST_FILE = "moat/trust.sh"
_TRUST_PATH = "/usr/local/lib/moat/trust.sh"
_FROM = re.compile(r"^[ \t]*FROM[ \t].*(?<!\\)$", re.IGNORECASE | re.MULTILINE)


def image_tag(spec: ImageSpec) -> str:
    """Return ``moat/run:`` and 16 hex digits over everything in SPEC that decides what would be built.

    That is the Dockerfile's whole text, the base, the context's files with their contents, the CAs and all
    build arguments but those of `PROXY_ARGS`. The same in every process.
    """
    content: dict[str, Any] = {
        "recipe": _RECIPE,
        "base": spec.base,
        "dockerfile": spec.dockerfile,
        "files": {path: _digest(data) for path, data in spec.files.items()},
        "build_args": {key: value for key, value in spec.build_args.items() if key not in PROXY_ARGS},
        "trust": [_digest(certificate) for certificate in spec.trust],
    }
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return f"moat/run:{_digest(text.encode())[:16]}"


def finish_image(spec: ImageSpec) -> ImageSpec:
    """Return SPEC as it shall be built: its CAs written into the Dockerfile, and named by `image_tag`.

    A spec without a Dockerfile, or with a tag of its own (whose giver answers for it), is returned as it is.
    """
    if spec.dockerfile is None or spec.tag is not None:
        return spec
    if spec.trust:
        text = _FROM.sub(lambda line: f"{line[0]}\n{_trust_lines()}", spec.dockerfile)
        files = dict(spec.files) | {_TRUST_FILE: trust_script(spec.trust).encode()}
        spec = attrs.evolve(spec, dockerfile=text, files=files)
    return attrs.evolve(spec, tag=image_tag(spec))


def _trust_lines() -> str:
    """Return what follows each FROM. ARG lasts for the build only, so the image's environment stays clean."""
    update = "if command -v update-ca-certificates >/dev/null; then update-ca-certificates >/dev/null; fi"
    lines = [
        "USER root",
        f"COPY {_TRUST_FILE} {_TRUST_PATH}",
        f"RUN sh -eu {_TRUST_PATH} && {update}",
        *(f"ARG {key}={value}" for key, value in TRUST_ENV.items()),
    ]
    return "\n".join(lines)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
