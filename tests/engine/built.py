"""The images that several real-engine tests share, so that each is built once."""

from __future__ import annotations

PYTHON = ("python", "pytest", "ruff", "git", "curl", "jq", "pip:iniconfig")
"""Python from Debian's packages, programs from Python's registry."""

NODE = {"base_image": "debian:bookworm-slim", "dependencies": ("node@18", "npm:cowsay")}
"""Node.js from Debian's packages, a program from npm's registry."""
