"""What the tests of the audit trail share: the schema, and a look into messages."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path

from lxml import etree

SCHEMA = etree.RelaxNG(etree.parse(Path(__file__).with_name("audit-message.rng")))


class Told:
    """One audit message as its reader sees it; made only of one that follows the schema."""

    def __init__(self, xml: str) -> None:
        self.xml = xml
        self.root = etree.fromstring(xml)
        assert SCHEMA.validate(self.root), f"{SCHEMA.error_log.last_error}\n{xml}"

    @property
    def event(self) -> str:
        return str(self.root.find("EventIdentification/EventID").get("originalText"))

    @property
    def type(self) -> str | None:
        found = self.root.find("EventIdentification/EventTypeCode")
        return None if found is None else found.get("originalText")

    @property
    def action(self) -> str:
        return str(self.root.find("EventIdentification").get("EventActionCode"))

    @property
    def outcome(self) -> int:
        return int(self.root.find("EventIdentification").get("EventOutcomeIndicator"))

    @property
    def at(self) -> str:
        return str(self.root.find("EventIdentification").get("EventDateTime"))

    @property
    def description(self) -> str:
        return str(self.root.findtext("EventIdentification/EventOutcomeDescription"))

    @property
    def who(self) -> list[tuple[str, str | None]]:
        """(user, role) of each participant; the requestor with a star."""
        return [
            (each.get("UserID") + "*" * (each.get("UserIsRequestor") == "true"), _role(each))
            for each in self.root.findall("ActiveParticipant")
        ]

    def address(self, user: str) -> str | None:
        (found,) = [each for each in self.root.findall("ActiveParticipant") if each.get("UserID") == user]
        return found.get("NetworkAccessPointID")

    def subject(self, kind: str) -> etree._Element | None:
        """The participant object whose identifier is a `kind`, by the code's meaning."""
        for each in self.root.findall("ParticipantObjectIdentification"):
            if each.find("ParticipantObjectIDTypeCode").get("originalText") == kind:
                return each
        return None

    def id_of(self, kind: str) -> str | None:
        found = self.subject(kind)
        return None if found is None else found.get("ParticipantObjectID")

    @property
    def alert(self) -> str:
        """What a security alert says."""
        return b64decode(self.root.find(".//ParticipantObjectDetail").get("value")).decode()

    @property
    def counts(self) -> dict[str, int]:
        """SOP class -> number of instances."""
        return {each.get("UID"): int(each.get("NumberOfInstances")) for each in self.root.iter("SOPClass")}

    def __repr__(self) -> str:
        return f"<{self.event} {self.type or ''} {self.action} {self.outcome} {self.who}>"


def _role(participant: etree._Element) -> str | None:
    found = participant.find("RoleIDCode")
    return None if found is None else found.get("originalText")
