"""The query parameters of rendered resources (PS3.18 section 8.3.5). Pure.

Raises HttpError: 400. What is not done is named by `unsupported`.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from edge.scp.dicomweb.exchange import Exchange
from edge.scp.dicomweb.protocol import HttpError
from edge.transform.view import View

_FUNCTIONS = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}
_MOST_PIXELS = 100_000
#: Parameters that change nothing here: burnt-in annotations, colour profiles, presentation states.
_UNSUPPORTED = ("annotation", "iccprofile")


def read_picture_view(exchange: Exchange, most: int, usual: int = 0) -> View:
    """How the picture is wanted: at most `most` pixels a side, `usual` where nothing is said."""
    fit, region = _read_viewport(exchange)
    window, function = _read_window(exchange)
    columns, rows = fit or (usual or most, usual or most)
    return View(
        window=window,
        function=function,
        fit=(min(columns, most), min(rows, most)),
        region=region,
        quality=_read_quality(exchange),
    )


def list_unsupported(exchange: Exchange) -> list[str]:
    """What the request asks for and does not get."""
    return [name for name in _UNSUPPORTED if exchange.values(name)]


def _read_viewport(exchange: Exchange) -> tuple[tuple[int, int] | None, tuple[int, int, int, int] | None]:
    """Columns and rows of the picture, and which region of the frame it shows."""
    numbers = _numbers(exchange, "viewport", "width,height[,column,row,width,height] in pixels", int)
    if not numbers:
        return None, None
    is_valid = len(numbers) in (2, 6) and all(0 < each < _MOST_PIXELS for each in (*numbers[:2], *numbers[4:]))
    if not is_valid or not all(0 <= each < _MOST_PIXELS for each in numbers[2:4]):
        raise HttpError(HTTPStatus.BAD_REQUEST, "viewport is to be width,height[,column,row,width,height] in pixels.")
    columns, rows, *region = numbers
    return (columns, rows), (region[0], region[1], region[2], region[3]) if region else None


def _read_window(exchange: Exchange) -> tuple[tuple[float, float] | None, str]:
    """Center and width, and the name of the function."""
    text = next(iter(exchange.values("window")), "")
    center, _, rest = text.partition(",")
    width, _, function = rest.partition(",")
    if not text:
        return None, ""
    try:
        window = float(center), float(width)
        if not (abs(window[0]) < 1e9 and 0 < window[1] < 1e9):
            raise ValueError
        return window, _FUNCTIONS[function.strip().lower() or "linear"]
    except (ValueError, KeyError):
        text = "window is to be center,width and linear, linear-exact or sigmoid."
        raise HttpError(HTTPStatus.BAD_REQUEST, text) from None


def _read_quality(exchange: Exchange) -> int:
    numbers = _numbers(exchange, "quality", "a number from 1 to 100", int)
    if numbers and not (len(numbers) == 1 and 1 <= numbers[0] <= 100):
        raise HttpError(HTTPStatus.BAD_REQUEST, "quality is to be a number from 1 to 100.")
    return numbers[0] if numbers else 90


def _numbers(exchange: Exchange, name: str, form: str, kind: Callable[[str], int]) -> list[int]:
    text = next(iter(exchange.values(name)), "")
    try:
        return [kind(each) for each in text.split(",")] if text else []
    except ValueError:
        raise HttpError(HTTPStatus.BAD_REQUEST, f"{name} is to be {form}.") from None
