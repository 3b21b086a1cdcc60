"""Who asks a console for its pages, without a browser."""

from __future__ import annotations

import httpx


def visitor(url: str, *, follow_redirects: bool = True) -> httpx.Client:
    """A client of a console without TLS: to load the world's authorities takes 50 ms, more than ten pages."""
    return httpx.Client(base_url=url, timeout=60, follow_redirects=follow_redirects, verify=False)
