"""The entry of the web door's process; what it is made of is loaded there alone."""

from __future__ import annotations

from collections.abc import Sequence


def run_web_door(descriptors: Sequence[int]) -> None:
    """The whole life of the process; descriptors as in edge.scp.receiving."""
    from edge.scp.dicomweb.process import WebProcess  # noqa: PLC0415
    from edge.scp.receiving import serve_process  # noqa: PLC0415

    serve_process(WebProcess, descriptors)
