"""The preview of a copy for a destination: what differs from the original, for people, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import gettempdir

from edge.config import secret
from edge.config.sections import Config, Destination
from edge.dicom.elements import OPAQUE, to_values
from edge.dicom.header import MAX_VALUE, Read, read_from
from edge.errors import TransformError, Unreadable
from edge.model import InstanceHeader
from edge.model.dictionary import keyword_for_tag
from edge.transform.confidentiality import Deidentification, read_project
from edge.transform.copying import PlainDataSet, read_plain
from edge.transform.correct import correct_data_set
from edge.transform.corrections import CorrectionRules, RuleFailed, TodayFacts, modifying_system, rules_for
from edge.transform.deidentify import deidentify, pixel_risk, read_header_values
from edge.transform.editing import Edit, edited_length, edited_pieces, form_of, open_window, read_top_level, vr_name
from edge.transform.masking import IMAGE_KEYWORDS, CompiledMask, choose_mask, compile_masks

#: Edits of the header are shown; the pixels behind it are not read.
_BEFORE_PIXELS = 0x7FDFFFFF
_MOST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class ChangedAttribute:
    """One attribute of the first level; None where it is absent."""

    keyword: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class CopyPreview:
    """What one destination would get."""

    destination: str
    rules: tuple[str, ...] = ()
    changes: tuple[ChangedAttribute, ...] = ()
    fault: str = ""  # why it would be held instead
    compress: str = ""  # the wanted transfer syntax, by its name in the configuration


@dataclass(frozen=True, slots=True)
class PreviewSteps:
    """What is asked of the copies for one destination."""

    destination: str
    corrections: CorrectionRules
    facts: TodayFacts
    system: str
    project: Deidentification | None
    masks: tuple[CompiledMask, ...]
    compress: str = ""


def preview_copy(fd: int, offset: int, length: int, header: InstanceHeader, steps: PreviewSteps) -> CopyPreview:
    """What would be changed of the data set at `offset` of an open file."""
    try:
        with read_plain(fd, offset, length, header.transfer_syntax_uid, Path(gettempdir())) as plain:
            return _preview(plain, header, steps)
    except RuleFailed as error:
        return CopyPreview(steps.destination, fault=str(error))
    except (TransformError, Unreadable) as error:
        return CopyPreview(steps.destination, fault=f"it cannot be changed: {error}")


def _preview(plain: PlainDataSet, header: InstanceHeader, steps: PreviewSteps) -> CopyPreview:
    syntax, rules, read, length = header.transfer_syntax_uid, steps.corrections, plain.read, plain.length
    applied: tuple[str, ...] = ()
    fault = ""
    found = correct_data_set(read, length, syntax, header, rules, steps.facts, steps.system)
    if found is not None:
        applied = found.correction.rules
        read, length = _apply(read, length, found.edits)
    if steps.project is not None:
        mask, fault = _find_mask(read, length, header, steps)
        made = deidentify(read, length, syntax, steps.project, is_masked=mask is not None)
        applied += (f"deidentify {steps.project.project}", *((f"mask {mask.name}",) if mask is not None else ()))
        read, length = _apply(read, length, made.edits)
    before = _first_level(plain.read, plain.length, syntax)
    after = _first_level(read, length, syntax) if applied else before
    tags = sorted(tag for tag in before.keys() | after.keys() if before.get(tag) != after.get(tag))
    changes = tuple(ChangedAttribute(_name(tag), before.get(tag), after.get(tag)) for tag in tags)
    fault = f"its pixels may name the patient ({fault})" if fault else ""
    return CopyPreview(steps.destination, applied, changes, fault, steps.compress)


def _find_mask(read: Read, length: int, header: InstanceHeader, steps: PreviewSteps) -> tuple[CompiledMask | None, str]:
    """The mask that is applied, or why the object would be held."""
    syntax = header.transfer_syntax_uid
    if not (risk := pixel_risk(read, length, syntax)):
        return None, ""
    wanted = IMAGE_KEYWORDS.union(*(each.keywords for each in steps.masks))
    values = read_header_values(read, length, syntax, wanted)
    mask, fault = choose_mask(steps.masks, replace(header, attributes=values))
    return (mask, "") if mask is not None else (None, f"{risk}; {fault}" if fault else risk)


def preview_steps(
    config: Config, destination: Destination, since: Callable[[str], float], facts: TodayFacts
) -> PreviewSteps:
    """What a configuration does to a destination's copies. `since`: when a rule became active, by its name."""
    return PreviewSteps(
        destination.name,
        rules_for(config.coercions_for(destination.name), since),
        facts,
        modifying_system(config.site.id),
        read_project(destination, _read_key),
        compile_masks(config.masks, destination.name),
        destination.compress if destination.compress != "none" else "",
    )


def _read_key(path: Path) -> bytes:
    """Who asks may lack the right to read a project's key: what is shown is only like it then."""
    try:
        return secret.read_key(path)
    except secret.SecretError:
        return b"not the project's key"


def _apply(read: Read, length: int, edits: tuple[Edit, ...]) -> tuple[Read, int]:
    """The data set as it would be; of a very large one the header alone, which no edit passes."""
    if length <= _MOST_BYTES:
        data = b"".join(edited_pieces(read, length, edits))
        return read_from(data), len(data)
    end = max(each.at + each.size for each in edits)
    if end > _MOST_BYTES:
        raise TransformError("the changes are too far apart to be shown")
    head = b"".join(edited_pieces(read, end, edits))
    shift = len(head) - end

    def read_edited(at: int, count: int) -> bytes:
        if at < len(head):
            return head[at : at + count] or b""
        return read(at - shift, count)

    return read_edited, edited_length(length, edits)


def _first_level(read: Read, length: int, transfer_syntax_uid: str) -> dict[int, str]:
    form = form_of(read, transfer_syntax_uid)
    top = read_top_level(open_window(read, length), form, _BEFORE_PIXELS)
    charset, found = top.charset(), dict[int, str]()
    for each in top.elements:
        if each.tag & 0xFFFF == 0:
            continue
        vr = vr_name(each.tag, each.vr)
        size = each.end - each.start
        values = OPAQUE if vr == "SQ" or size > MAX_VALUE else to_values(vr, top.value(each), form.order, charset)
        found[each.tag] = f"({vr}, {size} bytes)" if values is OPAQUE else "\\".join(values)
    return found


def _name(tag: int) -> str:
    return keyword_for_tag(tag) or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
