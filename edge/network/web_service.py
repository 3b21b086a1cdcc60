"""A server that is asked over HTTP, and one connection to it: with its token, which is renewed where it is refused.

Raises PeerError for whatever the server or the line does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from edge.config.sections import Destination
from edge.network.http_client import ClientTls, FileSlice, HttpClient, HttpResult, HttpStream
from edge.network.tokens import TokenSource, token_source

#: A body, made again where the request is made again.
MakeBody = Callable[[], Iterable[bytes | FileSlice]]
_MOST_BYTES = 16 << 20


class WebService:
    """What all connections to one destination share: where it is, and how it lets us in."""

    def __init__(self, destination: Destination) -> None:
        self.url = destination.url
        self.path = urlsplit(destination.url).path.rstrip("/")
        self.tls = ClientTls(destination.ca, destination.client_certificate, destination.client_key)
        self.tokens: TokenSource = token_source(destination, self.tls)


class WebConnection:
    """One connection, and the requests on it. One thread uses it; others may kill it, and count."""

    def __init__(self, to: WebService) -> None:
        """Connect. Raises PeerError."""
        self._service, self._token = to, ""
        self._client = HttpClient(to.url, to.tls)
        self.round_trip = self._client.round_trip

    def close(self) -> None:
        self._client.close()

    def kill(self) -> None:
        """End the connection from another thread: what waits for it fails at once."""
        self._client.kill()

    def count_moved(self) -> int:
        """Bytes that the server has taken, and that have come, on this connection."""
        return self._client.count_moved()

    def is_quiet(self) -> bool:
        """Is it open, with nothing said by the server since its last answer?"""
        return self._client.is_quiet()

    def get(self, path: str, accept: str, most: int = _MOST_BYTES) -> HttpResult:
        """GET of something below the services."""
        return self.request("GET", path, {"Accept": accept}, most=most)

    def open(self, path: str, accept: str) -> HttpStream:
        """The same, with its body still to be read."""
        found = self._client_now().open(self._service.path + path, self._headers({"Accept": accept}))
        if found.status == 401 and self._token and self._service.tokens.renew(self._token):
            found.close()
            found = self._client_now().open(self._service.path + path, self._headers({"Accept": accept}))
        return found

    def request(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: MakeBody = tuple,
        length: int | None = None,
        most: int = _MOST_BYTES,
    ) -> HttpResult:
        """A request; once more with another token where the first one is refused."""
        target = self._service.path + path
        found = self._client_now().request(method, target, self._headers(headers), body(), length, most)
        if found.status == 401 and self._token and self._service.tokens.renew(self._token):
            found = self._client_now().request(method, target, self._headers(headers), body(), length, most)
        return found

    def _client_now(self) -> HttpClient:
        if not self._client.is_open:
            self._client = HttpClient(self._service.url, self._service.tls)
        return self._client

    def _headers(self, headers: dict[str, str]) -> dict[str, str]:
        self._token = self._service.tokens.token()
        return {**headers, "Authorization": f"Bearer {self._token}"} if self._token else headers
