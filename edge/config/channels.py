"""Notification channels: [email.NAME], [webhook.NAME], [syslog.NAME] and [heartbeat], and which notices each gets.

Files and secrets are named as they are written; `edge.messaging.channels` finds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Protocol

from edge.config import kinds as values
from edge.config.alarms import ALERT_KINDS, ALERT_SEVERITIES
from edge.config.files import Key
from edge.config.values import did_you_mean, format_value

if TYPE_CHECKING:
    from edge.config.reading import Reading
    from edge.config.sections import Config

EVENTS = ("opened", "closed", "escalated")
#: Channels of the outbox: the audit trail, the heartbeats, and the notices that the next one takes along.
AUDIT_CHANNEL, HEARTBEAT_CHANNEL, NOTICES = "audit", "heartbeat", "heartbeat.notices"


@dataclass(frozen=True, slots=True)
class Email:
    name: str
    host: Annotated[str, values.HOST]  # of the mail server that takes our mail
    sender: Annotated[str, values.EMAIL]
    to: Annotated[tuple[str, ...], values.EMAILS]
    security: Annotated[str, values.one_of("starttls", "tls", "none")] = "starttls"
    port: Annotated[int | None, values.PORT] = None  # None: 587 for starttls, 465 for tls, 25 for none
    user: Annotated[str | None, values.TEXT] = None
    password: Annotated[str | None, values.SECRET] = None
    ca: Annotated[str | None, values.FILE] = None  # None: those that the system trusts
    severity: Annotated[str, values.SEVERITY] = "minor"  # from which on it wants notices
    kinds: Annotated[tuple[str, ...], values.GLOBS] = ()  # of alert; empty: all
    events: Annotated[tuple[str, ...], values.list_of_words(*EVENTS)] = EVENTS
    monthly: Annotated[bool, values.YES_NO] = False  # also gets the report of each month


@dataclass(frozen=True, slots=True)
class Webhook:
    name: str
    url: Annotated[str, values.URL]
    key: Annotated[str | None, values.SECRET] = None  # signs; None: unsigned
    ca: Annotated[str | None, values.FILE] = None
    severity: Annotated[str, values.SEVERITY] = "minor"
    kinds: Annotated[tuple[str, ...], values.GLOBS] = ()
    events: Annotated[tuple[str, ...], values.list_of_words(*EVENTS)] = EVENTS


@dataclass(frozen=True, slots=True)
class SyslogServer:
    name: str
    host: Annotated[str, values.HOST]
    transport: Annotated[str, values.one_of("tls", "tcp", "udp")] = "tls"
    port: Annotated[int | None, values.PORT] = None  # None: 6514 for tls, 601 for tcp, 514 for udp
    ca: Annotated[str | None, values.FILE] = None
    certificate: Annotated[str | None, values.FILE] = None  # ours, where the collector asks for one
    client_key: Annotated[str | None, values.SECRET] = None
    severity: Annotated[str, values.SEVERITY] = "minor"
    kinds: Annotated[tuple[str, ...], values.GLOBS] = ()
    events: Annotated[tuple[str, ...], values.list_of_words(*EVENTS)] = EVENTS


@dataclass(frozen=True, slots=True)
class Heartbeat:
    url: Annotated[str | None, values.URL] = None  # None: no heartbeats
    every: Annotated[float, values.PERIOD] = 60.0
    key: Annotated[str | None, values.SECRET] = None
    ca: Annotated[str | None, values.FILE] = None
    certificate: Annotated[str | None, values.FILE] = None  # with client_key: who we are (mutual TLS)
    client_key: Annotated[str | None, values.SECRET] = None


Subscriber = Email | Webhook | SyslogServer


def channels_for(config: Config, kind: str, severity: str, event: str) -> list[str]:
    """List the outbox's channels that want a notice: of an alert's kind and severity, about an `event` (EVENTS).

    Each recipient of an e-mail has a channel of its own, so that one who is refused delays nobody else; with
    [heartbeat], the next heartbeat takes the notice along.
    """
    found = [
        channel
        for name, subscriber in subscribers(config)
        if wants(subscriber, kind, severity, event)
        for channel in queues(name, subscriber)
    ]
    return [*found, NOTICES] if config.heartbeat.url else found


def announcement_channels(config: Config) -> list[str]:
    """List the channels of what a person announces: all but those that are limited to kinds of alert."""
    found = [channel for name, each in subscribers(config) if not each.kinds for channel in queues(name, each)]
    return [*found, NOTICES] if config.heartbeat.url else found


def all_queues(config: Config) -> set[str]:
    """List the outbox's channels that are configured: what waits for another one is delivered to nobody."""
    found = {queue for name, subscriber in subscribers(config) for queue in queues(name, subscriber)}
    found |= {HEARTBEAT_CHANNEL, NOTICES} if config.heartbeat.url else set()
    return found | ({AUDIT_CHANNEL} if config.audit.is_enabled else set())


def monthly_channels(config: Subscribed) -> list[str]:
    """List the channels that get the report of each month."""
    return [queue for name, each in config.emails.items() if each.monthly for queue in queues(f"email.{name}", each)]


class Subscribed(Protocol):
    """A configuration that names channels."""

    @property
    def emails(self) -> Mapping[str, Email]: ...
    @property
    def webhooks(self) -> Mapping[str, Webhook]: ...
    @property
    def syslogs(self) -> Mapping[str, SyslogServer]: ...


def subscribers(config: Subscribed) -> Iterator[tuple[str, Subscriber]]:
    """List every configured channel by the name that commands and messages use: `email.mimso`."""
    yield from ((f"email.{name}", each) for name, each in config.emails.items())
    yield from ((f"webhook.{name}", each) for name, each in config.webhooks.items())
    yield from ((f"syslog.{name}", each) for name, each in config.syslogs.items())


def queues(name: str, subscriber: Subscriber) -> list[str]:
    """List the outbox's channels of a configured one: `email.mimso/anna@example.org`, `webhook.chat`."""
    return [f"{name}/{address}" for address in subscriber.to] if isinstance(subscriber, Email) else [name]


def wants(subscriber: Subscriber, kind: str, severity: str, event: str) -> bool:
    """Check whether a channel wants a notice of this kind, severity and event."""
    return (
        event in subscriber.events
        and ALERT_SEVERITIES.index(severity) >= ALERT_SEVERITIES.index(subscriber.severity)
        and (not subscriber.kinds or any(fnmatchcase(kind, glob) for glob in subscriber.kinds))
    )


# Checks of several sections together (edge.config.cross_checks).


def passwords_are_safe(reading: Reading) -> Iterator[tuple[Key, str]]:
    for at, found in reading.tables_of("email"):
        if found.get("password") and found.get("security") == "none":
            text = 'expected security = "starttls" or "tls", found "none", which shows the password to the network'
            yield (*at, "security"), text


def kinds_are_known(reading: Reading) -> Iterator[tuple[Key, str]]:
    """Find patterns that no alert fits: their channel would never get a notice."""
    for table in ("email", "webhook", "syslog"):
        for at, found in reading.tables_of(table):
            for index, glob in enumerate(found.get("kinds", ())):
                if not any(fnmatchcase(kind, glob) for kind in ALERT_KINDS):
                    near = did_you_mean(glob, ALERT_KINDS) or f"; expected one of {', '.join(ALERT_KINDS)}"
                    yield (*at, "kinds", index), f"no kind of alert is {format_value(glob)}{near}"


def heartbeats_say_who_they_are(reading: Reading) -> Iterator[tuple[Key, str]]:
    found = reading.section(Heartbeat)
    if found.get("url") and found.get("key", "") is None and found.get("certificate", "") is None:
        yield ("heartbeat", "url"), "expected key (to sign) or certificate (mutual TLS) as well, found neither"
