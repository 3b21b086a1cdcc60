"""Callers of the DICOMweb services, and what each may do: by bearer token (RFC 6750) or client certificate. Pure.

A person who has signed in at the console is known by that session's cookie, and may look, never store.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from edge.config.sections import WebClient
from edge.network.tls import Certificate
from edge.store.web_clients import CLIENT_PREFIX

#: Services of a person who may see patients.
PERSON_SERVICES = frozenset({"query", "retrieve"})


@dataclass(frozen=True, slots=True)
class WebCaller:
    """A machine or a person that is admitted."""

    name: str  # in the ledger: `client.NAME`, or the account's
    title: str  # the AE title under which routes know what it stores
    services: frozenset[str]


def token_digest(token: bytes) -> bytes:
    """The digest by which tokens are kept and compared: of the same length, whatever was sent."""
    return hashlib.sha256(token).digest()


def identify_client(
    clients: Collection[WebClient],
    digests: Mapping[str, bytes],
    authorization: str,
    certificate: Certificate | None,
) -> WebCaller | None:
    """The machine that calls; None: none that is configured. `digests`: of the clients' tokens, by name.

    A client with token and certificate must show both.
    """
    scheme, _, token = authorization.partition(" ")
    said = token_digest(token.strip().encode("utf-8", "replace")) if scheme.lower() == "bearer" and token else b""
    found = [each for each in clients if _is(each, digests, said, certificate)]
    if not found:
        return None
    client = found[0]
    return WebCaller(CLIENT_PREFIX + client.name, client.title, frozenset(client.services))


def _is(client: WebClient, digests: Mapping[str, bytes], said: bytes, certificate: Certificate | None) -> bool:
    if client.token and not (client.name in digests and hmac.compare_digest(digests[client.name], said)):
        return False
    return not client.certificate or (certificate is not None and certificate.fits(client.certificate))
