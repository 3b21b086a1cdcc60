"""The request to draw one frame, for the worker, and its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class View:
    """Which frame is drawn, and how; see edge.transform.frame.FrameRequest."""

    frame: int = 1
    side: int = 0
    window: tuple[float, float] | None = None  # center and width
    function: str = ""
    fit: tuple[int, int] | None = None
    region: tuple[int, int, int, int] | None = None
    is_jpeg: bool = False
    quality: int = 90

    def as_request(self) -> dict[str, Any]:
        center, width = self.window or (None, None)
        return {
            "frame": self.frame,
            "side": self.side,
            "center": center,
            "width": width,
            "function": self.function,
            "fit": list(self.fit or ()),
            "region": list(self.region or ()),
            "quality": self.quality,
        }


#: The first frame, whole.
AS_IT_IS = View()


@dataclass(frozen=True, slots=True)
class RenderedFrame:
    """One frame as a picture: PNG, or JPEG where that was asked for."""

    data: bytes
    frames: int  # of the object
    rows: int
    columns: int
    is_colour: bool  # then it has no window
    center: float = 0.0
    width: float = 0.0
    lowest: float = 0.0
    highest: float = 0.0
