"""The sh texts that a build's context carries, where an installation is more than a line.

They are in the image's tag with every byte. ``set -eu`` comes with the first; all say what they could not do.
"""

from __future__ import annotations

__all__ = ["FETCH", "FOLDER", "GO", "NODE", "SCRIPTS"]

FOLDER = "/usr/local/lib/moat"
"""Where they are in the image."""

FETCH = """\
# To be sourced: fetching, checking and unpacking.
set -eu

# moat_word AMD64 ARM64: what a project calls this machine
moat_word() {
  case $(dpkg --print-architecture) in
    amd64) printf %s "$1" ;;
    arm64) printf %s "$2" ;;
    *) echo "moat: there is nothing to download for $(dpkg --print-architecture)." >&2; exit 1 ;;
  esac
}

# moat_get URL FILE
moat_get() {
  curl -fsSL --retry 3 --connect-timeout 30 --proto '=https' -o "$2" "$1" ||
    { echo "moat: $1 cannot be fetched." >&2; exit 1; }
}

# moat_check FILE SHA256; without a digest there is nothing to check
moat_check() {
  [ -z "$2" ] || echo "$2  $1" | sha256sum -c --quiet - ||
    { echo "moat: $1 is not what it should be." >&2; exit 1; }
}

# moat_unpack FILE FOLDER
moat_unpack() {
  mkdir -p "$2"
  case $1 in
    *.zip) unzip -q "$1" -d "$2" ;;
    *) tar -xf "$1" -C "$2" --no-same-owner ;;
  esac
}

# moat_program NAME URL MEMBER AMD64 ARM64 SHA256_AMD64 SHA256_ARM64: @arch@ stands for the machine's word;
# without a member the file is the program.
moat_program() {
  moat_arch=$(moat_word "$4" "$5")
  moat_url=$(printf %s "$2" | sed "s/@arch@/$moat_arch/g")
  moat_member=$(printf %s "$3" | sed "s/@arch@/$moat_arch/g")
  moat_file=/tmp/moat-fetch/${moat_url##*/}
  mkdir -p /tmp/moat-fetch
  moat_get "$moat_url" "$moat_file"
  moat_check "$moat_file" "$(moat_word "$6" "$7")"
  if [ -n "$moat_member" ]; then
    moat_unpack "$moat_file" /tmp/moat-fetch/content
    moat_file=/tmp/moat-fetch/content/$moat_member
  fi
  install -m 755 "$moat_file" "/usr/local/bin/$1"
  rm -rf /tmp/moat-fetch
}

# moat_apt ARGUMENT…
moat_apt() {
  DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=3 "$@"
}

# moat_newer PACKAGE…: packages of Debian 13. On Debian 12 they are unpacked without being installed, from the
# mirror that the base image uses: Docker's programs there need nothing but an older libc's calls. What they depend
# on is the caller's to install.
moat_newer() {
  moat_system=$(. /etc/os-release && echo "${ID:-}:${VERSION_ID:-}")
  moat_apt update
  case $moat_system in
    debian:12) moat_unpack_newer "$@" ;;
    debian:[1-9] | debian:1[01])
      echo 'moat: Docker needs a base image of Debian 12 or newer.' >&2
      exit 1
      ;;
    *) moat_apt install -y --no-install-recommends "$@" ;;
  esac
}

moat_unpack_newer() {
  moat_main= moat_security=
  while read -r moat_label moat_uri; do
    case $moat_label in
      Debian) moat_main=${moat_uri%/} ;;
      Debian-Security) moat_security=${moat_uri%/} ;;
    esac
  done <<LIST
$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages')
LIST
  [ -n "$moat_main" ] || { echo 'moat: the base image names no mirror of Debian.' >&2; exit 1; }
  moat_work=/tmp/moat-newer
  mkdir -p "$moat_work/lists/partial" "$moat_work/cache/archives/partial" "$moat_work/debs" "$moat_work/files"
  moat_signed=
  moat_keys=/usr/share/keyrings/debian-archive-keyring.gpg
  [ ! -r "$moat_keys" ] || moat_signed="[signed-by=$moat_keys] "
  printf 'deb %s%s %s main\n' "$moat_signed" "$moat_main" trixie >"$moat_work/sources.list"
  moat_apt_newer update
  (cd "$moat_work/debs" && moat_apt_newer download "$@")
  for moat_deb in "$moat_work"/debs/*.deb; do dpkg -x "$moat_deb" "$moat_work/files"; done
  # Manuals and completions, and what only administrators of a containerd of their own call.
  (cd "$moat_work/files/usr" && rm -rf share bin/ctr bin/containerd-shim bin/containerd-shim-runc-v1)
  cp -a "$moat_work/files/usr/." /usr/
  rm -rf "$moat_work"
}

moat_apt_newer() {
  moat_apt -o Dir::Etc::SourceList="$moat_work/sources.list" -o Dir::Etc::SourceParts=- \\
    -o Dir::State::Lists="$moat_work/lists" -o Dir::Cache="$moat_work/cache" -o APT::Sandbox::User=root "$@"
}
"""

NODE = f"""\
# node.sh VERSION: Node.js and npm. What the base image has or its distribution offers, if that is the version,
# else the maker's own archive, checked against the maker's own list.
. {FOLDER}/fetch.sh
moat_wanted=$1

moat_is_wanted() {{
  case ${{1#v}}. in "$moat_wanted".*) return 0 ;; *) return 1 ;; esac
}}

if command -v node >/dev/null && command -v npm >/dev/null && moat_is_wanted "$(node --version)"; then
  exit 0
fi
apt-get -o Acquire::Retries=3 update
moat_offer=$(apt-cache policy nodejs | sed -n 's/^ *Candidate: *//p')
if moat_is_wanted "${{moat_offer%%[!0-9.]*}}"; then
  apt-get install -y --no-install-recommends nodejs npm
else
  case $moat_wanted in *.*) moat_folder=v$moat_wanted ;; *) moat_folder=latest-v$moat_wanted.x ;; esac
  moat_arch=$(moat_word x64 arm64)
  mkdir -p /tmp/moat-node
  cd /tmp/moat-node
  moat_get "https://nodejs.org/dist/$moat_folder/SHASUMS256.txt" sums
  moat_line=$(grep -E " node-v[0-9.]+-linux-$moat_arch[.]tar[.]gz\\$" sums) ||
    {{ echo "moat: there is no Node.js $moat_wanted for this machine." >&2; exit 1; }}
  moat_get "https://nodejs.org/dist/$moat_folder/${{moat_line##* }}" node.tar.gz
  moat_check node.tar.gz "${{moat_line%% *}}"
  tar -xf node.tar.gz -C /usr/local --strip-components=1 --no-same-owner
  rm -rf /tmp/moat-node
fi
rm -rf /var/lib/apt/lists/*
"""

GO = f"""\
# go.sh VERSION: the Go toolchain, checked against its maker's own list. A line of releases, as in 1.25, means
# its newest; https://go.dev/dl/?mode=json is newest first, with one field on each line.
. {FOLDER}/fetch.sh
moat_wanted=go$1
if command -v go >/dev/null; then
  case $(go env GOVERSION). in "$moat_wanted".*) exit 0 ;; esac
fi
moat_arch=$(moat_word amd64 arm64)
mkdir -p /tmp/moat-go
cd /tmp/moat-go
moat_get 'https://go.dev/dl/?mode=json&include=all' list
moat_line=$(awk -F '"' -v wanted="$moat_wanted" -v end=".linux-$moat_arch.tar.gz" '
  $2 == "filename" {{
    name = substr($4, 1, length($4) - length(end))
    found = name end == $4 && (name == wanted || index(name, wanted ".") == 1)
    file = $4
  }}
  $2 == "sha256" && found {{ print $4 " " file; exit }}' list)
[ -n "$moat_line" ] || {{ echo "moat: there is no $moat_wanted for this machine." >&2; exit 1; }}
moat_get "https://go.dev/dl/${{moat_line#* }}" go.tar.gz
moat_check go.tar.gz "${{moat_line%% *}}"
rm -rf /usr/local/go
tar -xf go.tar.gz -C /usr/local --no-same-owner
ln -sf ../go/bin/go ../go/bin/gofmt /usr/local/bin/
rm -rf /tmp/moat-go
"""

SCRIPTS = {"fetch.sh": FETCH, "go.sh": GO, "node.sh": NODE}
"""File name -> text."""
