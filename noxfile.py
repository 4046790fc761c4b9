"""Sessions of nox. `nox` alone runs the fast ones; `nox -l` lists all.

Each session has an environment of its own, which is kept and reused. `nox --no-venv` uses the present one (`.venv`).
"""

from __future__ import annotations

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "types", "layers", "tests"]
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = True


def _install(session: nox.Session, *what: str) -> None:
    if session.virtualenv.is_sandboxed:
        session.install("--quiet", *what)


def _pytest(session: nox.Session, *arguments: str) -> None:
    _install(session, "-e", ".[test]")
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
def lint(session: nox.Session) -> None:
    """Lint, format and spelling."""
    _install(session, "ruff>=0.8", "codespell>=2.3")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell")


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict."""
    _install(session, "-e", ".[dev]")
    session.run("mypy", *session.posargs)


@nox.session
def layers(session: nox.Session) -> None:
    """Who may import whom."""
    _install(session, "-e", ".", "import-linter>=2.1")
    session.run("lint-imports")


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
    session.run("python", "-m", "bench", *session.posargs)
