"""JSON by HTTP POST: webhooks, and the heartbeat upstream. Every wait and length is bounded, no redirect is followed.

2xx is taken. 400, 409, 413 and 422 are about this one message (Permanent: parked). Everything else is about us or the
other end, and tried again; 401, 403, 404 and redirects seldom, for a person must fix them. Of an answer its status is
shown, never its body; what the centre acknowledges in its answer to a heartbeat is handed on.
"""

from __future__ import annotations

import hashlib
import http.client
import ssl
from collections.abc import Callable, Mapping
from urllib.parse import SplitResult, urlsplit

from edge import __version__
from edge.errors import Permanent, Transient
from edge.messaging import Rejected
from edge.messaging.line import Cutter, in_words, open_connection
from edge.monitor import heartbeat
from edge.store.outbox import Message

ABOUT_THE_MESSAGE = (400, 409, 413, 422)
ABOUT_US = (301, 302, 303, 307, 308, 401, 403, 404, 405, 410)
MAX_ANSWER_BYTES = 64 << 10

#: Reads a secret when it is needed.
ReadKey = Callable[[], bytes]


class Endpoint:
    """An address that takes JSON."""

    def __init__(self, url: str, context: Callable[[], ssl.SSLContext]) -> None:
        self._url = urlsplit(url)
        self._context = context
        self._cutter = Cutter()

    @property
    def label(self) -> str:
        """The URL for people, without the query, which may hold a token."""
        return f"{self._url.scheme}://{self._url.netloc}{self._url.path}"

    def post(self, body: bytes, headers: Mapping[str, str]) -> bytes:
        """Returns the answer's body when it was taken. Raises Transient, Rejected or Permanent, in words."""
        with in_words(self.label):
            try:
                status, answer = self._exchange(body, headers)
            except http.client.HTTPException as error:
                raise Transient(f"{self.label} does not answer as HTTP does ({type(error).__name__})") from None
        _check(self.label, status)
        return answer

    def _exchange(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        secure = self._url.scheme == "https"
        host, port = self._url.hostname or "", self._url.port or (443 if secure else 80)
        client = http.client.HTTPConnection(host, port)
        client.sock = open_connection(host, port, self._context() if secure else None, self._cutter)
        try:
            with self._cutter.watching(lambda: client.sock):
                client.request("POST", _target(self._url), body, {**_COMMON, "Host": self._url.netloc, **headers})
                with client.getresponse() as answer:
                    return answer.status, answer.read(MAX_ANSWER_BYTES)
        finally:
            client.close()

    def cut(self) -> None:
        """End what is under way, from another thread."""
        self._cutter.cut()

    def close(self) -> None:
        """Each message has a connection of its own: there is nothing to close."""


_COMMON = {"Content-Type": "application/json", "User-Agent": f"edge/{__version__}", "Connection": "close"}


def _target(url: SplitResult) -> str:
    return (url.path or "/") + (f"?{url.query}" if url.query else "")


def _check(where: str, status: int) -> None:
    if 200 <= status < 300:
        return
    reason = f"{where} answers {status} {http.client.responses.get(status, '')}".rstrip()
    if status in ABOUT_THE_MESSAGE:
        raise Permanent(reason)
    if status in (401, 403):
        raise Rejected(f"{reason}: compare the key or the certificate with its own")
    if status in ABOUT_US:
        raise Rejected(f"{reason}: compare the url (redirects are not followed)")
    raise Transient(reason)


class WebhookSender:
    """Posts each notice as it is. With a key it is signed with the time of sending, so that none can be replayed later:

    Edge-Timestamp: seconds since 1970; Edge-Signature: sha256=HMAC-SHA256(key, timestamp + "." + body) in hexadecimal.
    Edge-Delivery is the same when a notice is sent again.
    """

    def __init__(self, endpoint: Endpoint, key: ReadKey | None, now: Callable[[], float]) -> None:
        self._endpoint, self._key, self._now = endpoint, key, now
        self.cut, self.close = endpoint.cut, endpoint.close

    def deliver(self, message: Message) -> None:
        body, stamp = message.body.encode(), str(int(self._now()))
        headers = {"Edge-Timestamp": stamp, "Edge-Delivery": hashlib.sha256(body).hexdigest()[:32]}
        if self._key:
            headers[heartbeat.SIGNATURE] = heartbeat.sign(self._key(), stamp.encode() + b"." + body)
        self._endpoint.post(body, headers)


class Upstream:
    """Posts heartbeats, signed with the site's key where it has one (edge.monitor.heartbeat.sign)."""

    def __init__(
        self, endpoint: Endpoint, site_id: str, key: ReadKey | None, answered: Callable[[bytes], None] = lambda _: None
    ) -> None:
        """`answered` gets the body of each answer to what was taken."""
        self._endpoint, self._site_id, self._key, self._answered = endpoint, site_id, key, answered
        self.cut, self.close = endpoint.cut, endpoint.close

    def deliver(self, message: Message) -> None:
        body = message.body.encode()
        headers = {"Edge-Site": self._site_id}
        if self._key:
            headers[heartbeat.SIGNATURE] = heartbeat.sign(self._key(), body)
        self._answered(self._endpoint.post(body, headers))
