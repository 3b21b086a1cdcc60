"""The Native DICOM Model in XML (PS3.19 section A.1), from and to DICOM JSON (PS3.18 annex F), element by element.

Reading is bounded: no document type, MAX_XML_DEPTH levels, MAX_XML_ELEMENTS tags. Raises Unreadable for what is none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from edge.dicom.json import PN_GROUPS, Json
from edge.errors import Unreadable
from edge.model.dictionary import keyword_for_tag

NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
MAX_XML_DEPTH, MAX_XML_ELEMENTS = 200, 500_000
_NAME_PARTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")


def json_to_xml(data_set: Json) -> bytes:
    """A document with one data set."""
    body = "".join(_attribute(tag, data_set[tag]) for tag in sorted(data_set))
    head = f'<?xml version="1.0" encoding="UTF-8"?>\n<NativeDicomModel xmlns="{NAMESPACE}">'
    return f"{head}{body}</NativeDicomModel>\n".encode("utf-8", "replace")


def _attribute(tag: str, element: Json) -> str:
    keyword = keyword_for_tag(int(tag, 16))
    named = f" keyword={quoteattr(keyword)}" if keyword else ""
    vr, values = element["vr"], element.get("Value", ())
    if "BulkDataURI" in element:
        inner = f"<BulkData uri={quoteattr(element['BulkDataURI'])}/>"
    elif "InlineBinary" in element:
        inner = f"<InlineBinary>{element['InlineBinary']}</InlineBinary>"
    elif vr == "SQ":
        inner = "".join(_item(number, each) for number, each in enumerate(values, 1))
    elif vr == "PN":
        inner = "".join(_name(number, each) for number, each in enumerate(values, 1) if each)
    else:
        inner = "".join(
            f'<Value number="{number}">{_plain(str(each))}</Value>'
            for number, each in enumerate(values, 1)
            if each is not None
        )
    return f'<DicomAttribute tag="{tag}" vr="{vr}"{named}>{inner}</DicomAttribute>'


def _item(number: int, data_set: Json) -> str:
    inner = "".join(_attribute(tag, data_set[tag]) for tag in sorted(data_set))
    return f'<Item number="{number}">{inner}</Item>'


def _name(number: int, groups: Json) -> str:
    found = []
    for name in PN_GROUPS:
        parts = zip(_NAME_PARTS, groups.get(name, "").split("^"), strict=False)
        said = "".join(f"<{part}>{_plain(each)}</{part}>" for part, each in parts if each)
        found.append(f"<{name}>{said}</{name}>" if said else "")
    return f'<PersonName number="{number}">{"".join(found)}</PersonName>'


def _plain(text: str) -> str:
    """Without the control characters that XML 1.0 cannot hold."""
    return escape("".join(each for each in text if each >= " " or each in "\t\n\r"))


# -- reading ----------------------------------------------------------------------------------------------------------


class _Node:
    """An element of the document, as far as it is read."""

    __slots__ = ("children", "name", "said", "text")

    def __init__(self, name: str, said: dict[str, str]) -> None:
        self.name, self.said, self.text, self.children = name, said, "", list[_Node]()


def xml_to_json(document: bytes) -> Json:
    """The data set of a document. Raises Unreadable."""
    root = _parse(document)
    if root.name != "NativeDicomModel":
        raise Unreadable("the document is no NativeDicomModel")
    try:
        return _read_data_set(root)
    except (ValueError, KeyError, RecursionError):
        raise Unreadable("the document holds no data set of the Native DICOM Model") from None


def _parse(document: bytes) -> _Node:
    top, count = _Node("", {}), 0
    stack = [top]

    def begin(name: str, said: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if len(stack) > MAX_XML_DEPTH or count > MAX_XML_ELEMENTS:
            raise Unreadable("the document is too deep, or has too many elements")
        node = _Node(name.rpartition(" ")[2], said)
        stack[-1].children.append(node)
        stack.append(node)

    def end(_: str) -> None:
        stack.pop()

    def take_text(text: str) -> None:
        stack[-1].text += text

    def refuse(*_: Any) -> None:
        raise Unreadable("the document has a document type")

    parser = expat.ParserCreate(namespace_separator=" ")
    handlers: dict[str, Callable[..., Any]] = {
        "StartElementHandler": begin,
        "EndElementHandler": end,
        "CharacterDataHandler": take_text,
        "StartDoctypeDeclHandler": refuse,
    }
    for name, handler in handlers.items():
        setattr(parser, name, handler)
    parser.buffer_text = True
    try:
        parser.Parse(document, True)
    except expat.ExpatError:
        raise Unreadable("the document is no XML") from None
    return top.children[0]


def _read_data_set(node: _Node) -> Json:
    return {each.said["tag"].upper(): _read_attribute(each) for each in node.children if each.name == "DicomAttribute"}


def _read_attribute(node: _Node) -> Json:
    found: Json = {"vr": node.said["vr"]}
    values: list[Any] = []
    for each in sorted(node.children, key=lambda child: int(child.said.get("number", "0"))):
        if each.name == "Item":
            values.append(_read_data_set(each))
        elif each.name == "PersonName":
            values.append({group.name: _read_group(group) for group in each.children if group.name in PN_GROUPS})
        elif each.name == "Value":
            values += [None] * (int(each.said.get("number", "0")) - 1 - len(values)) + [each.text]
        elif each.name == "BulkData":
            found["BulkDataURI"] = each.said.get("uri") or each.said["uuid"]
        elif each.name == "InlineBinary":
            found["InlineBinary"] = each.text.strip()
    if values:
        found["Value"] = values
    return found


def _read_group(node: _Node) -> str:
    parts = {each.name: each.text for each in node.children}
    return "^".join(parts.get(name, "") for name in _NAME_PARTS).rstrip("^")
