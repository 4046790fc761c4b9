"""Rules for values that several kinds of objects have: labels, names, references."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from moat_plugins.docker_host.policy.shape import DROPPED, mapping, text
from moat_plugins.docker_host.policy.verdict import Refused, missing, refuse
from moat_plugins.docker_host.scope import RESERVED

if TYPE_CHECKING:
    from moat_plugins.docker_host.policy.shape import Rule
    from moat_plugins.docker_host.scope import Scope

__all__ = [
    "any_name",
    "check_name",
    "check_reference",
    "familiar_name",
    "hide_labels",
    "is_reserved_label",
    "is_reserved_name",
    "make_labels",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_SHORT_ID = re.compile(r"(?:sha256:)?[0-9a-f]{1,63}")
_REFERENCE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:/@+-]{0,510})")


def make_labels(scope: Scope) -> Rule:
    """Return the rule of an object's labels: none of moat's own, which are added when its name is known."""

    def check(value: Any, where: str) -> Any:
        given = mapping(text)(value, where)
        labels = {} if given is DROPPED else {key: item or "" for key, item in given.items()}
        for key, item in labels.items():
            if is_reserved_label(key) and item != scope.marks.get(key):
                raise refuse(f"the label {key}", "labels of moat's own tell whose an object is")
        return {key: item for key, item in labels.items() if not is_reserved_label(key)}

    return check


def is_reserved_label(key: str) -> bool:
    """Tell whether KEY is one that moat goes by."""
    return key.strip().lower().startswith(f"{RESERVED}.")


def hide_labels(labels: Any) -> Any:
    """Return LABELS as the run sees them: who knew what proves an object could have others' taken for it."""
    if not isinstance(labels, dict):
        return labels
    return {key: item for key, item in labels.items() if not is_reserved_label(key)}


def familiar_name(reference: str) -> str:
    """Return an image's REFERENCE as the engine lists it: without Docker Hub's name, with a tag or digest.

    Source: github.com/distribution/reference, normalize.go (splitDockerDomain, FamiliarString).
    """
    domain, slash, rest = reference.partition("/")
    if slash and domain in {"docker.io", "index.docker.io"}:
        reference = rest
    if reference.startswith("library/") and reference.count("/") == 1:
        reference = reference.removeprefix("library/")
    return reference if "@" in reference or ":" in reference.rpartition("/")[2] else f"{reference}:latest"


def is_reserved_name(reference: str) -> bool:
    """Tell whether an image called REFERENCE could be taken for one of moat's own, whatever its case or registry."""
    parts = reference.lower().partition("@")[0].split("/")
    if len(parts) > 1 and ("." in parts[0] or ":" in parts[0] or parts[0] == "localhost"):
        parts = parts[1:]
    return len(parts) > 1 and parts[0] == RESERVED


def check_name(name: str, what: str) -> str:
    """Return NAME if an object may be called by it; ``/`` before it is Docker's habit.

    Raises:
        Refused: It is not a name, or one of moat's own.
    """
    bare = name.removeprefix("/")
    if _NAME.fullmatch(bare) is None:
        raise Refused(f"moat: {what} cannot be called that: use letters, digits, _, . and -.", status=400)
    if bare.lower().startswith(f"{RESERVED}-") or bare.lower() == RESERVED:
        raise refuse(f"the name {bare}", f"names that begin with {RESERVED}- are moat's own")
    return bare


def any_name(name: str, kind: str) -> str:
    """Return NAME if an object of KIND can be called by it, by name or id, somebody else's included.

    Raises:
        Refused: As if there were none.
    """
    bare = name.removeprefix("/")
    if _NAME.fullmatch(bare) is None:
        raise missing(kind, bare[:200])
    return bare


def check_reference(reference: str) -> str:
    """Return REFERENCE, of an image, if it can be one; it may be an id.

    Raises:
        Refused: It cannot.
    """
    if _REFERENCE.fullmatch(reference) is None or "//" in reference or "/." in reference or "./" in reference:
        raise Refused("moat: that is no reference of an image.", status=400)
    return reference


def is_short_id(reference: str) -> bool:
    """Tell whether REFERENCE, of an image, may be the beginning of an id."""
    return _SHORT_ID.fullmatch(reference) is not None
