"""The tables of the configuration and the keys of each, by the annotations of their classes."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from keyword import iskeyword
from typing import Any, get_args, get_type_hints

from edge.config.values import ValueKind


def sections_by_table(config: type) -> tuple[dict[str, type], dict[str, tuple[type, str]]]:
    """The tables of a configuration: [table] -> its class, [table.NAME] -> its class and the field that has them all.

    A [table] has the name of its field; the annotation of a field with several has the name of their table.
    """
    single: dict[str, type] = {}
    named: dict[str, tuple[type, str]] = {}
    for name, hint in get_type_hints(config, include_extras=True).items():
        if isinstance(hint, type) and is_dataclass(hint):
            single[name] = hint
        elif hasattr(hint, "__metadata__"):
            named[hint.__metadata__[0]] = get_args(hint.__origin__)[1], name
    return single, named


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


@cache
def required_keys(cls: type) -> tuple[str, ...]:
    """The keys that a section cannot do without."""
    omittable = defaults(cls)
    return tuple(name for name in keys(cls) if name not in omittable)


def build_section(cls: type, *name: str, **values: Any) -> Any:
    """A section of its class from the values of its keys; `name` where it has one."""
    return cls(*name, **{field_of(key): value for key, value in values.items()})
