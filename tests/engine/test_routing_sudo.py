"""``sudo moat proxy start --port 80`` on a machine of its own, a container: bound by root, served by its caller."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from world import REPO

pytestmark = pytest.mark.slow

# What sudo(8) sets and what it leaves: sudo itself is not in the image. Each check prints a line only if it fails.
SCRIPT = r"""
useradd -m ann
cat > /usr/local/bin/moat <<'EOF'
#!/bin/sh
PYTHONPATH=/moat/source:/moat/site exec python3 -m moat_core.cli "$@"
EOF
chmod +x /usr/local/bin/moat
unset MOAT_HOME
sudo() { env SUDO_UID="$(id -u ann)" SUDO_GID="$(id -g ann)" SUDO_USER=ann SUDO_COMMAND="$*" HOME=/root "$@"; }
ann() { su ann -c "$*"; }
check() { "$@" || echo "not so: $*"; }
is() { [ "$1" = "$2" ] || echo "not so: $3 is $1, not $2"; }
of() { awk -v key="$2:" '$1 == key { print $2, $3, $4, $5 }' "/proc/$1/status" | xargs; }
has_none() { [ -z "$(find "$@" -print -quit 2>/dev/null)" ]; }
look() {  # that it is ann's in every way
    is "$(ann "moat proxy status --json" | python3 -c 'import json, sys; print(json.load(sys.stdin)["url"])')" \
        http://localhost "what ann sees"
    pid=$(ann "moat proxy status --json" | python3 -c 'import json, sys; print(json.load(sys.stdin)["pid"])')
    uid=$(id -u ann)
    is "$(of "$pid" Uid)" "$uid $uid $uid $uid" "the user"
    is "$(of "$pid" Groups)" "$(id -G ann)" "the groups"
    is "$(of "$pid" CapEff)" 0000000000000000 "what it may do"
    check has_none /home/ann ! -user ann
    check has_none /root/.local/state/moat
    check ann "python3 -c 'import urllib.request; urllib.request.urlopen(\"http://127.0.0.1/\")'"
}

mkdir -p /home/ann/.config/moat && echo 'proxy: {timeout: 7s}' > /home/ann/.config/moat/config.yaml
chown -R ann /home/ann/.config
check sudo moat proxy start --port 80
look
is "$(ann "moat proxy status --json" | python3 -c 'import json, sys; print(json.load(sys.stdin)["options"])')" \
    "{'idle': 600.0, 'timeout': 7.0}" "what ann has asked for"
ln -sf /etc/shadow /home/ann/.config/moat/config.yaml
sudo moat proxy restart 2>&1 | grep -q root: && echo "not so: ann is told what only root may read"
rm /home/ann/.config/moat/config.yaml
check sudo moat proxy restart
look
check ann "moat proxy stop"

sudo moat proxy start --port 80 --foreground & at=$!
until ann "moat proxy status" >/dev/null; do sleep 0.1; done
look
kill -INT "$at" 2>/dev/null; ann "moat proxy stop"; wait "$at"
ann "moat proxy status" >/dev/null && echo "not so: it has ended"
for verb in "ca path" "ca trust"; do sudo moat proxy $verb 2>/dev/null && echo "not so: the CA is ann's"; done
echo done
"""


def test_what_root_binds_is_served_by_its_caller(moat, workspace):
    """Its config, its state, its rights; and root keeps nothing of it."""
    (workspace / "agent.yaml").write_text("dependencies: [python]\n")
    site = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    done = moat(
        "run", "--no-sandbox", "--mount", f"{REPO}:/moat/source:ro", "--mount", f"{site}:/moat/site:ro",
        "--env", "PYTHONDONTWRITEBYTECODE=1", "--", "bash", "-c", SCRIPT, timeout=300,
    )  # fmt: skip
    assert done.stdout.decode() == "done\n", (done.stdout + done.stderr).decode()
