"""Revocation of client certificates: asked of the authority's responder by OCSP (RFC 6960), beside revocation lists.

The question is put, and the signature of the answer verified, by `openssl ocsp`, a program of the system, so that its
cryptography is that of the machine (FIPS included). Promise: a certificate counts as good only where the responder
says so, freshly and signed; after any failure nobody is admitted by certificate. Limits: OCSP_SECONDS for a question,
one at a time; an answer holds for GOOD_SECONDS or BAD_SECONDS. An answer that does not say when the next one comes (RFC
6960 section 4.2.2.1: there is newer information at any time) counts for MOST_AGE_SECONDS from its time on.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import ssl
import subprocess
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path

from edge.web.x509 import read_certificate, split_pem

log = logging.getLogger(__name__)

OCSP_SECONDS, GOOD_SECONDS, BAD_SECONDS = 5.0, 600.0, 60.0
MOST_AGE_SECONDS = 86400.0
_MOST_KEPT = 1000
OPENSSL = "openssl"


class OcspResponder:
    """See the module's docstring. Any thread may ask."""

    def __init__(self, url: str, authorities: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """`authorities`: the file of [console] client_ca."""
        self._url, self._authorities, self._clock = url, authorities, clock
        self._kept: OrderedDict[bytes, tuple[float, bool]] = OrderedDict()  # digest -> until when, and what
        self._lock = threading.Lock()

    def is_good(self, der: bytes) -> bool:
        """Does the responder say that this certificate is not revoked?"""
        digest = hashlib.sha256(der).digest()
        with self._lock:
            now = self._clock()
            until, is_good = self._kept.get(digest, (-1.0, False))
            if now < until:
                return is_good
            is_good = self._ask(der)
            self._kept[digest] = (now + (GOOD_SECONDS if is_good else BAD_SECONDS), is_good)
            if len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
            return is_good

    def _ask(self, der: bytes) -> bool:
        try:
            issuer = self._find_issuer(der)
        except (OSError, ValueError) as error:
            log.error("a client certificate cannot be checked by OCSP: %s", error)
            return False
        if issuer is None or shutil.which(OPENSSL) is None:
            why = "client_ca lacks its authority" if issuer is None else f"{OPENSSL} is not installed"
            log.error("a client certificate cannot be checked by OCSP: %s", why)
            return False
        with tempfile.TemporaryDirectory(prefix="edge-ocsp-") as folder:
            named = Path(folder) / "issuer.pem", Path(folder) / "certificate.der"
            named[0].write_bytes(issuer)
            named[1].write_bytes(der)
            return self._run(*named)

    def _find_issuer(self, der: bytes) -> bytes | None:
        """The certificate of the authority that issued this one, in PEM."""
        wanted = read_certificate(der).issuer
        found = split_pem(self._authorities.read_bytes())
        return next((pem for pem, each in found if read_certificate(each).subject == wanted), None)

    def _run(self, issuer: Path, certificate: Path) -> bool:
        """Its standard output has one line for the certificate: `FILE: good`."""
        command = [OPENSSL, "ocsp", "-issuer", str(issuer), "-cert", str(certificate), "-url", self._url]
        command += ["-CAfile", str(self._authorities), "-timeout", str(int(OCSP_SECONDS))]
        try:
            done = subprocess.run(command, capture_output=True, timeout=OCSP_SECONDS + 1, check=False)
        except (OSError, subprocess.TimeoutExpired):
            log.error("the OCSP responder does not answer: nobody signs in by certificate")
            return False
        lines = done.stdout.decode("utf-8", "replace").splitlines()
        said = done.stdout + done.stderr  # releases differ in where they say what
        is_signed, is_fresh = b"Response verify OK" in said, b"Status times invalid" not in said
        if done.returncode != 0 or not is_signed or not is_fresh or not is_recent(lines, time.time()):
            log.error("the OCSP responder's answer cannot be used: nobody signs in by certificate")
            return False
        return f"{certificate}: good" in lines


def is_recent(lines: Iterable[str], now: float) -> bool:
    """Is an answer, as openssl writes it, young enough where it does not say until when it holds?"""
    times = dict(line.strip().split(": ", 1) for line in lines if line.strip().startswith(("This", "Next")))
    if "Next Update" in times:
        return True  # openssl has compared it
    try:
        return now - ssl.cert_time_to_seconds(times["This Update"]) <= MOST_AGE_SECONDS
    except (KeyError, ValueError):
        return False


def revocation_check(url: str | None, authorities: Path | None) -> Callable[[bytes], bool]:
    """Is a certificate (DER) not revoked? Where no responder is named, none is asked."""
    return OcspResponder(url, authorities).is_good if url and authorities else accept_all


def accept_all(_der: bytes) -> bool:
    """Where no responder is configured."""
    return True
