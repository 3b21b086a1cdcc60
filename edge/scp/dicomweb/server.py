"""A connection to the web door, from its first request to its end: who calls, which resource answers, what is said.

A fault of ours is answered with 500 and logged by its place. What a caller may not do is answered with 401 or 403,
counted and audited as any refusal.
"""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from edge.config.secret import SecretError, read_key
from edge.config.sections import Config
from edge.errors import EdgeError, Hindered, StorageUnhealthy, place_of
from edge.network import tls
from edge.network.shares import caller_of
from edge.network.sites import SITE_HEADER, write_site
from edge.query.asking import Asker
from edge.query.levels import Level
from edge.scp.admission import Admission, Caller, make_unnamed_caller
from edge.scp.dicomweb.access import PERSON_SERVICES, WebCaller, identify_client, token_digest
from edge.scp.dicomweb.converted import ConvertedCopies
from edge.scp.dicomweb.exchange import TEXT_MEDIA, WEB_ROOT, Exchange, FilePart, WebAnswer
from edge.scp.dicomweb.holdings import Holdings
from edge.scp.dicomweb.metadata import MetadataResource
from edge.scp.dicomweb.pixels import PixelResource
from edge.scp.dicomweb.protocol import ConnectionEnded, HttpConnection, HttpError, HttpRequest
from edge.scp.dicomweb.query import QueryResource
from edge.scp.dicomweb.rendered import DRAWERS, MOST_RENDERED, RENDER_IDLE_SECONDS, RENDER_SECONDS, RenderedResource
from edge.scp.dicomweb.report import TRY_AGAIN_SECONDS
from edge.scp.dicomweb.resources import WEB_RESOURCES
from edge.scp.dicomweb.retrieve import InstanceResource
from edge.scp.dicomweb.store import StoreResource
from edge.scp.recorder import Recorder
from edge.scp.remote_link import RemoteLink
from edge.store.web_clients import CLIENT_PREFIX
from edge.transform import Transcoder

log = logging.getLogger(__name__)

#: Headers that pages of another origin may send and read (CORS).
_CORS_SENT = "Accept, Authorization, Content-Type, If-None-Match, Range"
_CORS_READ = "Content-Location, Content-Range, ETag, Retry-After, Warning"


#: A client's calls from one address are noted once in this time.
CALL_NOTE_SECONDS, MOST_NOTED = 10.0, 10_000


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource of the table with what answers for it."""

    method: str
    form: re.Pattern[str]
    service: str
    answer: Callable[[Exchange, dict[str, str]], WebAnswer]


def _bind(
    store: StoreResource,
    query: QueryResource,
    instances: InstanceResource,
    metadata: MetadataResource,
    pixels: PixelResource,
    rendered: RenderedResource,
) -> tuple[Resource, ...]:
    """The table's resources with their handlers."""
    handlers = {
        "store instances": store.answer,
        "search for studies": query.resource_at(Level.STUDY),
        "search for series": query.resource_at(Level.SERIES),
        "search for instances": query.resource_at(Level.IMAGE),
        "retrieve instances": instances.answer,
        "retrieve metadata": metadata.answer,
        "retrieve frames": pixels.frames,
        "retrieve bulk data": pixels.bulk,
        "retrieve rendered": rendered.one,
        "retrieve rendered instances": rendered.several,
        "retrieve thumbnail": rendered.thumbnail,
    }
    return tuple(Resource(each.method, each.form, each.service, handlers[each.transaction]) for each in WEB_RESOURCES)


class WebDoor:
    """See the module's docstring, and edge.scp.receiving.ConnectionServer."""

    def __init__(
        self,
        config: Config,
        recorder: Recorder,
        check_room: Callable[[], None],
        link: RemoteLink,
        holdings: Holdings,
        asker: Asker,
    ) -> None:
        self.config, self.recorder, self.link = config, recorder, link
        self._digests: dict[str, bytes] = {}
        self._open: dict[HttpConnection, None] = {}  # the oldest first
        self._lock = threading.Lock()
        self._stopping = False
        self._noted: dict[tuple[str, str], float] = {}  # when the call of a client from an address was noted
        store = StoreResource(lambda: self.config, recorder, check_room, link)
        query = QueryResource(lambda: self.config, asker, link)
        self._transcoder = Transcoder(
            workers=DRAWERS, timeout=RENDER_SECONDS, idle=RENDER_IDLE_SECONDS, largest=MOST_RENDERED
        )
        rendered = RenderedResource(holdings, self._transcoder)
        instances = InstanceResource(holdings, ConvertedCopies(link))
        pixels = PixelResource(holdings, self._transcoder)
        self._resources = _bind(store, query, instances, MetadataResource(holdings), pixels, rendered)
        self.refresh()

    def refresh(self) -> None:
        """Read the clients' tokens."""
        found = {}
        for client in self.config.clients.values():
            try:
                if client.token:
                    found[client.name] = token_digest(read_key(Path(client.token)))
            except SecretError as error:
                log.error("[client.%s] cannot call: %s", client.name, error)
        self._digests = found

    # -- connections --------------------------------------------------------------------------------------------------

    def serve(self, sock: socket.socket, first: bytearray, address: str) -> None:
        """Serve one connection to its end. Empties `first`."""
        connection = HttpConnection(sock, first, address)
        first.clear()
        with self._lock:
            self._open[connection] = None
        try:
            while not self._stopping and self._serve_one(connection):
                pass
        except ConnectionEnded:
            pass
        finally:
            with self._lock:
                del self._open[connection]

    def _serve_one(self, connection: HttpConnection) -> bool:
        """Answer the next request. False: there is none, or none may follow."""
        try:
            request = connection.next_request()
        except HttpError as error:
            connection.refuse(error.status, error.text)
            return False
        if request is None:
            return False
        answer = self._answer(connection, request)
        if connection.has_unread_body and not connection.ends:
            connection.drop_body()
        ends = connection.ends
        with answer.opened:
            may_follow = _send(connection, request, answer, self._cors(request))
        if ends and connection.has_unread_body:
            connection.linger()
        return may_follow and not ends

    def _answer(self, connection: HttpConnection, request: HttpRequest) -> WebAnswer:
        try:
            return self._dispatch(connection, request)
        except HttpError as error:
            return _failure(error.status, error.text, error.headers)
        except ConnectionEnded:
            raise
        except (Hindered, StorageUnhealthy, MemoryError):
            retry = {"Retry-After": str(TRY_AGAIN_SECONDS)}
            return _failure(HTTPStatus.SERVICE_UNAVAILABLE, "The gateway cannot do it now.", retry)
        except Exception as error:  # noqa: BLE001 - whatever one request provokes, the door stays open
            log.error("a request of the web door: %s", place_of(error))
            return _failure(HTTPStatus.INTERNAL_SERVER_ERROR, "An unexpected fault of the gateway; see its log.")

    def _dispatch(self, connection: HttpConnection, request: HttpRequest) -> WebAnswer:
        method = "GET" if request.method == "HEAD" else request.method
        matches = [(each, found) for each in self._resources if (found := each.form.fullmatch(request.path))]
        allowed = sorted({each.method for each, _ in matches})
        if request.method == "OPTIONS":
            site = {SITE_HEADER: write_site(self.config.site.id)} if self._find_machine(connection, request) else {}
            return WebAnswer(HTTPStatus.NO_CONTENT, {"Allow": ", ".join([*allowed, "OPTIONS"]), **site})
        caller = self._identify(connection, request)
        if not matches:
            raise HttpError(HTTPStatus.NOT_FOUND, f"There is no such resource. The services are below {WEB_ROOT}.")
        chosen = next(((each, names) for each, names in matches if each.method == method), None)
        if chosen is None:
            raise HttpError(HTTPStatus.METHOD_NOT_ALLOWED, "Not here.", {"Allow": ", ".join(allowed)})
        target, match = chosen
        if target.service not in caller.services:
            why = f"it asks for {target.service}, which its services do not name"
            self.link.note_refusal(connection.address, caller.title, why)
            raise HttpError(HTTPStatus.FORBIDDEN, f"{target.service} is not among the services of this client.")
        self._note_call(connection, caller)
        secure, certificate = hasattr(connection.sock, "cipher"), tls.certificate_of(connection.sock)
        exchange = Exchange(request, caller, connection.address, secure, connection.read_body, certificate)
        return target.answer(exchange, match.groupdict())

    def _identify(self, connection: HttpConnection, request: HttpRequest) -> WebCaller:
        certificate, authorization = tls.certificate_of(connection.sock), request.header("authorization")
        caller = self._find_machine(connection, request)
        if caller is None and (person := self._find_person(request)):
            return person
        if caller is None:
            why = "it shows no token"
            if authorization or certificate:
                why = "no [client] has its token or certificate"
                self.link.note_call(*make_unnamed_caller(connection.address, f"DICOMweb: {why}"), (), 0)
            self.link.note_refusal(connection.address, "", f"a request to the web door: {why}")
            say = {"WWW-Authenticate": 'Bearer realm="edge"'}
            raise HttpError(HTTPStatus.UNAUTHORIZED, "Show the token or certificate of a [client].", say)
        return caller

    def _note_call(self, connection: HttpConnection, caller: WebCaller) -> None:
        """Record now and then that a machine calls: its requests are too many to record each."""
        if not caller.name.startswith(CLIENT_PREFIX):
            return
        key, now = (caller.name, connection.address), time.monotonic()
        if now - self._noted.get(key, -CALL_NOTE_SECONDS) < CALL_NOTE_SECONDS:
            return
        if len(self._noted) >= MOST_NOTED:
            self._noted.clear()
        self._noted[key] = now
        called = Caller(caller.title, connection.address, tls.certificate_of(connection.sock))
        self.link.note_call(called, Admission(caller.name, services=caller.services), (), 0)

    def _find_machine(self, connection: HttpConnection, request: HttpRequest) -> WebCaller | None:
        certificate, authorization = tls.certificate_of(connection.sock), request.header("authorization")
        return identify_client(self.config.clients.values(), self._digests, authorization, certificate)

    def _find_person(self, request: HttpRequest) -> WebCaller | None:
        """Who has signed in at the console and sees patients may look here, too; stored is by machines alone."""
        if not request.header("cookie") or request.method not in ("GET", "HEAD"):
            return None
        name = self.link.ask("find_person", request.header("cookie")).get("name", "")
        return WebCaller(name, name.upper()[:16], PERSON_SERVICES) if name else None

    def _cors(self, request: HttpRequest) -> dict[str, str]:
        """Headers that let a page of a configured origin read the answer (Fetch standard, section 3.3)."""
        origin, allowed = request.header("origin"), self.config.dicomweb.origins
        if not origin or not (origin in allowed or "*" in allowed):
            return {}
        found = {"Access-Control-Allow-Origin": origin if origin in allowed else "*", "Vary": "Origin"}
        if origin in allowed:
            found["Access-Control-Allow-Credentials"] = "true"
        if request.method == "OPTIONS":
            found["Access-Control-Allow-Methods"] = "GET, HEAD, POST, OPTIONS"
            found["Access-Control-Allow-Headers"] = _CORS_SENT
            found["Access-Control-Max-Age"] = "3600"
        return found | {"Access-Control-Expose-Headers": _CORS_READ}

    # -- ending -------------------------------------------------------------------------------------------------------

    def end_idle(self, caller: str, modality: str) -> bool:
        """End the connection that has waited for its next request the longest."""
        with self._lock:
            idle = [each for each in self._open if each.is_waiting and caller_of(each.address) == caller]
        for each in idle[:1]:
            each.hang_up()
        return bool(idle)

    def drain(self, seconds: float) -> None:
        self._stopping = True
        end = time.monotonic() + seconds
        while self._open and time.monotonic() < end:
            with self._lock:
                waiting = [each for each in self._open if each.is_waiting]
            for each in waiting:
                each.hang_up()
            time.sleep(0.05)
        with self._lock:
            left = list(self._open)
        for each in left:
            each.hang_up()
        self._transcoder.close()


def _failure(status: HTTPStatus, text: str, headers: Any = None) -> WebAnswer:
    return WebAnswer(status, {"Content-Type": TEXT_MEDIA, **(headers or {})}, f"{text}\n".encode())


def _send(connection: HttpConnection, request: HttpRequest, answer: WebAnswer, cors: dict[str, str]) -> bool:
    """Send an answer. False: no other may follow on this connection."""
    headers = {**answer.headers, **cors, "X-Content-Type-Options": "nosniff"}
    if answer.parts is None:
        connection.answer(answer.status, headers, answer.body)
        return True
    length = answer.length if answer.write is None else None
    connection.answer(answer.status, headers, None, length)
    with closing(iter_parts(answer.parts)) as parts:
        if request.method != "HEAD":
            try:
                _send_body(connection, parts, answer)
            except (HttpError, Hindered, StorageUnhealthy, EdgeError, OSError) as error:
                log.warning("an answer of the web door was cut off: %s", place_of(error))
                return False  # the caller sees that it is not whole
    return length is not None or request.knows_chunks


def iter_parts(parts: Iterable[bytes | FilePart]) -> Generator[bytes | FilePart, None, None]:
    """Iterate over parts by a generator, which can be closed early: then what the parts hold is given back."""
    yield from parts


def _send_body(connection: HttpConnection, parts: Iterable[bytes | FilePart], answer: WebAnswer) -> None:
    def send(part: bytes | FilePart) -> None:
        if isinstance(part, FilePart):
            with part.path.open("rb") as file:
                connection.send_file(file, part.offset, part.count)
        else:
            connection.send(part)

    for each in parts:
        send(each)
    if answer.write is not None:
        answer.write(send)
    connection.end_body()
