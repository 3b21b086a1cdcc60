"""The tables of a configuration and their classes; what keys a class has, by its annotations."""

from __future__ import annotations

from dataclasses import MISSING, fields
from functools import cache
from keyword import iskeyword
from typing import Any, get_type_hints

from edge.config.audit import Audit
from edge.config.channels import Email, Heartbeat, SyslogServer, Webhook
from edge.config.coercion import Coercion
from edge.config.departmental import IocmSection, MppsSection, Prefetch, WorklistSection
from edge.config.maintenance import Maintenance
from edge.config.masks import Mask
from edge.config.sections import (
    AlertRule,
    Calendar,
    ConsoleSection,
    Destination,
    DicomWeb,
    DropSection,
    Feed,
    Hl7Section,
    Hold,
    Identity,
    Listen,
    Modality,
    Quality,
    Quarantine,
    QuerySection,
    Relay,
    RetentionRule,
    RetentionSection,
    Route,
    SiteSection,
    StorageSection,
    Tls,
    WebClient,
)
from edge.config.values import ValueKind

#: [table] -> its class; the field of Config has the table's name.
SINGLE_SECTIONS: dict[str, type] = {
    "site": SiteSection,
    "listen": Listen,
    "tls": Tls,
    "storage": StorageSection,
    "retention": RetentionSection,
    "quality": Quality,
    "identity": Identity,
    "hl7": Hl7Section,
    "quarantine": Quarantine,
    "query": QuerySection,
    "console": ConsoleSection,
    "dicomweb": DicomWeb,
    "audit": Audit,
    "calendar": Calendar,
    "heartbeat": Heartbeat,
    "worklist": WorklistSection,
    "mpps": MppsSection,
    "iocm": IocmSection,
}
#: [table.NAME] -> its class, and the field of Config.
NAMED_SECTIONS: dict[str, tuple[type, str]] = {
    "modality": (Modality, "modalities"),
    "destination": (Destination, "destinations"),
    "route": (Route, "routes"),
    "hold": (Hold, "holds"),
    "retention": (RetentionRule, "retention_rules"),
    "drop": (DropSection, "drops"),
    "feed": (Feed, "feeds"),
    "relay": (Relay, "relays"),
    "client": (WebClient, "clients"),
    "coerce": (Coercion, "coercions"),
    "mask": (Mask, "masks"),
    "alert": (AlertRule, "alerts"),
    "email": (Email, "emails"),
    "webhook": (Webhook, "webhooks"),
    "syslog": (SyslogServer, "syslogs"),
    "prefetch": (Prefetch, "prefetches"),
    "maintenance": (Maintenance, "maintenances"),
}


@cache
def keys(cls: type) -> dict[str, ValueKind]:
    """The keys that a section takes, with their kinds of value."""
    hints = get_type_hints(cls, include_extras=True)
    return {_key_of(name): hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}


def field_of(key: str) -> str:
    """The field of a key. A key that Python reserves, such as `from`, has an underscore behind it there."""
    return f"{key}_" if iskeyword(key) else key


def _key_of(name: str) -> str:
    return name[:-1] if iskeyword(name.removesuffix("_")) else name


def defaults(cls: type) -> dict[str, Any]:
    """The keys that a section can do without, and what they are then."""
    found = {f.name: f.metadata["omitted"] for f in fields(cls) if f.metadata}
    found |= {f.name: f.default for f in fields(cls) if f.default is not MISSING}
    found |= {f.name: f.default_factory() for f in fields(cls) if f.default_factory is not MISSING}
    return {_key_of(name): value for name, value in found.items()}


def required_keys(cls: type) -> list[str]:
    """The keys that a section cannot do without."""
    return [name for name in keys(cls) if name not in defaults(cls)]


def build_section(cls: type, *name: str, **values: Any) -> Any:
    """A section of its class from the values of its keys; `name` where it has one."""
    return cls(*name, **{field_of(key): value for key, value in values.items()})
