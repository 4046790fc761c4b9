"""The fake engine's probe, where probes are."""

from __future__ import annotations

from fake_engine import states

__all__ = ["states"]
