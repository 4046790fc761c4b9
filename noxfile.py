"""Sessions of nox. `nox` alone runs the fast ones; `nox -l` lists all.

Each session has an environment of its own, which is kept and reused. `nox --no-venv` uses the present one (`.venv`).
What is installed is what ``constraints.txt`` says, but in the session `newest`.
"""

from __future__ import annotations

import os
import sys

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "types", "layers", "tests"]
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = True


LOCKED = ("--constraint", "constraints.txt")


def _install(session: nox.Session, *what: str, constraint: tuple[str, ...] = LOCKED) -> None:
    if not session.virtualenv.is_sandboxed:
        # nox looks for programs on the PATH, where the environment that it runs in need not be.
        os.environ["PATH"] = session.env["PATH"] = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    else:
        upgrade = () if constraint else ("--upgrade", "--upgrade-strategy", "eager")
        session.install("--quiet", *constraint, *upgrade, *what)


def _pytest(session: nox.Session, *arguments: str, constraint: tuple[str, ...] = LOCKED) -> None:
    _install(session, "-e", ".[dev]", constraint=constraint)
    session.run("python", "-m", "pytest", *arguments, *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Tests that need no engine."""
    _pytest(session, "-m", "not engine")


@nox.session
def tests_engine(session: nox.Session) -> None:
    """Tests on a real engine; without one they fail. Bring one up with scripts/engine."""
    _pytest(session, "-m", "engine")


@nox.session
def newest(session: nox.Session) -> None:
    """Tests that need no engine, with the newest of everything: what a release of others breaks shows here first."""
    _pytest(session, "-m", "not engine", constraint=())


@nox.session
def lint(session: nox.Session) -> None:
    """Lint, format and spelling."""
    _install(session, "ruff", "codespell")
    session.run("ruff", "check", ".", *session.posargs)
    session.run("ruff", "format", "--check", ".", *session.posargs)
    session.run("codespell", *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict."""
    _install(session, "-e", ".[dev]")
    session.run("mypy", *session.posargs)


@nox.session
def layers(session: nox.Session) -> None:
    """Who may import whom."""
    _install(session, "-e", ".", "import-linter")
    session.run("lint-imports", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into docs/_build; every warning is an error."""
    _install(session, "-e", ".[docs]")
    session.run(
        "python", "-m", "sphinx", "-n", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html", *session.posargs
    )


@nox.session
def docs_examples(session: nox.Session) -> None:
    """Run the examples of README and docs, on a real engine."""
    _pytest(session, "tests/docs")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure against the bare engine; prints ratios, writes bench/results. Needs an engine and a quiet machine."""
    _install(session, "-e", ".")
    session.run("python", "bench", *session.posargs)
