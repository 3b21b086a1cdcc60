"""The preview of an object's copies for `edge route explain`: what the configuration files would change."""

from __future__ import annotations

import os
import time
from pathlib import Path

from edge.cli.session import CommandSession
from edge.config.sections import Destination
from edge.dicom.header import read_at, scan
from edge.dicom.part10 import MAX_META, parse_meta
from edge.model import InstanceHeader
from edge.store import sent_copies
from edge.store.todays_facts import read_today_of_object
from edge.transform.corrections import ISSUER_OF_PATIENT_ID, NO_FACTS, PATIENT_ID_TAG, TodayFacts
from edge.transform.demographics import facts_from
from edge.transform.preview import CopyPreview, PreviewSteps, preview_copy, preview_steps


def preview_copies(
    session: CommandSession, path: Path, header: InstanceHeader, destinations: tuple[str, ...]
) -> tuple[CopyPreview, ...]:
    """What each destination would get that gets a copy with other bytes."""
    with path.open("rb") as file:
        fd = file.fileno()
        offset = parse_meta(os.pread(fd, MAX_META, 0)).dataset_offset
        length = os.fstat(fd).st_size - offset
        facts = _facts(session, fd, offset, length, header)
        made = (
            preview_copy(fd, offset, length, header, _steps(session, session.config.destinations[name], facts))
            for name in destinations
            if name in session.config.destinations
        )
        return tuple(each for each in made if each.rules or each.fault or each.compress)


def _steps(session: CommandSession, destination: Destination, facts: TodayFacts) -> PreviewSteps:
    since = {}
    if session.has_catalog:
        with session.quiet_catalog() as conn:
            since = sent_copies.rules_since(conn)
    return preview_steps(session.config, destination, lambda name: since.get(name, time.time()), facts)


def _facts(session: CommandSession, fd: int, offset: int, length: int, header: InstanceHeader) -> TodayFacts:
    """What the systems say today of its patient."""
    if not session.config.feeds or not session.has_catalog:
        return NO_FACTS
    tags = frozenset({PATIENT_ID_TAG, ISSUER_OF_PATIENT_ID})
    found = scan(read_at(fd, offset), length, header.transfer_syntax_uid, tags)
    number, issuer = ("".join(found.get(tag, ())[:1]) for tag in (PATIENT_ID_TAG, ISSUER_OF_PATIENT_ID))
    with session.quiet_catalog() as conn:
        return facts_from(read_today_of_object(conn, header.sop_instance_uid, number, issuer))
