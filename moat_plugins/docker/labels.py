"""The labels by which things of ours are found again, whoever made them. They hold no secrets: anybody reads them.

They find, and prove nothing: an engine copies an image's labels to containers, and who has the engine writes what he
likes. Whoever acts on what was found asks `is_ours` first. Stdlib only: the quick look behind `moat list` needs it.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from moat_core.runtime.proof import Proof

__all__ = [
    "CACHE",
    "CLAIMS",
    "GUEST",
    "KEEP",
    "NAME",
    "NONCE",
    "OCI_RUNTIME",
    "OWNER",
    "PROOF",
    "ROLE",
    "RUN_ID",
    "SHARED",
    "USER",
    "WORKSPACE",
    "is_ours",
    "sign",
]

RUN_ID = "moat.run-id"
ROLE = "moat.role"
"""``main`` for a run's own container; sidecars name theirs."""
OWNER = "moat.owner"
"""Whose MOAT_HOME it belongs to: one engine may serve several, and none may touch another's."""
NAME = "moat.name"
KEEP = "moat.keep"
OCI_RUNTIME = "moat.oci-runtime"
"""What was asked for; the engine either starts the container with it or not at all."""
USER = "moat.user"
"""``uid:gid`` of the run's user, for an exec from another process."""
SHARED = "moat.shared"
CACHE = "moat.cache"
"""What a volume is kept for, across runs: an agent in a folder, see `moat_core.runtime.locks.make_cache_key`."""
WORKSPACE = "moat.workspace"
"""The folder that a kept volume is for."""
GUEST = "guest"
"""The role of what a run itself made on the engine."""
PROOF = "moat.proof"
"""The tag, by the home's key, over the object's kind, its own name, and `_SIGNED`."""

NONCE = "moat.nonce"
"""Makes each proof another one: one that was given away (`Proof.burn`) says nothing of the next thing of that name."""

_SIGNED = (RUN_ID, ROLE, OWNER, NAME, KEEP, OCI_RUNTIME, USER, CACHE, WORKSPACE)
"""All that is ever believed. A new object has each of them, if only as "": what it has, no image can add."""

CLAIMS = frozenset({*_SIGNED, NONCE, PROOF, SHARED})
"""All that say anything."""


def sign(proof: Proof, kind: str, name: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Return LABELS for a new object of ours, with what proves that it is.

    Args:
        kind: ``container``, ``network`` or ``volume``.
        name: What it will be called; no two of a kind are called the same on one engine.
    """
    made = {**dict.fromkeys(_SIGNED, ""), **labels, NONCE: os.urandom(8).hex()}
    return {**made, PROOF: proof.make(*_words(kind, name, made))}


def is_ours(proof: Proof, kind: str, name: str, labels: Mapping[str, str] | None) -> bool:
    """Tell whether this home made the object that is called NAME now, and gave it the LABELS that are believed."""
    found = labels or {}
    return PROOF in found and proof.holds(found[PROOF], *_words(kind, name.removeprefix("/"), found))


def _words(kind: str, name: str, labels: Mapping[str, str]) -> list[str]:
    # Without one only what was made before there were any.
    keys = (*_SIGNED, NONCE) if NONCE in labels else _SIGNED
    return [kind, name, *(labels.get(key, "") for key in keys)]
