"""The labels by which things of ours are found again, whoever made them. They hold no secrets: anybody reads them."""

from __future__ import annotations

__all__ = ["CACHE", "GUEST", "IMAGE", "KEEP", "NAME", "OCI_RUNTIME", "OWNER", "ROLE", "RUN_ID", "SHARED", "USER"]

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
"""What a volume is kept for, across runs: an agent's name."""
GUEST = "guest"
"""The role of what a run itself made on the engine."""
IMAGE = "moat.image"
