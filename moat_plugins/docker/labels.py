"""The labels by which things of ours are found again, whoever made them. They hold no secrets: anybody reads them."""

from __future__ import annotations

import os

__all__ = ["HOME", "IMAGE", "KEEP", "NAME", "OCI_RUNTIME", "ROLE", "RUN_ID", "SHARED", "USER", "make_home"]

RUN_ID = "moat.run-id"
ROLE = "moat.role"
"""``main`` for a run's own container; sidecars name theirs."""
HOME = "moat.home"
"""Whose, see `make_home`: one engine may serve several MOAT_HOMEs, and none may touch another's."""
NAME = "moat.name"
KEEP = "moat.keep"
OCI_RUNTIME = "moat.oci-runtime"
"""What was asked for; the engine either starts the container with it or not at all."""
USER = "moat.user"
"""``uid:gid`` of the run's user, for an exec from another process."""
SHARED = "moat.shared"
IMAGE = "moat.image"


def make_home(locks: str | os.PathLike[str]) -> str:
    """Return the mark of the MOAT_HOME whose folder of locks is LOCKS, unlike any other machine's."""
    import hashlib

    text = f"{os.uname().nodename}\0{os.path.realpath(locks)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
