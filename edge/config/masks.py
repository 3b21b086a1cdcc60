"""[mask.NAME]: areas of a device's images that are set to black in copies without identity, as a site writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from edge.config import kinds
from edge.config.values import ValueKind, format_value, unfit

#: Of one mask.
MOST_AREAS = 64


class Area(NamedTuple):
    """A rectangle in pixels, from the upper left corner of the image."""

    x: int
    y: int
    width: int
    height: int


def _area(value: object) -> Area:
    numbers = value if isinstance(value, list) else []
    if len(numbers) != len(Area._fields) or not all(type(each) is int and 0 <= each < 1 << 16 for each in numbers):
        raise unfit(f"expected [x, y, width, height] in pixels, found {format_value(value)}")
    area = Area(*numbers)
    if not (area.width and area.height):
        raise unfit(f"{format_value(value)} is empty: width and height are at least 1")
    return area


def _areas(value: object) -> tuple[Area, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MOST_AREAS:
        raise ValueError
    return tuple(_area(each) for each in value)


_AREAS = ValueKind("a list such as [[0, 0, 800, 60]]: x, y, width, height in pixels", _areas)


@dataclass(frozen=True, slots=True)
class Mask:
    """Where the equipment that `when` describes writes text into its images."""

    name: str
    areas: Annotated[tuple[Area, ...], _AREAS]
    when: Annotated[dict[str, Any], kinds.WHEN] = field(default_factory=dict)
    to: Annotated[tuple[str, ...], kinds.DESTINATIONS] = ()  # empty: every destination of copies without identity
