"""The sh texts of a build, run by a real shell with fakes for what they call and a folder for the image's root."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import tarfile
import zipfile

import pytest

from moat_plugins.dependencies.scripts import FOLDER, SCRIPTS

CURL = """\
#!/bin/sh
# curl … -o FILE URL: from a folder of files named by the URL's last part
while [ $# -gt 1 ]; do [ "$1" != -o ] || file=$2; shift; done
echo "$1" >>"$FAKES/fetched"
name=${1##*/}
[ -e "$FAKES/web/${name%%\\?*}" ] || exit 22
cp "$FAKES/web/${name%%\\?*}" "$file"
"""


@pytest.fixture
def image(tmp_path):
    """A folder that stands for the image, with fakes of the programs that are called."""
    return Image(tmp_path)


class Image:
    """The scripts in it have its own paths; ``DIR`` in a command is where they are."""

    def __init__(self, folder):
        self.root, self.fakes = folder / "root", folder / "fakes"
        self.web, self.bin = self.fakes / "web", self.root / "usr/local/bin"
        self.scripts = self.root / FOLDER[1:]
        for path in (
            self.bin,
            self.scripts,
            self.root / "tmp",
            self.root / "var/lib/apt/lists",
            self.fakes / "bin",
            self.web,
        ):
            path.mkdir(parents=True)
        for name, text in SCRIPTS.items():
            (self.scripts / name).write_text(
                re.sub(r"(?<![\w.$/}])/(?=(?:usr/local|tmp|var/lib)\b)", f"{self.root}/", text)
            )
        self.fake("curl", CURL)
        self.fake("dpkg", "#!/bin/sh\necho amd64\n")

    def fake(self, name, text):
        (self.fakes / "bin" / name).write_text(text)
        (self.fakes / "bin" / name).chmod(0o755)

    def run(self, command):
        environ = {"PATH": f"{self.fakes}/bin:{self.bin}:/usr/bin:/bin", "FAKES": str(self.fakes)}
        argv = ["sh", "-c", command.replace("DIR", str(self.scripts))]
        return subprocess.run(argv, env=environ, capture_output=True, text=True, check=False, cwd=self.root)

    @property
    def fetched(self):
        path = self.fakes / "fetched"
        return path.read_text().split() if path.exists() else []


def tar(path, **files):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size, info.mode = len(data), 0o755
            archive.addfile(info, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def program(sha=""):
    return f". DIR/fetch.sh; moat_program rg https://x.example/v1/rg-@arch@.tar.gz rg-@arch@/rg x86_64 arm64 '{sha}' ''"


def test_program_is_fetched_unpacked_and_made_executable(image):
    """The machine's word is in the URL and in the path; what is left is the program alone."""
    digest = tar(image.web / "rg-x86_64.tar.gz", **{"rg-x86_64__rg": b"#!/bin/sh\necho found\n"})
    for sha in ("", digest):
        done = image.run(program(sha))
        assert done.returncode == 0, done.stderr
        assert subprocess.run([image.bin / "rg"], capture_output=True, check=True).stdout == b"found\n"
    assert image.fetched == ["https://x.example/v1/rg-x86_64.tar.gz"] * 2
    assert list((image.root / "tmp").iterdir()) == []


def test_wrong_digest_stops_the_build(image):
    """A file that is not what it should be is never installed."""
    tar(image.web / "rg-x86_64.tar.gz", **{"rg-x86_64__rg": b"evil"})
    done = image.run(program("0" * 64))
    assert done.returncode != 0
    assert "is not what it should be" in done.stderr
    assert not (image.bin / "rg").exists()


def test_missing_file_and_machine_are_said(image):
    """What cannot be fetched, and machines that nobody builds for, end the build with a sentence."""
    done = image.run(program())
    assert done.returncode != 0
    assert "https://x.example/v1/rg-x86_64.tar.gz cannot be fetched" in done.stderr
    image.fake("dpkg", "#!/bin/sh\necho riscv64\n")
    done = image.run(program())
    assert done.returncode != 0
    assert "nothing to download for riscv64" in done.stderr


def test_bare_program_and_zip(image):
    """A file that is the program itself, and a zip archive."""
    (image.web / "tool").write_bytes(b"#!/bin/sh\necho bare\n")
    assert image.run(". DIR/fetch.sh; moat_program tool https://x.example/tool '' a b '' ''").returncode == 0
    assert subprocess.run([image.bin / "tool"], capture_output=True, check=True).stdout == b"bare\n"
    with zipfile.ZipFile(image.web / "t.zip", "w") as archive:
        archive.writestr("t", "#!/bin/sh\necho zipped\n")
    image.fake("unzip", '#!/bin/sh\nexec python3 -m zipfile -e "$2" "$4"\n')
    assert image.run(". DIR/fetch.sh; moat_program t https://x.example/t.zip t a b '' ''").returncode == 0
    assert subprocess.run([image.bin / "t"], capture_output=True, check=True).stdout == b"zipped\n"


def node_release(image, version, broken=False):
    name = f"node-v{version}-linux-x64.tar.gz"
    digest = tar(image.web / name, **{f"node-v{version}__bin__node": b"#!/bin/sh\n"})
    sums = f"{'0' * 64}  node-v{version}-linux-arm64.tar.gz\n{'1' * 64 if broken else digest}  {name}\n{'2' * 64}  {name}.asc\n"
    (image.web / "SHASUMS256.txt").write_text(sums)


@pytest.mark.parametrize(("wanted", "folder"), [("22", "latest-v22.x"), ("22.11.0", "v22.11.0")])
def test_node_from_its_maker(image, wanted, folder):
    """A version that the distribution has not comes from the maker, the list saying which file and its digest."""
    image.fake("apt-get", '#!/bin/sh\n[ "$1" != install ] || exit 1\n')
    image.fake("apt-cache", "#!/bin/sh\necho '  Candidate: 18.19.0+dfsg-6~deb12u2'\n")
    image.fake("node", "#!/bin/sh\necho v20.1.0\n")
    image.fake("npm", "#!/bin/sh\n")
    node_release(image, "22.11.0")
    done = image.run(f"sh DIR/node.sh {wanted}")
    assert done.returncode == 0, done.stderr
    assert (image.bin / "node").exists()
    assert image.fetched[0] == f"https://nodejs.org/dist/{folder}/SHASUMS256.txt"
    assert image.fetched[1] == f"https://nodejs.org/dist/{folder}/node-v22.11.0-linux-x64.tar.gz"


def test_node_from_the_distribution(image):
    """The distribution's own is taken where it is the version that is wanted."""
    image.fake("apt-get", '#!/bin/sh\necho "$@" >>"$FAKES/apt"\n')
    image.fake("apt-cache", "#!/bin/sh\necho '  Candidate: 18.19.0+dfsg-6~deb12u2'\n")
    done = image.run("sh DIR/node.sh 18 && cat $FAKES/apt")
    assert "install -y --no-install-recommends nodejs npm" in done.stdout
    assert image.fetched == []


def test_node_of_the_base_is_kept(image):
    """A base that has the version already is left as it is."""
    image.fake("node", "#!/bin/sh\necho v22.3.0\n")
    image.fake("npm", "#!/bin/sh\n")
    assert image.run("sh DIR/node.sh 22").returncode == 0
    assert image.fetched == []


def test_node_that_is_not_there_or_broken(image):
    """No such release, and a file with another digest, end the build with a sentence."""
    image.fake("apt-get", "#!/bin/sh\n")
    image.fake("apt-cache", "#!/bin/sh\necho '  Candidate: (none)'\n")
    (image.web / "SHASUMS256.txt").write_text("")
    done = image.run("sh DIR/node.sh 22")
    assert (done.returncode, "no Node.js 22" in done.stderr) == (1, True)
    node_release(image, "22.1.0", broken=True)
    done = image.run("sh DIR/node.sh 22")
    assert (done.returncode, "is not what it should be" in done.stderr) == (1, True)
    assert not (image.bin / "node").exists()


def go_list(image, *versions):
    """Write go.dev's list, newest first, as it is indented there."""
    releases = []
    for version in versions:
        name = f"{version}.linux-amd64.tar.gz"
        digest = tar(image.web / name, go__bin__go=version.encode(), go__bin__gofmt=b"")
        other = {"filename": f"{version}.linux-arm64.tar.gz", "os": "linux", "sha256": "0" * 64, "size": 1}
        ours = {"filename": name, "os": "linux", "arch": "amd64", "version": version, "sha256": digest, "size": 2}
        releases.append({"version": version, "stable": True, "files": [other, ours]})
    (image.web / "dl").write_text(json.dumps(releases, indent=1))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("1.25", "go1.25.3"), ("1.25.1", "go1.25.1"), ("1.2", "go1.2"), ("1.24", "go1.24rc2 is none")],
)
def test_go_by_line_or_release(image, wanted, expected):
    """A line of releases means its newest, never a candidate; 1.2 is not 1.25."""
    go_list(image, "go1.26rc1", "go1.25.3", "go1.25.1", "go1.24rc2", "go1.2")
    image.fake("curl", CURL.replace("name=${1##*/}", "name=${1##*/}\ncase $1 in */dl/\\?*) name=dl ;; esac"))
    done = image.run(f"sh DIR/go.sh {wanted}")
    if "none" in expected:
        assert (done.returncode, "there is no go1.24" in done.stderr) == (1, True)
    else:
        assert done.returncode == 0, done.stderr
        assert (image.bin.parent / "go/bin/go").read_text() == expected
        assert (image.bin / "go").resolve() == (image.bin.parent / "go/bin/go")
