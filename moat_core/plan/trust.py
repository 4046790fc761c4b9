"""How a container is made to trust further CAs: one sh text, for image builds and running containers alike.

`ImageSpec.trust` says whom; the text writes them where Debian, Alpine, Fedora and SUSE keep theirs, and
`TRUST_ENV` points the programs there that look nowhere else. It starts no process where the usual folders
exist, since each costs milliseconds in gVisor, and does nothing where the same certificates are already.
"""

from __future__ import annotations

import hashlib
import shlex
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["TRUST_BUNDLE", "TRUST_ENV", "TRUST_EXTRAS", "trust_script"]

TRUST_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
"""All CAs that the container trusts."""
TRUST_EXTRAS = "/etc/moat-ca.crt"
"""Only those that were added."""

TRUST_ENV: Mapping[str, str] = MappingProxyType(
    {
        "CURL_CA_BUNDLE": TRUST_BUNDLE,
        "GIT_SSL_CAINFO": TRUST_BUNDLE,
        "NODE_EXTRA_CA_CERTS": TRUST_EXTRAS,  # Node adds these to its own list; the others replace theirs
        "PIP_CERT": TRUST_BUNDLE,
        "REQUESTS_CA_BUNDLE": TRUST_BUNDLE,
        "SSL_CERT_FILE": TRUST_BUNDLE,
    }
)

_ANCHORS = "/usr/local/share/ca-certificates"

# Where others keep what Debian keeps in TRUST_BUNDLE: Fedora, SUSE, and OpenSSL by default.
_OTHER_BUNDLES = "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem /etc/ssl/ca-bundle.pem /etc/ssl/cert.pem"

# Each file is opened once, since opening costs milliseconds in gVisor too.
_SCRIPT = """\
moat_mark={mark}
moat_line=
[ ! -r {extras} ] || IFS= read -r moat_line <{extras} || :
if [ "$moat_line" != "$moat_mark" ]; then
[ -d /etc/ssl/certs ] && [ -d {anchors} ] || mkdir -p /etc/ssl/certs {anchors}
if [ ! -e {bundle} ]; then
  for moat_other in {others}; do
    [ ! -e "$moat_other" ] || {{ ln -s "$moat_other" {bundle}; break; }}
  done
fi
{copies}
printf '%s\\n' "$moat_mark" {all} >{extras}
printf '%s\\n' '' {all} >>{bundle}
fi
"""

_COPY = """\
moat_ca_{number}={text}
printf '%s\\n' "$moat_ca_{number}" >{anchors}/moat-{digest}-{number}.crt"""


def trust_script(certificates: Sequence[bytes]) -> str:
    """Return sh text that makes a container trust CERTIFICATES (PEM, one each); for root; an inline step may be it.

    A copy goes to where ``update-ca-certificates`` looks, so that a later one keeps them.
    """
    texts = [certificate.decode("ascii").strip() for certificate in certificates]
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    return _SCRIPT.format(
        mark=shlex.quote(f"# moat: CAs of the host, {digest}"),
        extras=TRUST_EXTRAS,
        bundle=TRUST_BUNDLE,
        anchors=_ANCHORS,
        others=_OTHER_BUNDLES,
        all=" ".join(f'"$moat_ca_{number}"' for number in range(1, len(texts) + 1)),
        copies="\n".join(
            _COPY.format(number=number, text=shlex.quote(text), anchors=_ANCHORS, digest=digest)
            for number, text in enumerate(texts, 1)
        ),
    )
