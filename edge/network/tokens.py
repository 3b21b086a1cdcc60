"""Bearer tokens for a destination (RFC 6750): from a file, or by OAuth 2.0 client credentials (RFC 6749 section 4.4).

A token of OAuth is renewed ahead of its end, or at once where the destination no longer takes it. Thread-safe. Raises
PeerError; the text names the server, never a secret.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlencode, urlsplit

from edge.config.kinds import OAuth
from edge.config.secret import SecretError, read_secret
from edge.config.sections import Destination
from edge.errors import PeerError
from edge.network.http_client import ClientTls, HttpClient

#: A token is renewed when this part of its time is left, or this many seconds.
_RENEW_FRACTION, _RENEW_SECONDS = 0.2, 60.0
#: Where the server does not say how long it lasts.
_USUAL_SECONDS = 300.0
_MOST_ANSWER_BYTES = 64 << 10


class TokenSource(Protocol):
    """Where the token of the next request comes from."""

    def token(self) -> str:
        """Empty: none is needed."""

    def renew(self, refused: str) -> bool:
        """The destination does not take this token. True: there may be another one now."""


class NoToken:
    """A destination that asks for none, or for a certificate alone."""

    def token(self) -> str:
        return ""

    def renew(self, refused: str) -> bool:
        return False


class FileToken:
    """A token in a file, which somebody else renews."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def token(self) -> str:
        try:
            return read_secret(self._path).decode("latin-1").strip()
        except SecretError as error:
            raise PeerError(str(error)) from None

    def renew(self, refused: str) -> bool:
        return self.token() != refused


class OAuthToken:
    """A token that an authorization server gives for our credentials."""

    def __init__(self, oauth: OAuth, tls: ClientTls, clock: Callable[[], float] = time.monotonic) -> None:
        self._oauth, self._tls, self._clock = oauth, tls, clock
        self._lock = threading.Lock()
        self._token, self._renew_at = "", 0.0

    def token(self) -> str:
        with self._lock:
            if not self._token or self._clock() >= self._renew_at:
                self._token, seconds = self._ask()
                self._renew_at = (
                    self._clock() + seconds - max(_RENEW_FRACTION * seconds, min(_RENEW_SECONDS, seconds / 2))
                )
            return self._token

    def renew(self, refused: str) -> bool:
        with self._lock:
            if self._token == refused:
                self._token = ""
        return True

    def _ask(self) -> tuple[str, float]:
        try:
            secret = read_secret(Path(self._oauth.secret)).decode("latin-1")
        except SecretError as error:
            raise PeerError(str(error)) from None
        basic = base64.b64encode(f"{quote(self._oauth.client)}:{quote(secret)}".encode()).decode()
        form = {"grant_type": "client_credentials"} | ({"scope": self._oauth.scope} if self._oauth.scope else {})
        body, url = urlencode(form).encode(), urlsplit(self._oauth.token_url)
        headers = {
            "Authorization": f"Basic {basic}",
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        }
        client = HttpClient(self._oauth.token_url, self._tls)
        try:
            target = (url.path or "/") + (f"?{url.query}" if url.query else "")
            found = client.request("POST", target, headers, [body], len(body), _MOST_ANSWER_BYTES)
        finally:
            client.close()
        if found.status != 200:
            raise PeerError(f"{url.netloc} gives no token: it answers {found.phrase}; compare client and secret")
        return _read_token(found.body, url.netloc)


def _read_token(body: bytes, where: str) -> tuple[str, float]:
    """Token and the seconds that it lasts. Raises PeerError."""
    try:
        said = json.loads(body)
        token, seconds = said["access_token"], float(said.get("expires_in") or _USUAL_SECONDS)
    except (RecursionError, ValueError, KeyError, TypeError, AttributeError):
        raise PeerError(f"{where} gives no token that can be read (RFC 6749 section 5.1)") from None
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise PeerError(f"{where} gives a token that no request can have")
    return token, max(seconds, 1.0)


def token_source(destination: Destination, tls: ClientTls) -> TokenSource:
    if destination.oauth is not None:
        return OAuthToken(destination.oauth, tls)
    return FileToken(destination.token) if destination.token else NoToken()
