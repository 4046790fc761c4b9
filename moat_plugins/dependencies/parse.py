"""From the texts of ``dependencies:`` to what is installed: strict, and with every mistake explained.

Nothing gets through that a shell, a Dockerfile or a package manager could take for anything but a name and a
version: names and versions are matched against each registry's own alphabet.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from moat_core.config import nearest, show
from moat_core.types import Problem
from moat_plugins.dependencies.registry import DYNAMIC, REGISTRY, Entry, make_entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from moat_core.types import DependencyInfo

__all__ = ["Dependency", "parse", "resolve"]

_VERSION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._+-]{0,62}[A-Za-z0-9])?")

# The grammars: docs of npm's package.json "name", PEP 508 with extras, Cargo's manifest, the Go modules reference.
_NAMES = {
    "npm": re.compile(r"(?:@[a-z0-9~-][a-z0-9._~-]*/)?[a-z0-9~-][a-z0-9._~-]*"),
    "pip": re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?:\[[A-Za-z0-9._,-]+\])?"),
    "uv": re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?:\[[A-Za-z0-9._,-]+\])?"),
    "cargo": re.compile(r"[A-Za-z][A-Za-z0-9_-]*"),
    "go": re.compile(r"[a-z0-9][a-z0-9.-]*\.[a-z]+(?:/[A-Za-z0-9][A-Za-z0-9._~-]*)+"),
}
_MOST = 214  # npm's limit of a name's length, and beyond anybody else's

# Which shapes of version each runtime's maker has: a line of releases, or a release.
_RUNTIME_VERSIONS = {
    "node": (re.compile(r"(\d+)(?:\.\d+\.\d+)?"), "22 or 22.11.0"),
    "python": (re.compile(r"(3\.\d+)(?:\.\d+)?"), "3.12 or 3.12.4"),
    "go": (re.compile(r"(1\.\d+)(?:\.\d+)?"), "1.25 or 1.25.3"),
}


@attrs.frozen
class Dependency:
    """One thing to install.

    Args:
        entry: What it is.
        name: As it is listed: ``node``, ``npm:left-pad``.
        package: Its name in its registry.
        version: What was asked for, else the registry's default; empty is the newest.
        asked: Whether the version was asked for.
    """

    entry: Entry
    name: str
    package: str
    version: str
    asked: bool

    def __str__(self) -> str:
        return f"{self.name}@{self.version}" if self.version else self.name


def parse(text: str, offered: Mapping[str, DependencyInfo] | None = None) -> Dependency | Problem:
    """Read ``name``, ``name@version``, ``npm:name@version`` (also pip, uv, cargo, go) or what a plugin OFFERED."""
    prefix, colon, rest = text.partition(":")
    modes = sorted(name for name in offered or () if name.partition(":")[0] == prefix.partition("@")[0])
    if modes:
        return _parse_offered(text, modes, offered or {})
    if colon:
        return _parse_dynamic(text, prefix, rest)
    name, at, version = text.partition("@")
    entry = REGISTRY.get(name)
    if entry is None:
        return _unknown(text, name)
    if problem := _check_version(entry, text, version if at else None):
        return problem
    return Dependency(entry, name, entry.package, version or entry.default, bool(at))


def resolve(
    configured: Iterable[str], requested: Iterable[str] = (), offered: Mapping[str, DependencyInfo] | None = None
) -> tuple[tuple[Dependency, ...], list[Problem]]:
    """Return everything that is to be installed, in order of name, and what is wrong.

    Args:
        configured: The texts from the config.
        requested: Those of a flag or argument: added, and their versions win.
        offered: What plugins bring.
    """
    problems: list[Problem] = []
    found: dict[str, Dependency] = {}
    for texts in (configured, requested):
        of_source: dict[str, Dependency] = {}
        for each in _expand(texts, problems, offered or {}):
            other = of_source.get(each.name)
            if other is None or (each.asked and not other.asked):
                of_source[each.name] = each
            elif each.asked and each.version != other.version:
                problems.append(
                    _problem(f"'{each.name}' is listed twice, as {other} and as {each}.", "Keep one of them.")
                )
        found |= {name: each for name, each in of_source.items() if name not in found or each.asked}
    problems += [*_missing(found), *_clashing(found)]
    return tuple(found[name] for name in sorted(found)), problems


def _expand(
    texts: Iterable[str], problems: list[Problem], offered: Mapping[str, DependencyInfo]
) -> Iterator[Dependency]:
    """Parse, and put a bundle's members in its place, and what is implied beside what implies it."""
    for text in texts:
        result = parse(text, offered)
        if isinstance(result, Problem):
            problems.append(result)
        elif result.entry.members:
            for member in result.entry.members:
                entry = REGISTRY[member]
                yield Dependency(entry, member, entry.package, entry.default, asked=False)
        else:
            yield result
            yield from _expand(result.entry.implies, problems, offered)


def _parse_dynamic(text: str, prefix: str, rest: str) -> Dependency | Problem:
    entry = DYNAMIC.get(prefix)
    if entry is None:
        known = ", ".join(f"{each}:" for each in DYNAMIC)
        close = nearest(prefix, DYNAMIC)
        return _problem(
            f"{show(text)} is no dependency: there is no {show(prefix + ':')}.",
            f"Did you mean {close}:{rest}?" if close and rest.isprintable() else f"There are {known}.",
        )
    at = rest.find("@", 1)  # an npm scope begins with one
    name, version = (rest, "") if at < 0 else (rest[:at], rest[at + 1 :])
    if len(name) > _MOST or not _NAMES[prefix].fullmatch(name):
        return _problem(
            f"{show(text)} is no dependency: {show(name)} is not the name of a package there.",
            f"Write {prefix}:NAME or {prefix}:NAME@VERSION.",
        )
    if at >= 0 and not _VERSION.fullmatch(version):
        return _bad_version(text, version)
    return Dependency(entry, f"{prefix}:{name}", name, version, at >= 0)


def _parse_offered(text: str, modes: list[str], offered: Mapping[str, DependencyInfo]) -> Dependency | Problem:
    if text in modes:
        return Dependency(make_entry(offered[text]), text, "", "", asked=False)
    family = modes[0].partition(":")[0]
    if text == family:
        which = " or ".join(f"`- {mode}` ({offered[mode].summary})" for mode in modes)
        return _problem(f"'{family}' needs a mode.", f"Write {which}.")
    if text.partition("@")[0] in {family, *modes}:
        return _problem(f"'{text.partition('@')[0]}' takes no version.", f"Write {' or '.join(modes)}.")
    return _problem(f"{show(text)} is no dependency.", f"There are {', '.join(modes)}.")


def _clashing(found: dict[str, Dependency]) -> Iterator[Problem]:
    """Of a family only one mode may be asked for."""
    families: dict[str, list[str]] = {}
    for each in found.values():
        if each.entry.kind == "plugin":
            families.setdefault(each.name.partition(":")[0], []).append(each.name)
    for modes in families.values():
        if len(modes) > 1:
            yield _problem(f"{' and '.join(sorted(modes))} exclude each other.", "Keep one of them.")


def _check_version(entry: Entry, text: str, version: str | None) -> Problem | None:
    """Say what is wrong with the VERSION asked for, if one was."""
    if version is None:
        return None
    if not _VERSION.fullmatch(version):
        return _bad_version(text, version)
    if entry.kind in {"apt", "meta"}:
        what = "is a bundle" if entry.kind == "meta" else "comes from the base image's distribution"
        return _problem(f"'{entry.name}' {what}; it takes no version.", f"Write {entry.name}.")
    if entry.name in _RUNTIME_VERSIONS:
        shape, example = _RUNTIME_VERSIONS[entry.name]
        match = shape.fullmatch(version)
        if match is None:
            return _problem(f"{entry.name} has no version {show(version)}.", f"Versions look like {example}.")
        if entry.versions and match[1] not in entry.versions:
            return _problem(f"There is no {text}.", f"There are {', '.join(entry.versions)}.")
    return None


def _unknown(text: str, name: str) -> Problem:
    close = nearest(name, REGISTRY)
    return _problem(
        f"There is no dependency {show(text)}.",
        (f"Did you mean {close}? " if close else "") + "`moat deps list` shows what there is.",
    )


def _missing(found: dict[str, Dependency]) -> Iterator[Problem]:
    needed: dict[str, list[str]] = {}
    for each in found.values():
        for name in each.entry.requires:
            if name not in found:
                needed.setdefault(name, []).append(each.name)
    for name, by in sorted(needed.items()):
        verb = "needs" if len(by) == 1 else "need"
        yield _problem(
            f"{', '.join(sorted(by))} {verb} {name}, which is not listed.", f"Add to dependencies:\n  - {name}"
        )


def _bad_version(text: str, version: str) -> Problem:
    what = f"{show(version)} is no version" if version else "there is no version after the @"
    return _problem(f"{show(text)} is no dependency: {what}.", "A version has letters, digits, dots and dashes.")


def _problem(message: str, hint: str) -> Problem:
    return Problem(message, hint, "dependencies")
