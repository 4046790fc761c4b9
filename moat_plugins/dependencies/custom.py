"""Installers of those that have one of their own: sh lines for one RUN each."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moat_plugins.dependencies.parse import Dependency

__all__ = ["APT", "custom_commands", "program_command"]

APT = {
    "aws": ("curl", "unzip"),
    "gcloud": ("curl",),
    "helm": ("curl",),
    "kubectl": ("curl",),
    "protoc": ("curl", "unzip"),
    "rust": ("curl", "gcc", "libc6-dev"),
    "terraform": ("curl", "unzip"),
}
"""What each needs of the distribution."""


def program_command(name: str, url: str, member: str, words: tuple[str, str], sha: tuple[str, str] = ("", "")) -> str:
    """Return the call that fetches a program; see ``moat_program`` in the script ``fetch.sh``."""
    return shlex.join(["moat_program", name, url, member, *words, *sha])


def custom_commands(dependency: Dependency) -> list[str]:
    """Return what installs DEPENDENCY, a command each; ``fetch.sh`` is sourced before."""
    version = dependency.version if dependency.asked or dependency.name != "aws" else ""
    return _INSTALLERS[dependency.name](version)


def _rust(toolchain: str) -> list[str]:
    chosen = shlex.quote(toolchain)
    source = "https://static.rust-lang.org/rustup/dist/$moat_host/rustup-init"
    return [
        "moat_host=$(moat_word x86_64 aarch64)-unknown-linux-gnu",
        f'moat_get "{source}" /tmp/rustup-init',
        f'moat_get "{source}.sha256" /tmp/rustup-init.sha256',
        'moat_check /tmp/rustup-init "$(cut -c 1-64 /tmp/rustup-init.sha256)"',
        "chmod +x /tmp/rustup-init",
        "export RUSTUP_HOME=/opt/moat/rustup CARGO_HOME=/opt/moat/cargo",
        "cd /tmp",
        f"./rustup-init -y --no-modify-path --profile minimal -c clippy -c rustfmt --default-toolchain {chosen}",
        "ln -s /opt/moat/cargo/bin/* /usr/local/bin/",
        "chmod -R a+rwX /opt/moat/rustup /opt/moat/cargo",
        "rm /tmp/rustup-init /tmp/rustup-init.sha256",
    ]


def _protoc(version: str) -> list[str]:
    base = "https://github.com/protocolbuffers/protobuf/releases/download"
    return [
        f"moat_file=protoc-{version}-linux-$(moat_word x86_64 aarch_64).zip",
        f'moat_get "{base}/v{version}/$moat_file" /tmp/protoc.zip',
        "unzip -q /tmp/protoc.zip 'bin/*' 'include/*' -d /usr/local",
        "chmod -R a+rX /usr/local/bin /usr/local/include",
        "rm /tmp/protoc.zip",
    ]


def _playwright(version: str) -> list[str]:
    package = f"playwright@{version}" if version else "playwright"
    return [
        "export PLAYWRIGHT_BROWSERS_PATH=/opt/moat/playwright",
        f"npm install --global --no-fund --no-audit --cache /tmp/npm {shlex.quote(package)}",
        "playwright install --with-deps chromium",
        "chmod -R a+rX /opt/moat/playwright",
        "rm -rf /tmp/npm /var/lib/apt/lists/*",
    ]


def _aws(version: str) -> list[str]:
    release = f"-{version}" if "." in version else ""
    return [
        f"moat_file=awscli-exe-linux-$(moat_word x86_64 aarch64){release}.zip",
        'moat_get "https://awscli.amazonaws.com/$moat_file" /tmp/aws.zip',
        "unzip -q /tmp/aws.zip -d /tmp/aws",
        "cd /tmp/aws/aws",
        "./install --install-dir /opt/moat/aws --bin-dir /usr/local/bin",
        "cd /",
        "rm -rf /tmp/aws /tmp/aws.zip",
    ]


def _gcloud(version: str) -> list[str]:
    release = f"-{version}" if version else ""
    return [
        f"moat_file=google-cloud-cli{release}-linux-$(moat_word x86_64 arm).tar.gz",
        'moat_get "https://dl.google.com/dl/cloudsdk/channels/rapid/downloads/$moat_file" /tmp/gcloud.tar.gz',
        "moat_unpack /tmp/gcloud.tar.gz /opt/moat",
        "cd /opt/moat/google-cloud-sdk/bin",
        'ln -s "$PWD/gcloud" "$PWD/gsutil" "$PWD/bq" /usr/local/bin/',
        "rm /tmp/gcloud.tar.gz",
    ]


def _kubectl(version: str) -> list[str]:
    release = (
        [
            "moat_get https://dl.k8s.io/release/stable.txt /tmp/stable",
            "moat_release=$(cat /tmp/stable)",
            "rm /tmp/stable",
        ]
        if version == "stable"
        else [f"moat_release=v{version.removeprefix('v')}"]
    )
    return [
        *release,
        "moat_url=https://dl.k8s.io/release/$moat_release/bin/linux/$(moat_word amd64 arm64)/kubectl",
        'moat_get "$moat_url" /tmp/kubectl',
        'moat_get "$moat_url.sha256" /tmp/kubectl.sha256',
        'moat_check /tmp/kubectl "$(cut -c 1-64 /tmp/kubectl.sha256)"',
        "install -m 755 /tmp/kubectl /usr/local/bin/kubectl",
        "rm /tmp/kubectl /tmp/kubectl.sha256",
    ]


def _terraform(version: str) -> list[str]:
    url = f"https://releases.hashicorp.com/terraform/{version}/terraform_{version}_linux_@arch@.zip"
    return [program_command("terraform", url, "terraform", ("amd64", "arm64"))]


def _helm(version: str) -> list[str]:
    url = f"https://get.helm.sh/helm-v{version}-linux-@arch@.tar.gz"
    return [program_command("helm", url, "linux-@arch@/helm", ("amd64", "arm64"))]


def _docker_cli(_: str) -> list[str]:
    """Return the client alone; Ubuntu has it in one package with the engine, and calls compose differently."""
    return [
        "moat_names='docker-cli docker-buildx docker-compose'",
        "! grep -q '^ID=ubuntu' /etc/os-release || moat_names='docker.io docker-buildx docker-compose-v2'",
        "moat_newer $moat_names",
        "rm -rf /var/lib/apt/lists/*",
    ]


_INSTALLERS = {
    "aws": _aws,
    "docker-cli": _docker_cli,
    "gcloud": _gcloud,
    "helm": _helm,
    "kubectl": _kubectl,
    "playwright": _playwright,
    "protoc": _protoc,
    "rust": _rust,
    "terraform": _terraform,
}
