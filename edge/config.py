"""The configuration: a directory of TOML files, merged, checked whole, and frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge.model import Priority


@dataclass(frozen=True, slots=True)
class Site:
    id: str
    name: str
    data_dir: Path


@dataclass(frozen=True, slots=True)
class Listen:
    ae_title: str = "EDGE"
    host: str = "0.0.0.0"
    port: int = 11112
    unknown: str = "refuse"  # "refuse" | "accept"
    conflicts: str = "hold"  # "hold" | "forward"


@dataclass(frozen=True, slots=True)
class Modality:
    name: str
    ae_title: str  # a glob
    hosts: tuple[str, ...] = ()  # addresses or networks; empty: any


@dataclass(frozen=True, slots=True)
class Destination:
    name: str
    ae_title: str
    host: str
    port: int
    confirm: str = "status"  # "commitment" | "query" | "status"
    associations: int | None = None  # most at once; None: found by itself


@dataclass(frozen=True, slots=True)
class Route:
    name: str
    to: tuple[str, ...]
    when: dict[str, Any] = field(default_factory=dict)  # as in TOML; edge.route compiles it
    priority: Priority = Priority.ROUTINE


@dataclass(frozen=True, slots=True)
class Hold:
    """Studies that retention keeps for ever: [hold.NAME] with `studies` (UIDs) or `when` (as a route's)."""

    name: str
    studies: tuple[str, ...] = ()
    when: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Storage:
    warn: float = 0.80  # fraction of the file system
    refuse: float = 0.95


@dataclass(frozen=True, slots=True)
class Retention:
    keep: float = 30 * 86400.0  # seconds, at least, once confirmed


@dataclass(frozen=True, slots=True)
class Console:
    host: str = "127.0.0.1"
    port: int = 8042


@dataclass(frozen=True, slots=True)
class Config:
    site: Site
    listen: Listen
    modalities: dict[str, Modality]
    destinations: dict[str, Destination]
    routes: dict[str, Route]
    holds: dict[str, Hold]
    storage: Storage
    retention: Retention
    console: Console
