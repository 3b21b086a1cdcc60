"""A TCP connection for a channel: bounded in every wait, and cut from outside. TLS as the site has configured it.

Certificates and keys are read for each connection: what was renewed counts from the next one on. All that can go wrong
is raised as Transient (Rejected where only a person can fix it), in words that name the other end and the remedy.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge.errors import Transient
from edge.messaging import Rejected
from edge.network.sockets import shut_down

#: Seconds for a connection, and for one answer on it.
WAIT_SECONDS = 15.0
#: Seconds for a whole delivery, whatever the other end drips.
DELIVERY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Trust:
    """Trusted authorities, and our own certificate: files in PEM."""

    ca: Path | None = None  # the authority that vouches for the other end; None: those of the system
    certificate: Path | None = None  # ours, where the other end asks for one
    client_key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Build a client's context: TLS 1.2 or newer, name and chain checked. Raises Rejected."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            raise Rejected(f"the ca {self.ca} cannot be read: {_reason_of(error)}") from None
        if self.certificate:
            try:
                context.load_cert_chain(self.certificate, self.client_key)
            except (OSError, ssl.SSLError) as error:
                names = f"{self.certificate} and {self.client_key or 'the key in it'}"
                raise Rejected(f"the certificate {names} cannot be used: {_reason_of(error)}") from None
        return context


def _reason_of(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not in PEM").replace("_", " ").lower()
    return error.strerror or str(error) or "timed out"


@contextmanager
def in_words(where: str) -> Iterator[None]:
    """Inside, every failure of network and TLS becomes Transient with words about `where`."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        reason = error.verify_message or "not trusted"
        raise Rejected(
            f"{where} shows a certificate that is not accepted: {reason};"
            " compare its name and ca with the configuration"
        ) from None
    except ssl.SSLError as error:
        raise Transient(f"{where} and we cannot agree on TLS: {_reason_of(error)}; is it the right port?") from None
    except socket.gaierror:
        raise Transient(f"the name of {where} cannot be resolved") from None
    except TimeoutError:
        raise Transient(f"{where} does not answer in time") from None
    except OSError as error:
        raise Transient(f"{where} cannot be reached: {error.strerror or 'the connection broke'}") from None


class Cutter:
    """Knows the socket of the delivery that is under way, and ends it: after DELIVERY_SECONDS, or by `cut`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: Callable[[], socket.socket | None] = lambda: None

    @contextmanager
    def watching(self, sock: Callable[[], socket.socket | None]) -> Iterator[None]:
        """`sock` names the socket at the moment: STARTTLS puts another one in its place."""
        with self._lock:
            self._socket = sock
        timer = threading.Timer(DELIVERY_SECONDS, self.cut)
        timer.name, timer.daemon = "delivery time", True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with self._lock:
                self._socket = lambda: None

    def cut(self) -> None:
        """Any blocking call on the socket fails at once. Does nothing when none is watched."""
        with self._lock:
            sock = self._socket()
            if sock is not None:
                shut_down(sock, socket.SHUT_RDWR)


def open_connection(host: str, port: int, context: ssl.SSLContext | None, cutter: Cutter) -> socket.socket:
    """Connect, and agree on TLS where there is a `context`. Raises what `in_words` puts in words."""
    sock = socket.create_connection((host, port), timeout=WAIT_SECONDS)
    try:
        if context is None:
            return sock
        secure = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        try:
            with cutter.watching(lambda: secure):
                secure.do_handshake()
        except BaseException:
            secure.close()
            raise
        return secure
    except BaseException:
        sock.close()
        raise
