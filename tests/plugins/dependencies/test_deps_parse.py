"""Reading `dependencies:`: what is accepted, what is refused, and what is said about it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moat_core.types import Problem
from moat_plugins.dependencies.parse import Dependency, parse, resolve
from moat_plugins.dependencies.registry import DYNAMIC, KINDS, REGISTRY

# The names that the issue asks for, by kind.
WANTED = {
    "runtime": "node go python",
    "github-binary": "bun uv sqlc golangci-lint gh task gofumpt goreleaser air buf act yq ripgrep fd bat fzf delta "
    "lazygit opentofu terragrunt",
    "apt": "psql mysql-client git make bats jq curl redis-cli sqlite3",
    "npm": "typescript codex-cli copilot-cli gemini-cli pi-cli graphite-cli protoc-gen-es protoc-gen-connect-es "
    "prettier eslint",
    "go-install": "protoc-gen-go protoc-gen-go-grpc protoc-gen-connect-go protoc-gen-grpc-gateway "
    "protoc-gen-openapiv2 protoc-gen-grpc-gateway-ts protoc-gen-validate protoc-gen-doc gopls govulncheck mockgen",
    "uv-tool": "ruff black mypy pytest",
    "custom": "rust npm yarn pnpm claude-code protoc playwright aws docker-cli gcloud terraform kubectl helm",
    "meta": "go-extras cli-essentials python-dev node-dev k8s protobuf protobuf-es protobuf-grpc-gateway",
}


def test_every_wanted_name_is_there():
    """The registry has the names and kinds asked for, and no others."""
    found = {kind: {entry.name for entry in REGISTRY.values() if entry.kind == kind} for kind in WANTED}
    assert found == {kind: set(names.split()) for kind, names in WANTED.items()}
    assert set(DYNAMIC) == {"npm", "pip", "uv", "cargo", "go"}


@pytest.mark.parametrize("entry", [*REGISTRY.values(), *DYNAMIC.values()], ids=lambda entry: entry.name)
def test_registry_holds_together(entry):
    """What an entry needs and stands for exists; its default is one of its versions; its summary is one line."""
    assert entry.kind in KINDS
    assert all(name in REGISTRY for name in (*entry.requires, *entry.members))
    assert not entry.versions or entry.default in {"", *entry.versions}
    assert entry.summary == entry.summary.strip()
    assert 0 < len(entry.summary) < 70
    assert not entry.members or entry.kind == "meta"
    if entry.download:
        assert entry.default
        assert "{version}" in entry.download.url
        assert "@arch@" in entry.download.url
        assert entry.download.url.startswith("https://")
        assert all(len(digest) == 64 for digest in entry.download.sha256.values())


@pytest.mark.parametrize(
    ("text", "name", "package", "version"),
    [
        ("git", "git", "git", ""),
        ("node", "node", "", "22"),
        ("node@20", "node", "", "20"),
        ("node@20.11.1", "node", "", "20.11.1"),
        ("python@3.12.4", "python", "", "3.12.4"),
        ("go@1.22", "go", "", "1.22"),
        ("psql", "psql", "postgresql-client", ""),
        ("npm:left-pad", "npm:left-pad", "left-pad", ""),
        ("npm:@scope/name@1.2.3-rc.1", "npm:@scope/name", "@scope/name", "1.2.3-rc.1"),
        ("pip:requests[socks]@2.32", "pip:requests[socks]", "requests[socks]", "2.32"),
        ("uv:httpie", "uv:httpie", "httpie", ""),
        ("cargo:tokei@12.1.2", "cargo:tokei", "tokei", "12.1.2"),
        ("go:example.com/x/cmd/y@v1.0.0", "go:example.com/x/cmd/y", "example.com/x/cmd/y", "v1.0.0"),
    ],
)
def test_what_is_accepted(text, name, package, version):
    """A name, a version, and any registry's package."""
    found = parse(text)
    assert isinstance(found, Dependency)
    assert (found.name, found.package, found.version) == (name, package, version)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("rufff", "There is no dependency 'rufff'", "Did you mean ruff?"),
        ("Node", "There is no dependency 'Node'", "Did you mean node?"),
        ("", "There is no dependency", "moat deps list"),
        ("node@", "no version after the @", "letters"),
        ("node@99", "There is no node@99", "18, 20, 22, 24"),
        ("node@22.1", "has no version '22.1'", "22 or 22.11.0"),
        ("python@3", "has no version '3'", "3.12"),
        ("go@2", "has no version '2'", "1.25"),
        ("git@2.40", "it takes no version", "Write git."),
        ("k8s@1", "is a bundle", "Write k8s."),
        ("ruff@1 2", "is no version", "letters"),
        ("ruff@$(id)", "is no version", "letters"),
        ("nmp:x", "there is no 'nmp:'", "Did you mean npm:x?"),
        ("docker:x", "there is no 'docker:'", "npm:, pip:"),
        ("npm:", "'' is not the name", "npm:NAME"),
        ("npm:A;rm -rf /", "is not the name", "npm:NAME"),
        ("npm:../x", "is not the name", "npm:NAME"),
        ("pip:a==1", "is not the name", "pip:NAME@VERSION"),
        ("pip:--index-url", "is not the name", "pip:NAME"),
        ("go:fmt", "is not the name", "go:NAME"),
        ("cargo:" + "x" * 300, "is not the name", "cargo:NAME"),
    ],
)
def test_what_is_refused_is_explained(text, message, hint):
    """Each mistake has a sentence, and what to write instead."""
    found = parse(text)
    assert isinstance(found, Problem)
    assert message in found.message
    assert hint in found.hint
    assert found.where == "dependencies"


@given(st.text(max_size=60) | st.builds("{}:{}".format, st.sampled_from(sorted(DYNAMIC)), st.text(max_size=60)))
def test_nothing_strange_gets_through(text):
    """Whatever the text, it is a dependency of harmless characters, or a problem of one printable line."""
    found = parse(text)
    if isinstance(found, Problem):
        assert found.message.isprintable()
    else:
        allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-@/[],~:")
        assert set(found.name + found.package + found.version) <= allowed
        assert not found.package.startswith("-")
        assert not found.version.startswith("-")


@given(st.sampled_from(sorted(REGISTRY)), st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,20}[A-Za-z0-9]", fullmatch=True))
def test_versions_are_kept_as_they_are(name, version):
    """A version is installed as it was written, or refused."""
    found = parse(f"{name}@{version}")
    assert isinstance(found, Problem) or (found.version == version and found.asked)


def names(*texts, requested=()):
    found, problems = resolve(texts, requested)
    assert problems == []
    return [str(each) for each in found]


def test_bundles_are_their_members():
    """A bundle is replaced by what it stands for, each once, sorted."""
    assert names("python", "python-dev", "ruff") == ["black", "mypy", "pytest", "python", "ruff", "uv@0.11.6"]


def test_a_version_beats_none():
    """A bundle's or a bare name's default gives way to a version that is asked for, in any order."""
    for texts in (("python", "python-dev", "ruff@0.5.0"), ("ruff@0.5.0", "python-dev", "python")):
        assert "ruff@0.5.0" in names(*texts)


def test_a_request_beats_the_config():
    """What the flag says wins; a bare name in the flag leaves the config's version."""
    assert names("node@20", requested=("node@22",)) == ["node@22"]
    assert names("node@20", requested=("node",)) == ["node@20"]
    assert names("jq", requested=("git",)) == ["git", "jq"]


def test_two_versions_in_one_list_are_a_mistake():
    """Nobody can know which was meant."""
    _, problems = resolve(["node@20", "node@22"])
    assert "listed twice" in problems[0].message
    assert resolve(["node@20", "node@20"])[1] == []


def test_missing_requirement_names_the_line_to_add():
    """What must be listed, too, is named once for all that need it, with the line to write."""
    _, problems = resolve(["pytest", "ruff", "npm:x"])
    assert [(problem.message, problem.hint) for problem in problems] == [
        ("npm:x needs node, which is not listed.", "Add to dependencies:\n  - node"),
        ("pytest, ruff need python, which is not listed.", "Add to dependencies:\n  - python"),
    ]


def test_all_mistakes_are_told_at_once():
    """Every wrong entry is a problem of its own."""
    assert len(resolve(["a-typo", "node@99", "npm:x@"])[1]) == 3


@given(st.lists(st.sampled_from(sorted(set(REGISTRY) - set(WANTED["meta"].split()))), max_size=8), st.randoms())
def test_order_does_not_matter(texts, random):
    """The same names in another order are the same dependencies."""
    shuffled = list(texts)
    random.shuffle(shuffled)
    assert resolve(texts)[0] == resolve(shuffled)[0]
