"""The channels that a configuration names, built: by the outbox's name of each."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from edge.config import channels as configured
from edge.config import secret
from edge.config.audit import Audit
from edge.config.secret import SecretError
from edge.config.sections import Config
from edge.messaging import Channel, Rejected, notice, smtp
from edge.messaging import syslog as rfc5424
from edge.messaging.https import Endpoint, Upstream, WebhookSender
from edge.messaging.line import Trust
from edge.monitor.escalation import CLOSED
from edge.store.outbox import Message

#: What a notice's severity is called in syslog.
SYSLOG_SEVERITY = {"critical": rfc5424.SYSLOG_CRITICAL, "major": rfc5424.ERROR, "minor": rfc5424.WARNING}


def build_channels(
    found: Config, directory: Path, answered: Callable[[bytes], None] = lambda _: None
) -> dict[str, Channel]:
    """Every channel, by name; files and secrets are looked for from `directory`, when they are needed.

    `answered` gets what the centre answers to a heartbeat.
    """
    made = for_subscribers(configured.subscribers(found), directory)
    if found.heartbeat.url:
        made[configured.HEARTBEAT_CHANNEL] = _upstream(found, found.heartbeat.url, directory, answered)
    return made


def for_subscribers(subscribers: Iterable[tuple[str, configured.Subscriber]], directory: Path) -> dict[str, Channel]:
    """The channels of those that are configured."""
    made: dict[str, Channel] = {}
    for name, subscriber in subscribers:
        for queue in configured.queues(name, subscriber):
            made[queue] = _channel(subscriber, queue.partition("/")[2], directory)
    return made


def _channel(subscriber: configured.Subscriber, recipient: str, directory: Path) -> Channel:
    trust = partial(tls_context, directory, subscriber.ca)
    if isinstance(subscriber, configured.Email):
        port = subscriber.port or smtp.SMTP_PORTS[subscriber.security]
        password = _reader(directory, subscriber.password or "")
        server = smtp.MailServer(subscriber.host, port, subscriber.security, subscriber.user, password, trust)
        return smtp.EmailSender(server, subscriber.sender, recipient, subscriber.to)
    if isinstance(subscriber, configured.Webhook):
        key = _reader(directory, subscriber.key) if subscriber.key else None
        return WebhookSender(Endpoint(subscriber.url, trust), key, time.time)
    return Log(open_syslog(subscriber, directory))


def open_syslog(found: configured.SyslogServer | Audit, directory: Path) -> rfc5424.Syslog:
    """The collector of [syslog.NAME], or the repository of [audit]; files are looked for from `directory`."""
    context = partial(tls_context, directory, found.ca, found.certificate, found.client_key)
    port = found.port or rfc5424.SYSLOG_PORTS[found.transport]
    return rfc5424.Syslog(found.host or "", port, found.transport, context if found.transport == "tls" else None)


def _upstream(found: Config, url: str, directory: Path, answered: Callable[[bytes], None]) -> Upstream:
    section = found.heartbeat
    context = partial(tls_context, directory, section.ca, section.certificate, section.client_key)
    key = _reader(directory, section.key) if section.key else None
    return Upstream(Endpoint(url, context), found.site.id, key, answered)


def tls_context(
    directory: Path, ca: str | None, certificate: str | None = None, client_key: str | None = None
) -> ssl.SSLContext:
    """What TLS needs, read again. Raises Rejected."""
    if client_key:
        _reader(directory, client_key)()  # refuses one that others may read
    names = (ca, certificate, client_key)
    return Trust(*(secret.path_of(name, directory) if name else None for name in names)).context()


def _reader(directory: Path, name: str) -> Callable[[], bytes]:
    """Reads a secret whenever it is needed: a new one counts from then on. A person must fix a bad one: Rejected."""

    def read() -> bytes:
        try:
            return secret.read_secret(secret.path_of(name, directory))
        except SecretError as error:
            raise Rejected(str(error)) from None

    return read


class Log:
    """Notices as lines of syslog."""

    def __init__(self, syslog: rfc5424.Syslog) -> None:
        self._syslog = syslog
        self.cut, self.close = syslog.cut, syslog.close

    def deliver(self, message: Message) -> None:
        content = notice.parse_notice(message.body)
        severity = rfc5424.NOTICE if content.event == CLOSED else SYSLOG_SEVERITY.get(content.severity, rfc5424.WARNING)
        self._syslog.send(severity, content.kind, notice.log_line(content), message.at, rfc5424.DAEMON)
