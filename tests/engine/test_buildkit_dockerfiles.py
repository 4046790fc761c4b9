"""Dockerfiles, generated and puzzling: our builds are those of `docker buildx build`: files, config, cache, refusals."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import re
import secrets
import subprocess
import tarfile
import time
import zlib
from types import SimpleNamespace

import anyio
import pytest

from moat_plugins.buildkit.api import BuildError, BuildKit, Output

pytestmark = pytest.mark.engine
# Written by a RUN, it is the same in two builds only if the second took the first one's result.
CHANCE = "$(od -An -N8 -tx8 /dev/urandom)"
FLAGS = {"build_args": "build-arg={}", "labels": "label={}", "extra_hosts": "add-host={}"}
FLAGS |= {"contexts": "build-context={}", "secrets": "secret=id={},src"}
NAMES_OF_ITS_OWN = {"RepoTags": [], "Metadata": {}}


def docker(*argv):
    return subprocess.run(["docker", *argv], capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture(scope="module")
def repository():
    """The name of all images, which are removed."""
    name = f"moat-test/dockerfiles-{secrets.token_hex(4)}"
    yield name
    if made := docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", name).split():
        docker("image", "rm", "-f", *made)


@pytest.fixture
async def builds(engine, repository, tmp_path):
    async with BuildKit.connect(f"docker+{engine}") as buildkit:
        yield Builds(buildkit, repository, tmp_path)


class Builds:
    """Builds a context with both sides, and compares; a side returns why it could not."""

    def __init__(self, buildkit, repository, tmp_path):
        self.buildkit, self.repository, self.place = buildkit, repository, tmp_path
        # The command's folders of one name share a copy at the daemon, whose folders' times are then its history's.
        self.context = tmp_path / secrets.token_hex(8)
        self.context.mkdir()

    async def ours(self, tags, archives, **options):
        outputs = [Output("moby") for _ in tags] + [Output("tar", archive) for archive in archives]
        try:
            await self.buildkit.build(self.context, tags=tags, outputs=outputs, **options)
        except BuildError as error:
            return error.message.removeprefix("The build failed: ").removesuffix(".")
        return ""

    async def theirs(self, tags, archives, **options):
        outputs = ["--load"] * len(tags) + [f"--output=type=tar,dest={archive}" for archive in archives]
        outputs += [f"--tag={tag}" for tag in tags]
        argv = ["docker", "buildx", "build", *outputs, *words(self.context, **options), str(self.context)]
        done = await anyio.run_process(argv, check=False)
        return " ".join(done.stderr.decode().rpartition("ERROR: ")[2].split()) if done.returncode else ""

    async def build(self, side, since=0, *, image=True, files=True, **options):
        """Return what a side made: the image in the engine, and files; or why it did not."""
        name = secrets.token_hex(4)
        tags, archives = [f"{self.repository}:{name}"] * image, [self.place / f"{name}.tar"] * files
        made = SimpleNamespace(image=None, files=None, reason=await side(tags, archives, **options))
        if not made.reason:
            made.image = json.loads(docker("image", "inspect", *tags))[0] if image else None
            made.files = read_files(archives[0], since) if files else None
        return made

    async def both(self, *, order="", **options):
        """Return what ours and theirs make; at the same time, or in that order."""
        if not order:
            return await asyncio.gather(*(self.build(side, **options) for side in (self.ours, self.theirs)))
        made = {side: await self.build(getattr(self, side), **options) for side in order.split()}
        return made["ours"], made["theirs"]

    async def same(self, **options):
        """Build with both, and compare: files, reasons, and images to the last byte of their configs and layers."""
        ours, theirs = await self.both(since=int(time.time()), **options)
        assert bool(ours.reason) == bool(theirs.reason), (ours.reason, theirs.reason)
        assert plain(ours.reason) in plain(theirs.reason)
        assert ours.files == theirs.files
        assert ours.image is None or ours.image | NAMES_OF_ITS_OWN == theirs.image | NAMES_OF_ITS_OWN
        return ours


def plain(reason):
    """Without quotes, and the names that a daemon gives to its copies of files."""
    return re.sub(r"ref [\w-]+::\w+|/\S+(/buildkit-mount\d+|/merged|/diff)|['\"]", "", reason)


def words(context, *, dockerfile="Dockerfile", no_cache=False, **options):
    """The command's words for what `BuildKit.build` takes."""
    found = [f"--file={context / dockerfile}", "--progress=plain"] + ["--no-cache"] * no_cache
    for key, value in options.items():
        if key in FLAGS:
            found += [f"--{FLAGS[key].format(name)}={each}" for name, each in value.items()]
        else:
            found += [f"--{key.removesuffix('s')}={','.join(value) if key == 'platforms' else value}"]
    return found


def read_files(archive, since):
    """Everything of a tar, in its order. A time since the builds began is theirs, not the files'."""
    with tarfile.open(archive) as tar:
        return [
            (
                each.name, each.type, oct(each.mode), each.uid, each.gid, each.linkname, each.devmajor, each.devminor,
                tar.extractfile(each).read() if each.isreg() else None,
                each.pax_headers.get("mtime", each.mtime) if each.mtime < since else "new",
                {key: value for key, value in each.pax_headers.items() if "xattr" in key},
            )
            for each in tar
        ]  # fmt: skip


def lay(root, files):
    """Write FILES: path and mode -> content, `-> ` a link's target, or `=> ` another name. Times are old, and differ."""
    for key, what in files.items():
        name, _, mode = key.partition("|")
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if str(what).startswith("-> "):
            path.symlink_to(what[3:])
        elif str(what).startswith("=> "):
            path.hardlink_to(root / what[3:])
        else:
            path.write_bytes(what if isinstance(what, bytes) else what.encode())
            path.chmod(int(mode or "644", 8))
    for folder, folders, names in os.walk(root, topdown=False):
        for name in [*folders, *names]:
            when = 10**18 + zlib.crc32(name.encode()) * 10**6 + 789
            os.utime(os.path.join(folder, name), ns=(when, when), follow_symlinks=False)


def pack(kind=""):
    """A tar with owners, modes, links and times."""
    kinds = [("d", b"5", 0o2750, ""), ("d/f", b"0", 0o4711, ""), ("d/s", b"2", 0o777, "../x"), ("d/h", b"1", 0o644, "d/f")]  # fmt: skip
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{kind}") as tar:
        for number, (name, kind_of, mode, link) in enumerate([*kinds, ("./e/g", b"0", 0o600, "")], 1000):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.linkname, info.size = kind_of, mode, link, 5 * (kind_of == b"0")
            info.uid, info.gid, info.mtime = number, number * 2, 10**9 + number
            tar.addfile(info, io.BytesIO(b"12345"))
    return out.getvalue()


MADE = "FROM debian:bookworm-slim AS made\nWORKDIR /w\n"
EMPTY, LOOK, ALL = "FROM scratch\n", "FROM scratch\nCOPY --from=made /w /\n", "FROM scratch\nCOPY . /\n"
SMALL = {"a.txt": "a", "b.log": "b", "src/a.py|755": "1", "src/deep/b.py": "2", "src/deep/c.log": "3", "x y/z|600": "4"}
LINKS = {
    "real/f|4755": "f", "to": "-> real", "abs": "-> /real/f", "out": "-> ../../etc/passwd", "gone": "-> no", "loop": "-> loop",
    "real/same": "=> real/f", "zz": "=> real/f", "real/up": "-> ../to/same",
}  # fmt: skip
ODD = {
    "a1": "1", "b1": "2", "[x]": "3", "x": "4", "s*r": "5", "sir": "6", "^q": "7", "!a": "8", "a?": "9", "{a,b}": "10", "ä b": "11",
    "d/[l]": "-> ../x", "d/l": "-> ../a1", "e1/f": "12", "e2": "-> e1", "$HOME": "13", "b\\1": "14", "(x)": "", "+": "",
}  # fmt: skip
TARS = {"p.tar": pack(), "g.tgz": pack("gz"), "b.tar.bz2": pack("bz2"), "x.txt": pack("xz"), "no.tar": "", "d/t.tar": pack()}  # fmt: skip
# name -> (files of the context, the Dockerfile, options)
PUZZLES = {
    "the last rule counts": (SMALL | {".dockerignore": "**/*.log\n!b.log\nsrc/*\n!src/deep\nsrc/deep/b.py\n"}, ALL, {}),
    "all but": (SMALL | {".dockerignore": "*\n!src/**/*.py\n!x y/\n"}, ALL, {}),
    "odd lines": (SMALL | {".dockerignore": "\ufeff# c\r\n*.log \r\n\r\n !b.log\r\n/src/deep/\r\n./x y/../a.txt\r\n"}, ALL, {}),
    "rules by a link": (SMALL | {"rules": "*.log\n", ".dockerignore": "-> rules"}, ALL, {}),
    "rules of a Dockerfile": (SMALL | {"d/D": ALL, ".dockerignore": "src", "d/D.dockerignore": "*.log\n!b.log\nx y"}, "", {"dockerfile": "d/D"}),
    "a Dockerfile outside": (SMALL | {"../p/D": ALL, "../p/D.dockerignore": "x*", ".dockerignore": "*"}, "", {"dockerfile": "../p/D"}),
    "a Dockerfile by a link": (SMALL | {"sub/D": ALL, "L": "-> sub/D", "L.dockerignore": "*.txt"}, "", {"dockerfile": "L"}),
    "only some": (SMALL | {".dockerignore": "src/deep/*.log"}, EMPTY + "COPY src/deep /a\nCOPY src/*.py a.txt /b/\n", {}),
    "links": (LINKS, EMPTY + "COPY abs /1\nCOPY to /2/\nCOPY to/ /3/\nCOPY to/same zz /4/\nCOPY real/* /5/\n", {}),
    "links as they are": (LINKS, EMPTY + "COPY --link . /1/\nCOPY --link zz /2\nCOPY r*l/u* /3\n", {}),
    "a file's second name": (LINKS | {".dockerignore": "real"}, EMPTY + "COPY zz /\n", {}),
    "wildcards": (ODD, EMPTY + "COPY [^a]1 /1/\nCOPY ?1 /2/\nCOPY *1 /3/\nCOPY e*/f /4/\nCOPY d/? [[]x] [!]a /5/\n", {}),
    "a class and a link": (ODD, EMPTY + "COPY d/[^b] /\n", {}),
    "a link named as a pattern": (ODD, EMPTY + "COPY d/* /\n", {}),
    "a link behind a wildcard": (SMALL | {"src/deep/l": "-> /"}, EMPTY + "COPY */deep/* /\n", {}),
    "odd names": (ODD, EMPTY + 'COPY ["ä b", "{a,b}", "^q", "\\\\$HOME", "/a b/"]\nCOPY a\\? /q/\nCOPY s\\*r /r/\n', {}),
    "flags of COPY": (
        SMALL, MADE + "COPY --chmod=2751 --chown=33:games src /w/1/\nCOPY --chown=www-data a.txt /w/2\nADD --chmod=0400 --chown=1:2 src/deep ./\n"
        "COPY --chown=7 --link a.txt b.log ./3/\nCOPY --from=debian:bookworm-slim --chown=9:9 /etc/debian_version /w/v\n" + LOOK, {}),
    "archives": (
        TARS, EMPTY + "ADD p.tar /p/\nADD g.tgz /g\nADD b.tar.bz2 x.txt no.tar /m/\nADD --chown=5:6 d /d/\nCOPY p.tar /c/\n"
        "ADD --chown=8:9 --chmod=700 g.tgz /o/\n", {}),
    "heredocs": (
        {}, MADE + "ARG A=1\nENV B=two\nCOPY --chown=3 <<E1 <<'E2' <<-E3 /w/d/\n$A ${B:-x} \\$A $C\nE1\n$A ${B} \\$A\nE2\n\t\ttabs $B\n\tE3\n"
        'COPY --chmod=751 <<"E" f\n#!/bin/sh\necho "$1" \\\n  more\nE\nRUN <<E sh -s x >out\necho "$1 $A $B"\ncat <<F\ninner $B\nF\nE\n'
        'RUN <<E\n#!/bin/sh -e\nset -- 1 2\necho "$#" >>out\nE\nRUN cat <<a <<b >ab /dev/fd/3 3<<c\n1\na\n2\nb\n3\nc\n' + LOOK, {}),
    "scopes of ARG": (
        {}, "ARG G=global V=bookworm-slim N\nFROM debian:$V AS one\nARG G L=local${G} N=${N:-fallback} U\nENV E=${U:-unset} G2=$G L=$L\n"
        'ARG L=later E=arg\nRUN echo "$G $L $N $U $E $V" >/w.txt; env | grep -c ^U= >>/w.txt\nFROM one AS made\nARG G=other\n'
        'RUN mkdir /w; mv /w.txt /w; echo "$G $L ${U-gone}" >>/w/w.txt\nLABEL g=$G${L:+!}\n' + LOOK + "ARG G\nENV G=${G:-none}\n",
        {"build_args": {"L": "given", "U": "", "G": "given too", "unknown": "x"}}),
    "odd values": (
        {}, MADE + "ARG A B C HTTP_PROXY TARGETARCH\nENV A=$A B=\"$B\" C='$C' T=$TARGETPLATFORM\n"
        "RUN printf '%s\\n' \"$A\" \"$B\" \"$C\" \"$HTTP_PROXY\" $TARGETARCH >a\n" + LOOK + "ARG A B\nLABEL \"a b\"=\"c\\\n d\" e='$A' f=$A g= b=$B\n",
        {"build_args": {"A": "x=y,z;\"q\" 'r' \\ $HOME", "B": "two\nlines ä", "HTTP_PROXY": "p:1"}, "labels": {"g": "given", "o.x/ä": "= \" '\n", "h": ""}}),
    "config": (
        SMALL, EMPTY + "COPY a.txt /\nMAINTAINER A B <c>\nENV X y z\nENV P=/p:$PATH\nEXPOSE 80 53/udp 8-9/tcp\nUSER www-data:9\n"
        'LABEL a=1 b="two words"\nLABEL a=3\nWORKDIR sub\nWORKDIR ../o$X\nENTRYPOINT exec top -b\nCMD ["a", "b c"]\nSTOPSIGNAL SIGUSR1\n'
        'VOLUME /v ["w"]\nVOLUME ["/y"]\nHEALTHCHECK --interval=5m --timeout=3s --start-period=1s --retries=2 CMD curl "x" || exit 1\n'
        'ONBUILD RUN echo $X\nONBUILD COPY a b\nSHELL ["/bin/sh", "-ec"]\nCMD a $X\n', {}),
    "escapes": (
        {}, "# escape=`\n# more\nFROM debian:bookworm-slim `\n AS made\nWORKDIR `\n# within\n /w\nRUN echo 'a\\b' `\n\n  && echo \"c\\d\" >\"e f\"\n"
        "COPY <<x ./\n`$A $A\nx\n" + LOOK + "ENV A=\\x B=a` b\n", {}),
    "secrets": (
        {"../one": "1\n", "../two": b"\0\xff"}, MADE +
        "RUN --mount=type=secret,id=none --mount=type=secret,id=one --mount=type=secret,id=two,target=/w/sub/x,mode=0462,uid=5,gid=6 \\\n"
        "  cat /run/secrets/one sub/x >a; stat -c '%a %u %g %s %n' /run/secrets/* sub/x >b\nRUN ls -laR --time-style=+ /run /w >c\n" + LOOK,
        {"secrets": {"one": "../one", "two": "../two"}}),
    "mounts": (
        SMALL | {".dockerignore": "*.log"}, "FROM scratch AS other\nCOPY a.txt /o/\n" + MADE + "RUN --mount=target=/c,rw \\\n"
        "  --mount=from=other,source=o,target=/o --mount=type=tmpfs,target=/t --mount=type=bind,source=src,target=/s \\\n"
        "  --mount=type=cache,id=" + secrets.token_hex(4) + ",from=other,source=/o,mode=0750,uid=3,target=/k \\\n"
        "  echo >/c/new; cp -a /c /o /s .; ls -ldR /k /t /o /s | grep -v / >l; stat -c '%a %u %g' /k >k; ! touch /s/no\n"
        "RUN --mount=target=/c --network=none cp -a /c c2\n" + LOOK.replace("/w /", "/w/c /w/o /w/s /w/k /w/c2 /"), {}),
    "contexts": (
        SMALL | {"../n/.dockerignore": "i*\n", "../n/i": "", "../n/k": "k", "../n/d/i": "", "stage/s": "s", "img/etc/x": "x"},
        "FROM nothing:latest AS other\nFROM other AS stage\nCOPY a.txt /never\n" + EMPTY + "COPY --from=other . /o/\nCOPY --from=more / /n/\n"
        "COPY --from=stage . /s/\nCOPY --from=deb /etc/debian_version /v\nCOPY --from=docker.io/library/img:latest . /i/\n",
        {"contexts": {"more": "../n", "stage": "stage", "deb": "docker-image://debian:bookworm-slim", "nothing": "src", "img": "img"}}),
    "contexts with tags": (SMALL, EMPTY + "COPY --from=no . /s/\nCOPY --from=x:1 . /\n", {"contexts": {"docker.io/library/no:latest": "src", "x:1": "x y"}}),
    "a target in capitals": (SMALL, "FROM scratch AS one\nCOPY a.txt /\nFROM scratch\nCOPY b.log /\n", {"target": "ONE"}),
    "a platform": (SMALL, EMPTY + "ARG TARGETARCH TARGETVARIANT\nCOPY a.txt /$TARGETARCH$TARGETVARIANT\n", {"platforms": ["linux/arm/v6"]}),
    "an epoch": (SMALL, MADE + "RUN echo $SOURCE_DATE_EPOCH >e\nCOPY src ./s/\n" + LOOK, {"build_args": {"SOURCE_DATE_EPOCH": "1234567890"}}),
    "hosts": ({}, MADE + "RUN cat /etc/hosts >h\n" + LOOK, {"extra_hosts": {"some.host": "10.1.2.3", "six": "::1"}, "network": "none"}),
}  # fmt: skip


# Where it is all about files, an image tells no more.
CASES = [(name, "cached") for name, puzzle in PUZZLES.items() if "RUN" in puzzle[1] or puzzle[2]]
CASES += [(name, "anew") for name in PUZZLES]


@pytest.mark.parametrize(("name", "how"), CASES)
async def test_puzzles_alike(builds, name, how):
    """Both make the same image from one cache, to the last byte; and the same files, each by itself."""
    files, dockerfile, options = PUZZLES[name]
    lay(builds.context, {"Dockerfile": dockerfile} | files)
    for key in {"secrets", "contexts"} & set(options):
        places = {name: place if ":" in place else builds.context / place for name, place in options[key].items()}
        options = options | {key: places}
    # At the same time, one step without a cache would be done once for both.
    ways = {"cached": {"files": False}, "anew": {"image": False, "no_cache": True, "order": "ours theirs"}}
    assert not (await builds.same(**ways[how], **options)).reason


REFUSED = {
    "COPY --parents src/a.py /": "unknown flag: parents", "COPY --exclude=*.log . /": "unknown flag: exclude",
    "COPY a.txt nothing /": "not found", "COPY src/deep/b.py /": "no such file", "COPY a.txt /a\nCOPY a.txt /a/b": "not a directory",
    "COPY --chown=nobody a.txt /": "invalid user", "COPY ! a.txt /": "illegal exclusion pattern", "COPY <<E /\nx": "heredoc",
    "COPPY a b": "unknown instruction: COPPY", "ARG A\nFROM $A": "base name", MADE + "RUN --mount=type=secret,id=x,required :": "not found",
    "FROM scratch AS b\nCOPY --from=c / /\nFROM scratch AS c\nCOPY --from=b / /": "circular",
}  # fmt: skip


@pytest.mark.parametrize("steps", REFUSED)
async def test_refusals_alike(builds, steps):
    """What BuildKit does not build, both say in its words."""
    lay(builds.context, SMALL | {"Dockerfile": EMPTY + steps, ".dockerignore": "src/deep\n"})
    assert REFUSED[steps] in (await builds.same(image=False)).reason


RULES = {
    "what a rule about a folder says of its files": [
        "d/l\n!d", "d/*\n!d", "*/**\n!*", "**/l\n!d", "*\n!d\nd/l\n!d", "d\nd/l\n!d", "d\n!d/l", "d/\n!d/[[]l]", "*\n!*/", "*\n!./d", "!d\nd",
    ],
    "stars": ["**f*", "x**", "**/f*", "d/**", "**/d/**", "***/x", "d**/l", "?*?", "a?", "a\\?", "s\\*r", "[*]"],
    "stars at the start": ["**a", "**1"],
    "stars in a class": ["s[*]r"],
    "what looks like a regular expression": ["a.", "(x)", "+", "$HOME", "{a,b}", "^q", "[!a]*", "[x]]", "\\[x]", "b\\\\1", "(x)*", "*+", "?x)", "*.*"],
    "what is a regular expression for docker": ["[[:alpha:]]", "\\d", "\\w*", "\\pL", "a1|x*", "[ab]{1}1", "*^q", "d/|l*"],
    "paths and lines": [".", "./", "/", "..", "../x", "e1/../x", "d//l", "/d/", "e2/f", "#a1", "\\#a1", " # x", " a1 \t", "ä b", "ä?b"],
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
async def test_rules_alike(builds, name):
    """Of contexts of which each has one .dockerignore, the same is left out."""
    contexts = {f"c{number}": builds.place / str(number) for number in range(len(RULES[name]))}
    for rules, context in zip(RULES[name], contexts.values(), strict=True):
        lay(context, ODD | {".dockerignore": rules})
    lay(builds.context, {"Dockerfile": EMPTY + "".join(f"COPY --from={each} . /{each}/\n" for each in contexts)})
    made = await builds.both(image=False, contexts=contexts)
    ours, theirs = ({each[0].partition("/")[::2] for each in side.files} for side in made)
    wrong = [(RULES[name][int(context[1:])], path) for context, path in sorted(ours ^ theirs)]
    assert not wrong


@pytest.mark.parametrize("rule", ["[", "a\\", "!", "!/", "[]a]", "[^]a]", "[a-]", "[z-a]", "[a-", "a\\1"])
async def test_malformed_rules_alike(builds, rule):
    """Neither builds; who refuses may say so in his own words, but in some."""
    lay(builds.context, ODD | {"Dockerfile": ALL, ".dockerignore": rule})
    ours, theirs = await builds.both(image=False)
    assert theirs.reason
    assert "pattern" in ours.reason


def random_step(rng, name, n, stages, chance):
    """An instruction, the Nth, for the stage NAME; STAGES came before it."""
    pick = rng.choice
    source = pick(["a.txt", "*.*", "src", "src/*.py", "src/deep src/a.py", "x*", ".", "[ab]*", "to/../b.log to/same"])
    flags = pick(["", "", "--chmod=0640 ", "--chown=7:8 ", "--link ", "--chown=3 --chmod=4755 "])
    end = f">>/w/r{n}; echo {chance} >>/w/r{n}"
    steps = [
        f"COPY {flags}{source} {pick(['./', '/w/', 'sub/', f'/w/c{n}/'])}",
        f"COPY {flags}<<E <<'Q' h{n}/\n$TOP ${{V:-no}} $E\nE\n$TOP\nQ",
        f"ADD {flags.replace('--link ', '')}{pick(['p.tar', 'g.tgz', 'p.tar no.tar', 'src'])} t{n}/",
        pick(["ARG TOP", "ARG V", f"ARG V={n}", f"ARG TOP=${{V:-{n}}} A{n}=$TOP", "ARG E=arg"]),
        pick([f"ENV E={n}$V", f'ENV V="over {n}" F=$E', f"ENV E old way $TOP {n}"]),
        pick([f'LABEL l{n}=$V m="$E $TOP"', f"EXPOSE {8000 + n}/udp {n}", f"VOLUME /v{n}$E", "STOPSIGNAL SIGUSR1"]),
        pick(["USER 33:44", "USER nobody", "USER 0", f"WORKDIR deep{n}", "WORKDIR /w", "WORKDIR /w/$E", "MAINTAINER $E"]),
        pick(['ENTRYPOINT ["a", "$E"]', "ENTRYPOINT a $E", "CMD b $E", 'CMD ["c"]', "HEALTHCHECK --retries=3 CMD x", "HEALTHCHECK NONE"]),
        pick([f"ONBUILD LABEL o{n}=$V", f"ONBUILD COPY a.txt /w/o{n}", f"ONBUILD ENV E=o{n}", "ONBUILD USER 5"]),
        *[f"COPY --from={stage} {flags}/w/ from{n}/" for stage in stages[-1:]],
    ]  # fmt: skip
    runs = [
        f'RUN printf "<%s>" "$TOP" "$V" "$E" "$(pwd)" "$(id -u)" {end}',
        f"RUN <<E\necho $V {end}\ncp /w/r{n} /w/s{n}\nchmod 2750 /w/s{n}; ln -s r{n} /w/l{n}; ln /w/s{n} /w/z{n}\nE",
        f"RUN --mount=type=secret,id=key,mode=0444 --mount=type=tmpfs,target=/t cat /run/secrets/key {end}",
        f"RUN --mount=type=cache,id={pick('xyz')}$NONCE,target=/k,mode=0777 touch /k/f; ls /k {end}",
        f"RUN --mount=target=/c,source=src find /c | sort {end}",
        pick(['SHELL ["/bin/sh", "-ec"]', f"ONBUILD RUN echo $E {end}"]),
    ]
    return pick(steps + runs * 2 * (name[0] == "d"))


def random_dockerfile(rng, chance):
    """Lines: stages of random instructions, and one that holds the files of all; and the names of the former."""
    lines, stages = ["ARG TOP=top V"], []
    for number in range(rng.randrange(2, 4)):
        base = rng.choice(["debian:bookworm-slim", *(["scratch", *stages] if stages else [])])
        name = f"{base[0]}{number}"  # with a shell if it is a d
        # From its first step on, nothing of an earlier run of this test is in the cache.
        lines += [f"FROM {base} AS {name}", "ARG NONCE", "COPY --chmod=1777 nonce /", "WORKDIR /w"]
        lines += [random_step(rng, name, number * 10 + n, stages, chance) for n in range(rng.randrange(3, 6))]
        stages.append(name)
    return [*lines, "FROM scratch", *(f"COPY --from={each} /w /{each}" for each in stages)], stages


@pytest.mark.parametrize("seed", range(12))
async def test_random_dockerfiles_alike(builds, tmp_path, seed):
    """Whoever builds first, the other finds it all in the cache; and what both build anew is the same but for times."""
    rng, no_cache = random.Random(seed), seed % 3 == 2
    lines, stages = random_dockerfile(rng, "" if no_cache else CHANCE)
    rules = rng.choice(["", "*.log\n", "*\n!src\n!*.t*\n!nonce\n!real\n!to\n!b.log\n", "**/*.py\n!src/a.py\n"])
    files = {"nonce/w/x": secrets.token_hex(8), "../key": "k", "Dockerfile": "\n".join(lines), ".dockerignore": rules}
    lay(builds.context, SMALL | LINKS | TARS | files)
    args = {"NONCE": secrets.token_hex(4)} | {name: f"{name} given" for name in ("TOP", "V", "E") if rng.random() < 0.3}
    order = rng.choice(["ours theirs", "theirs ours"])
    options = {"build_args": args, "secrets": {"key": tmp_path / "key"}, "order": order}
    made = await builds.same(image=False, no_cache=no_cache, **options)
    assert not made.reason, lines
    await builds.same(files=False, target=stages[-1], labels={"seed": str(seed)}, **options)


async def test_onbuild_alike(builds):
    """What a base image has for its children is done in them, and is gone from their config."""
    base = "ENV E=base\nUSER 7\nONBUILD ARG A=1\nONBUILD ENV B=$A$E\nONBUILD COPY --chown=3 src /w/s\nONBUILD USER 0\n"
    lay(builds.context, SMALL | {"base": MADE + base + "ONBUILD RUN echo $A $B >/w/made\nONBUILD WORKDIR x\n"})
    made = await builds.same(dockerfile="base", files=False)
    args = {"BASE": made.image["RepoTags"][0], "A": "given"}
    lay(builds.context, {"Dockerfile": "ARG BASE\nFROM $BASE AS made\nRUN id -u >>/w/made\nLABEL a=$B\n" + LOOK})
    config = (await builds.same(files=False, target="made", build_args=args)).image["Config"]
    assert (config["OnBuild"], config["WorkingDir"], config["Labels"]["a"]) == (None, "/w/x", "givenbase")
    assert (await builds.same(image=False, build_args=args)).files[0][8] == b"given givenbase\n0\n"


async def test_a_cache_mount_is_one(builds):
    """What one wrote there the other one reads."""
    key = secrets.token_hex(8)
    for number, side in enumerate([builds.ours, builds.theirs, builds.ours, builds.theirs], 1):
        step = f"RUN --mount=type=cache,id={key},target=/k echo {number}{key} >>/k/f; wc -l </k/f >n\n"
        lay(builds.context, {"Dockerfile": MADE + step + LOOK})
        assert (await builds.build(side, image=False)).files[0][8] == b"%d\n" % number


async def test_special_files_alike(builds):
    """Extended attributes and devices of a context arrive as they are."""
    lay(builds.context, {"Dockerfile": ALL, "with": "x"})
    os.setxattr(builds.context / "with", "user.word", b"said")
    if os.geteuid() == 0:
        os.mknod(builds.context / "null", 0o20640, os.makedev(1, 3))
    await builds.same(image=False, no_cache=True)
