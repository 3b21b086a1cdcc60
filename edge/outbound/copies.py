"""The copy of an object that goes to one destination: corrected, de-identified, in the transfer syntax that it takes.

`CopyMaker.make` is all that the senders know of it. The kept object is never changed. Steps come in this order:
demographics of today and [coerce] rules (edge.transform.correct), de-identification, then the transfer syntax
(edge.transform.transcoder). Where no step changes anything, there is no copy, and the original's bytes go.

A copy is a function of the original, the rules and the facts, so that a retry has the same bytes; it may be dropped and
made again at any time.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import xxhash

from edge.dicom import part10
from edge.errors import TransformError, Transient, Unreadable
from edge.intake.routing import IMAGELESS
from edge.model import ContextKey, InstanceHeader, Lease, Origin
from edge.outbound.job import Copy
from edge.spool import Spool
from edge.store.returned import StudyIdentity
from edge.text import MIB
from edge.transform import Converted
from edge.transform.confidentiality import Deidentification
from edge.transform.copying import digests_of, read_plain, write_copy
from edge.transform.correct import correct_data_set
from edge.transform.corrections import NO_FACTS, NO_RULES, CorrectionRules, RuleFailed, TodayFacts
from edge.transform.deidentify import deidentify, pixel_risk, read_header_values
from edge.transform.editing import edited_pieces
from edge.transform.masking import IMAGE_KEYWORDS, NATIVE_PIXELS, CompiledMask, blacken, choose_mask, image_of
from edge.transform.reidentify import RESULT, restore_uids, result_rule
from edge.transform.syntaxes import EXPLICIT_LITTLE, NATIVE

#: Larger objects are not copied on a sender's thread, whose association would be silent meanwhile.
QUICK_BYTES = 16 * MIB
#: What the systems say today of the patient of an instance, by its number in the catalog.
FactsOf = Callable[[int], TodayFacts]


class Converter(Protocol):
    """edge.transform.Transcoder, as far as it is needed here."""

    def convert(
        self, source: Path, dataset_offset: int, source_syntax: str, target_syntax: str, target: Path
    ) -> Converted: ...


@dataclass(frozen=True, slots=True)
class CopySteps:
    """What a configuration asks of the copies for one destination."""

    corrections: CorrectionRules = NO_RULES
    facts: FactsOf | None = None  # None: nobody knows today's demographics
    system: str = "Edge"  # Modifying System (0400,0563)
    project: Deidentification | None = None  # None: copies keep who they are of
    fault: str = ""  # why no copy can be made now, such as a key that cannot be read: nothing is sent then
    is_approved: Callable[[int], bool] = lambda _: False  # whether a person has inspected an instance's pixels
    masks: tuple[CompiledMask, ...] = ()  # of devices, for copies without identity

    #: Whose a result is that came back without identity; None: it is no such result.
    identity_of: Callable[[Lease], StudyIdentity | None] | None = None

    @property
    def corrects(self) -> bool:
        return self.facts is not None or self.identity_of is not None or bool(self.corrections.rules)

    @property
    def changes(self) -> bool:
        return self.corrects or self.project is not None or bool(self.fault)


class CopyMaker:
    """See the module's docstring. Thread-safe."""

    def __init__(self, spool: Spool, converter: Converter, steps: CopySteps) -> None:
        self._spool, self._converter, self._steps = spool, converter, steps

    def is_needed(self, lease: Lease, transfer_syntax_uid: str) -> bool:
        """Whether the object may go otherwise than it was received."""
        return self._steps.changes or transfer_syntax_uid != lease.context_key.transfer_syntax_uid

    def is_quick(self, lease: Lease, transfer_syntax_uid: str) -> bool:
        """Whether `make` takes milliseconds, so that it may be done between two objects of an association."""
        return transfer_syntax_uid == lease.context_key.transfer_syntax_uid and lease.size <= QUICK_BYTES

    def make(self, lease: Lease, transfer_syntax_uid: str) -> Copy | None:
        """The copy in this transfer syntax; None where the original is that copy.

        Raises Unreadable for a file that is not what was received, RuleFailed for a step that cannot be applied,
        TransformError where the transfer syntax cannot be made, Transient and OSError where we are hindered.
        """
        if self._steps.fault:
            raise Transient(self._steps.fault)
        self._check(lease)
        copy = self._correct(lease) if self._steps.corrects else None
        if self._steps.project is not None:
            copy = self._deidentify(lease, copy, self._steps.project)
        syntax = copy.transfer_syntax_uid if copy is not None else lease.context_key.transfer_syntax_uid
        if transfer_syntax_uid == syntax:
            return copy
        try:
            return self._convert(lease, copy, transfer_syntax_uid)
        finally:
            if copy is not None:
                copy.path.unlink(missing_ok=True)

    def _check(self, lease: Lease) -> None:
        """The original is still what was received."""
        if lease.xxh3:
            digest = xxhash.xxh3_128()
            with self._spool.path_of(lease.path).open("rb", buffering=0) as file:
                file.seek(lease.dataset_offset)
                while piece := file.read(MIB):
                    digest.update(piece)
            is_whole = digest.digest() == lease.xxh3
        else:
            is_whole = self._spool.digest(lease.path, lease.dataset_offset) == lease.sha256
        if not is_whole:
            raise Unreadable("the spooled file's bytes are not those that were received (its checksum differs)")

    def _new_path(self) -> Path:
        return self._spool.incoming / f"{secrets.token_hex(16)}.part"  # a crash leaves it to the next start

    def _correct(self, lease: Lease) -> Copy | None:
        identity = self._steps.identity_of(lease) if self._steps.identity_of is not None else None
        rules, whose = self._steps.corrections, lease.instance_id
        copy: Copy | None = None
        if identity is not None:
            copy, whose = self._restore_uids(lease, identity), identity.instance_id
            rules = CorrectionRules(
                (result_rule(identity.attributes, lease.received_at), *rules.rules), facts_last=True
            )
        facts = self._steps.facts(whose) if self._steps.facts is not None else NO_FACTS
        syntax, key = lease.context_key.transfer_syntax_uid, lease.context_key
        path, offset, size = self._source_of(lease, copy)
        with _open_object(self._spool.path_of(lease.path)) as original:
            header = read_origin(lease, original)
        with (
            _dropping(copy) as kept,
            _open_object(path) as fd,
            _as_rule_failure(),
            read_plain(fd, offset, size - offset, syntax, self._spool.incoming) as plain,
        ):
            found = correct_data_set(plain.read, plain.length, syntax, header, rules, facts, self._steps.system)
            if found is None:
                kept.append(copy)
                return copy
            head = part10.plain_head(key, lease.sop_instance_uid)
            pieces = edited_pieces(plain.read, plain.length, found.edits)
            made = write_copy(self._new_path(), head, pieces, syntax)
        study_uid = copy.study_uid if copy is not None else ""
        named = found.correction.rules
        digests = made.sha256, made.xxh3
        return Copy(syntax, made.path, made.dataset_offset, made.size, *digests, named, study_uid=study_uid)

    def _source_of(self, lease: Lease, copy: Copy | None) -> tuple[Path, int, int]:
        """Path, offset of the data set and size of what the next step reads."""
        if copy is None:
            return self._spool.path_of(lease.path), lease.dataset_offset, lease.size
        return copy.path, copy.dataset_offset, copy.size

    def _restore_uids(self, lease: Lease, identity: StudyIdentity) -> Copy:
        """A copy of a result with the UIDs of the original study."""
        syntax = lease.context_key.transfer_syntax_uid
        path, offset, size = self._source_of(lease, None)
        with (
            _open_object(path) as fd,
            _as_rule_failure(RESULT),
            read_plain(fd, offset, size - offset, syntax, self._spool.incoming) as plain,
        ):
            edits = restore_uids(plain.read, plain.length, syntax, identity.uids)
            head = part10.plain_head(lease.context_key, lease.sop_instance_uid)
            made = write_copy(self._new_path(), head, edited_pieces(plain.read, plain.length, edits), syntax)
        digests, uid = (made.sha256, made.xxh3), identity.study_uid
        return Copy(syntax, made.path, made.dataset_offset, made.size, *digests, (RESULT,), study_uid=uid)

    def _deidentify(self, lease: Lease, copy: Copy | None, project: Deidentification) -> Copy:
        """A copy without identity, of the original or of the corrected copy, which is deleted then."""
        try:
            is_approved = self._steps.is_approved(lease.instance_id)
            mask = None if is_approved else self._find_mask(lease, copy)
            if mask is not None and lease.context_key.transfer_syntax_uid not in NATIVE_PIXELS:
                copy = self._decompress(lease, copy)
            return self._write_deidentified(lease, copy, project, mask, is_approved=is_approved)
        finally:
            if copy is not None:
                copy.path.unlink(missing_ok=True)

    def _find_mask(self, lease: Lease, copy: Copy | None) -> CompiledMask | None:
        """The mask that the object's device has; None where its pixels name nobody. Raises PixelsMayName."""
        path, offset, size = self._source_of(lease, copy)
        syntax = lease.context_key.transfer_syntax_uid
        with (
            _open_object(path) as fd,
            _as_rule_failure("deidentify"),
            read_plain(fd, offset, size - offset, syntax, self._spool.incoming) as plain,
        ):
            risk = pixel_risk(plain.read, plain.length, syntax)
            if not risk:
                return None
            wanted = IMAGE_KEYWORDS.union(*(each.keywords for each in self._steps.masks))
            values = read_header_values(plain.read, plain.length, syntax, wanted)
            header = replace(read_origin(lease, fd), attributes=values)
        found, fault = choose_mask(self._steps.masks, header)
        if found is None:
            raise PixelsMayName(f"{risk}; {fault}" if fault else risk)
        return found

    def _decompress(self, lease: Lease, copy: Copy | None) -> Copy:
        """The object with native pixels, so that they can be masked; they are compressed again without loss."""
        made = self._convert(lease, copy, EXPLICIT_LITTLE)
        if copy is not None:
            copy.path.unlink(missing_ok=True)
        return made

    def _write_deidentified(
        self,
        lease: Lease,
        copy: Copy | None,
        project: Deidentification,
        mask: CompiledMask | None,
        *,
        is_approved: bool,
    ) -> Copy:
        path, offset, size = self._source_of(lease, copy)
        syntax = copy.transfer_syntax_uid if copy is not None else lease.context_key.transfer_syntax_uid
        key = replace(lease.context_key, transfer_syntax_uid=syntax)
        with (
            _open_object(path) as fd,
            _as_rule_failure("deidentify"),
            read_plain(fd, offset, size - offset, syntax, self._spool.incoming) as plain,
        ):
            options = {"is_masked": mask is not None, "is_approved": is_approved}
            found = deidentify(plain.read, plain.length, syntax, project, **options)
            image = image_of(read_header_values(plain.read, plain.length, syntax, IMAGE_KEYWORDS)) if mask else None
            head = part10.plain_head(key, found.sop_instance_uid)
            made = write_copy(self._new_path(), head, edited_pieces(plain.read, plain.length, found.edits), syntax)
            digests = made.sha256, made.xxh3
            if mask is not None and image is not None:
                blacken(made.path, made.dataset_offset, syntax, image, mask.areas)
                digests = digests_of(made.path, made.dataset_offset)
        rules = (*(copy.rules if copy is not None else ()), f"deidentify {project.project}")
        rules += (f"mask {mask.name}",) if mask is not None else ()
        uids = found.sop_instance_uid, found.study_uid, found.series_uid
        return Copy(syntax, made.path, made.dataset_offset, made.size, *digests, rules, *uids)

    def _convert(self, lease: Lease, copy: Copy | None, transfer_syntax_uid: str) -> Copy:
        path, offset, _ = self._source_of(lease, copy)
        syntax = copy.transfer_syntax_uid if copy is not None else lease.context_key.transfer_syntax_uid
        made = self._converter.convert(path, offset, syntax, transfer_syntax_uid, self._new_path())
        sha256, xxh3 = digests_of(made.path, made.dataset_offset)
        converted = Copy(transfer_syntax_uid, made.path, made.dataset_offset, made.size, sha256, xxh3)
        if copy is None:
            return converted
        return replace(
            converted,
            rules=copy.rules,
            sop_instance_uid=copy.sop_instance_uid,
            study_uid=copy.study_uid,
            series_uid=copy.series_uid,
        )


def is_compressible(key: ContextKey) -> bool:
    """Whether objects of a kind hold pixels as they were made; what is compressed already goes as it is."""
    return key.transfer_syntax_uid in NATIVE and key.sop_class_uid not in IMAGELESS


@contextmanager
def _open_object(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _dropping(copy: Copy | None) -> Iterator[list[Copy | None]]:
    """Delete the copy of a step before, unless it is put into the list."""
    kept: list[Copy | None] = []
    try:
        yield kept
    finally:
        if copy is not None and copy not in kept:
            copy.path.unlink(missing_ok=True)


class PixelsMayName(TransformError):
    """An object goes without identity, and its pixels may hold it: a person inspects it."""


@contextmanager
def _as_rule_failure(rule: str = "") -> Iterator[None]:
    """What keeps an object from being changed concerns that object, whichever rule it was."""
    try:
        yield
    except (RuleFailed, PixelsMayName):
        raise
    except (TransformError, Unreadable) as error:
        raise RuleFailed(rule, str(error)) from error


def read_origin(lease: Lease, fd: int) -> InstanceHeader:
    """The facts of a spooled object that are not in its data set."""
    meta = part10.parse_meta(os.pread(fd, part10.MAX_META, 0))
    origin = meta.origin or Origin(lease.calling_ae, "", "", lease.received_at)
    key: ContextKey = lease.context_key
    return InstanceHeader(key.sop_class_uid, lease.sop_instance_uid, key.transfer_syntax_uid, origin)
