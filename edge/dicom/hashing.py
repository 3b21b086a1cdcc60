"""Hashing beside sending."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from edge import hindrance

#: More bytes at once are hashed by another thread.
HASH_IN_PLACE = 65_536

_HASHERS = ThreadPoolExecutor(max(2, os.cpu_count() or 1), thread_name_prefix="hash")


def update(digest: hashlib._Hash, slots: Sequence[memoryview]) -> Future[None] | None:
    """Hash some bytes: beside what comes next when they are many, else at once."""

    def work() -> None:
        for slot in slots:
            digest.update(slot)

    if sum(map(len, slots)) > HASH_IN_PLACE and (hashing := hindrance.submit(_HASHERS, work)) is not None:
        return hashing
    work()
    return None
