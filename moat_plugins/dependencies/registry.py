"""The names that may stand in ``dependencies:``, as data: what each is, needs, and where it comes from.

A version is what is installed when none is asked for; empty means the newest, or the distribution's own. Release
files are fetched over https; where ``sha256`` names a digest for the default version, it is checked. None is
filled in so far: a digest belongs here only when somebody has verified it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import attrs

if TYPE_CHECKING:
    from moat_core.types import DependencyInfo

__all__ = ["DYNAMIC", "KINDS", "REGISTRY", "Download", "Entry", "Installer", "Kind", "make_entry"]

Kind = Literal["runtime", "github-binary", "apt", "npm", "go-install", "uv-tool", "custom", "meta", "dynamic", "plugin"]

Installer = Literal[
    "apt", "cargo", "custom", "download", "go", "go-install", "meta", "node", "npm", "plugin", "python",
    "python-package", "python-program",
]  # fmt: skip
"""How it gets into the image; see `moat_plugins.dependencies.dockerfile`."""

KINDS: Mapping[Kind, str] = MappingProxyType(
    {
        "runtime": "a language, from its official image, the distribution, or its maker",
        "github-binary": "a program from a release on GitHub",
        "apt": "a package of the base image's distribution",
        "npm": "a package from npm's registry, installed for everybody",
        "go-install": "a program built by `go install`",
        "uv-tool": "a Python program, installed by uv",
        "custom": "something with an installer of its own",
        "meta": "a bundle of others",
        "dynamic": "any package of a registry, by its name there",
        "plugin": "something that a plugin brings",
    }
)


@attrs.frozen
class Download:
    """A file of a release.

    Args:
        url: With ``{version}``, and ``@arch@`` for the word that the project has for the machine.
        amd64: That word for x86-64.
        arm64: Likewise.
        member: The program's path in the archive, with the same placeholders; empty: the file is the program.
        sha256: ``amd64`` and ``arm64`` -> digest of the default version's file.
    """

    url: str
    amd64: str
    arm64: str
    member: str = ""
    sha256: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Entry:
    """One name.

    Args:
        default: The version when none is asked for.
        versions: The only ones there are; empty: any.
        requires: Names that must be listed, too.
        members: What a bundle stands for.
        package: What it is called in its registry.
        command: The program's name, if it is another.
        implies: Names that are installed with it, for what a plugin brings, as for the next.
        script: What the build runs as root.
    """

    name: str
    kind: Kind
    installer: Installer
    summary: str
    default: str = ""
    versions: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    package: str = ""
    command: str = ""
    download: Download | None = None
    implies: tuple[str, ...] = ()
    script: str = ""

    @property
    def program(self) -> str:
        """The name of its program."""
        return self.command or self.name


def make_entry(info: DependencyInfo) -> Entry:
    """Return the entry for what a plugin brings."""
    return Entry(info.name, "plugin", "plugin", info.summary, implies=info.implies, script=info.script)


def _github(
    name: str,
    summary: str,
    default: str,
    source: str,
    arches: tuple[str, str] = ("amd64", "arm64"),
    *,
    member: str = "",
    requires: tuple[str, ...] = (),
    command: str = "",
) -> Entry:
    """Return an entry for SOURCE, which is ``owner/repo``, the tag and the file's name, with spaces between."""
    repository, tag, file = source.split()
    url = f"https://github.com/{repository}/releases/download/{tag}/{file}"
    download = Download(url, *arches, member=member)
    return Entry(
        name, "github-binary", "download", summary, default, requires=requires, command=command, download=download
    )


def _apt(name: str, summary: str, package: str = "") -> Entry:
    return Entry(name, "apt", "apt", summary, package=package or name)


def _npm(name: str, summary: str, package: str = "", default: str = "", command: str = "") -> Entry:
    return Entry(name, "npm", "npm", summary, default, requires=("node",), package=package or name, command=command)


def _go(name: str, summary: str, package: str) -> Entry:
    return Entry(name, "go-install", "go-install", summary, requires=("go",), package=package)


def _uv(name: str, summary: str) -> Entry:
    return Entry(name, "uv-tool", "python-program", summary, requires=("python",), package=name)


def _uv_shared(name: str, summary: str) -> Entry:
    """Return an entry for what must be beside the run's own packages, because it imports them."""
    return Entry(name, "uv-tool", "python-package", summary, requires=("python",), package=name)


def _npm_custom(name: str, summary: str, package: str, default: str = "", command: str = "") -> Entry:
    return Entry(name, "custom", "npm", summary, default, requires=("node",), package=package, command=command)


def _meta(name: str, summary: str, *members: str) -> Entry:
    return Entry(name, "meta", "meta", summary, members=members)


_GNU = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")
_MUSL = ("x86_64-unknown-linux-musl", "aarch64-unknown-linux-gnu")
_UNAME = ("x86_64", "aarch64")
_MIXED = ("x86_64", "arm64")
_GATEWAY = "github.com/grpc-ecosystem/grpc-gateway/v2"

_ENTRIES = (
    Entry("node", "runtime", "node", "Node.js, with npm", "22", ("18", "20", "22", "24")),
    Entry("go", "runtime", "go", "The Go toolchain", "1.25"),
    Entry(
        "python",
        "runtime",
        "python",
        "Python 3, with pip; without a version the distribution's own",
        "",
        ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14"),
    ),
    # -- releases on GitHub
    _github(
        "bun", "JavaScript runtime and package manager", "1.1.38",
        "oven-sh/bun bun-v{version} bun-linux-@arch@.zip", ("x64", "aarch64"), member="bun-linux-@arch@/bun",
    ),
    _github(
        "uv", "Python package and project manager", "0.11.6",
        "astral-sh/uv {version} uv-@arch@.tar.gz", _GNU, member="uv-@arch@/uv",
    ),
    _github(
        "sqlc", "Makes Go code from SQL", "1.25.0",
        "sqlc-dev/sqlc v{version} sqlc_{version}_linux_@arch@.tar.gz", member="sqlc",
    ),
    _github(
        "golangci-lint", "Runs Go linters", "2.8.0",
        "golangci/golangci-lint v{version} golangci-lint-{version}-linux-@arch@.tar.gz",
        member="golangci-lint-{version}-linux-@arch@/golangci-lint",
    ),
    _github(
        "gh", "GitHub's command line", "2.40.0", "cli/cli v{version} gh_{version}_linux_@arch@.tar.gz",
        member="gh_{version}_linux_@arch@/bin/gh", requires=("git",),
    ),
    _github(
        "task", "Task runner", "3.40.0", "go-task/task v{version} task_linux_@arch@.tar.gz", member="task"
    ),
    _github(
        "gofumpt", "A stricter gofmt", "0.9.2",
        "mvdan/gofumpt v{version} gofumpt_v{version}_linux_@arch@", requires=("go",),
    ),
    _github(
        "goreleaser", "Makes releases of Go programs", "2.13.3",
        "goreleaser/goreleaser v{version} goreleaser_Linux_@arch@.tar.gz", _MIXED, member="goreleaser",
    ),
    _github(
        "air", "Rebuilds a Go program when its files change", "1.52.0",
        "air-verse/air v{version} air_{version}_linux_@arch@.tar.gz", member="air", requires=("go",),
    ),
    _github(
        "buf", "Works with Protocol Buffers", "1.47.0",
        "bufbuild/buf v{version} buf-Linux-@arch@.tar.gz", _UNAME, member="buf/bin/buf",
    ),
    _github(
        "act", "Runs GitHub Actions locally", "0.2.70",
        "nektos/act v{version} act_Linux_@arch@.tar.gz", _MIXED, member="act",
    ),
    _github(
        "yq", "jq for YAML", "4.45.4", "mikefarah/yq v{version} yq_linux_@arch@.tar.gz",
        member="yq_linux_@arch@",
    ),
    _github(
        "ripgrep", "Searches files quickly", "14.1.1",
        "BurntSushi/ripgrep {version} ripgrep-{version}-@arch@.tar.gz", _MUSL,
        member="ripgrep-{version}-@arch@/rg", command="rg",
    ),
    _github(
        "fd", "Finds files quickly", "10.2.0", "sharkdp/fd v{version} fd-v{version}-@arch@.tar.gz", _MUSL,
        member="fd-v{version}-@arch@/fd",
    ),
    _github(
        "bat", "cat with colours", "0.24.0", "sharkdp/bat v{version} bat-v{version}-@arch@.tar.gz", _MUSL,
        member="bat-v{version}-@arch@/bat",
    ),
    _github(
        "fzf", "Fuzzy finder", "0.56.0", "junegunn/fzf v{version} fzf-{version}-linux_@arch@.tar.gz",
        member="fzf",
    ),
    _github(
        "delta", "Shows diffs of git", "0.18.0",
        "dandavison/delta {version} delta-{version}-@arch@.tar.gz", _MUSL, member="delta-{version}-@arch@/delta",
    ),
    _github(
        "lazygit", "git in the terminal", "0.44.0",
        "jesseduffield/lazygit v{version} lazygit_{version}_Linux_@arch@.tar.gz", _MIXED, member="lazygit",
    ),
    _github(
        "opentofu", "Infrastructure as code", "1.9.0",
        "opentofu/opentofu v{version} tofu_{version}_linux_@arch@.tar.gz", member="tofu", command="tofu",
    ),
    _github(
        "terragrunt", "Orchestrates OpenTofu and Terraform", "1.0.2",
        "gruntwork-io/terragrunt v{version} terragrunt_linux_@arch@",
    ),
    # -- packages of the distribution
    _apt("psql", "PostgreSQL's client", "postgresql-client"),
    _apt("mysql-client", "MySQL's client", "default-mysql-client"),
    _apt("git", "Version control"),
    _apt("make", "Builds what has changed"),
    _apt("bats", "Tests for shell scripts"),
    _apt("jq", "Works with JSON"),
    _apt("curl", "Fetches URLs"),
    _apt("redis-cli", "Redis' client", "redis-tools"),
    _apt("sqlite3", "SQLite's shell"),
    # -- npm
    _npm("typescript", "TypeScript's compiler", command="tsc"),
    _npm("codex-cli", "OpenAI Codex", "@openai/codex", "0.146.0", "codex"),
    _npm("copilot-cli", "GitHub Copilot", "@github/copilot", command="copilot"),
    _npm("gemini-cli", "Google Gemini", "@google/gemini-cli", command="gemini"),
    _npm("pi-cli", "The coding agent pi", "@mariozechner/pi-coding-agent", command="pi"),
    _npm("graphite-cli", "Stacked pull requests", "@withgraphite/graphite-cli", command="gt"),
    _npm("protoc-gen-es", "Protocol Buffers for JavaScript", "@bufbuild/protoc-gen-es"),
    _npm("protoc-gen-connect-es", "Connect for JavaScript", "@connectrpc/protoc-gen-connect-es"),
    _npm("prettier", "Formats JavaScript and more"),
    _npm("eslint", "Checks JavaScript"),
    # -- go install
    _go("protoc-gen-go", "Protocol Buffers for Go", "google.golang.org/protobuf/cmd/protoc-gen-go"),
    _go("protoc-gen-go-grpc", "gRPC for Go", "google.golang.org/grpc/cmd/protoc-gen-go-grpc"),
    _go("protoc-gen-connect-go", "Connect for Go", "connectrpc.com/connect/cmd/protoc-gen-connect-go"),
    _go("protoc-gen-grpc-gateway", "REST in front of gRPC", f"{_GATEWAY}/protoc-gen-grpc-gateway"),
    _go("protoc-gen-openapiv2", "OpenAPI from Protocol Buffers", f"{_GATEWAY}/protoc-gen-openapiv2"),
    _go(
        "protoc-gen-grpc-gateway-ts",
        "TypeScript clients of grpc-gateway",
        "github.com/grpc-ecosystem/protoc-gen-grpc-gateway-ts",
    ),
    _go("protoc-gen-validate", "Validation for messages", "github.com/envoyproxy/protoc-gen-validate"),
    _go("protoc-gen-doc", "Documentation", "github.com/pseudomuto/protoc-gen-doc/cmd/protoc-gen-doc"),
    _go("gopls", "Go's language server", "golang.org/x/tools/gopls"),
    _go("govulncheck", "Finds known vulnerabilities", "golang.org/x/vuln/cmd/govulncheck"),
    _go("mockgen", "Makes mocks of Go interfaces", "go.uber.org/mock/mockgen"),
    # -- Python programs
    _uv("ruff", "Checks and formats Python"),
    _uv("black", "Formats Python"),
    _uv_shared("mypy", "Checks Python's types"),
    _uv_shared("pytest", "Runs Python tests"),
    # -- with installers of their own
    Entry("rust", "custom", "custom", "Rust, with cargo", "stable", command="cargo"),
    _npm_custom("npm", "Another npm than Node's own", "npm", "11"),
    _npm_custom("yarn", "Package manager", "yarn"),
    _npm_custom("pnpm", "Package manager", "pnpm"),
    _npm_custom("claude-code", "Claude Code", "@anthropic-ai/claude-code", command="claude"),
    Entry("protoc", "custom", "custom", "Protocol Buffers' compiler", "25.1"),
    Entry("playwright", "custom", "custom", "Drives browsers; with Chromium", requires=("node",), package="playwright"),
    Entry("aws", "custom", "custom", "Amazon's command line", "2"),
    Entry(
        "docker-cli", "custom", "custom", "Docker's command line, with buildx and compose", command="docker"
    ),
    Entry("gcloud", "custom", "custom", "Google Cloud's command line", requires=("python",)),
    Entry("terraform", "custom", "custom", "Infrastructure as code", "1.10.0"),
    Entry("kubectl", "custom", "custom", "Kubernetes' command line", "stable"),
    Entry("helm", "custom", "custom", "Package manager of Kubernetes", "3.16.0"),
    # -- bundles
    _meta("go-extras", "Go tools", "gofumpt", "govulncheck", "goreleaser", "golangci-lint"),
    _meta("cli-essentials", "Command-line tools", "jq", "yq", "fzf", "ripgrep", "fd", "bat"),
    _meta("python-dev", "Python tools", "uv", "ruff", "black", "mypy", "pytest"),
    _meta("node-dev", "JavaScript tools", "typescript", "prettier", "eslint"),
    _meta("k8s", "Kubernetes tools", "kubectl", "helm"),
    _meta("protobuf", "Protocol Buffers, for Go", "protoc", "buf", "protoc-gen-go", "protoc-gen-go-grpc"),
    _meta("protobuf-es", "Protocol Buffers, for JavaScript", "buf", "protoc-gen-es", "protoc-gen-connect-es"),
    _meta(
        "protobuf-grpc-gateway",
        "REST in front of gRPC",
        "protoc",
        "protoc-gen-go",
        "protoc-gen-go-grpc",
        "protoc-gen-grpc-gateway",
        "protoc-gen-openapiv2",
    ),
)  # fmt: skip

REGISTRY: Mapping[str, Entry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Name -> what it is."""

DYNAMIC: Mapping[str, Entry] = MappingProxyType(
    {
        "npm": Entry("npm:", "dynamic", "npm", "Any package of npm's registry", requires=("node",)),
        "pip": Entry("pip:", "dynamic", "python-package", "Any Python package", requires=("python",)),
        "uv": Entry("uv:", "dynamic", "python-program", "Any Python program", requires=("python",)),
        "cargo": Entry("cargo:", "dynamic", "cargo", "Any program on crates.io", requires=("rust",)),
        "go": Entry("go:", "dynamic", "go-install", "Any Go program, by its path", requires=("go",)),
    }
)
"""Prefix -> what ``prefix:NAME`` is."""
