"""A modality that performs procedure steps and a RIS that takes them (dcmjs-dimse), and raw N-CREATE and N-SET."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.dicom import items
from edge.dicom.acse import Context
from edge.dicom.command import Command, CommandField, Element
from edge.dicom.dialogue import Deadline
from edge.dicom.performed_step import MODALITY_PERFORMED_PROCEDURE_STEP
from edge.dicom.scu import Association
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from tests.support.committing import node_modules
from tests.support.peers import ENVIRONMENT, Peer, listens, requires

CT = "1.2.840.10008.5.1.4.1.1.2"


def perform(port: int, *arguments: str, calling: str = "CT1", called: str = "EDGE") -> list[dict[str, Any]]:
    """Perform a step as dcmjs-dimse; its answers, one for each message."""
    script = Path(__file__).with_name("mpps_modality.js")
    command = [requires("node"), str(script), *arguments, "127.0.0.1", str(port), calling, called]
    environment = {**ENVIRONMENT, "NODE_PATH": str(node_modules())}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    sys.stderr.write(done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


class Ris(Peer):
    """dcmjs-dimse as a RIS that keeps PS3.4 annex F. `arguments` as mpps_ris.js has them."""

    name = "mpps_ris"

    def __init__(self, directory: Path, port: int, *arguments: str) -> None:
        super().__init__(directory)
        self.port, self._arguments = port, arguments
        self.taken = directory / "ris.jsonl"

    def command(self) -> list[str]:
        script = Path(__file__).with_name("mpps_ris.js")
        return [requires("node"), str(script), *self._arguments, str(self.port), str(self.taken)]

    def environment(self) -> dict[str, str]:
        return {**ENVIRONMENT, "NODE_PATH": str(node_modules())}

    def is_ready(self) -> bool:
        return self.process is not None and listens(self.process.pid, self.port)

    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.taken.read_text().splitlines()] if self.taken.exists() else []

    def of(self, uid: str) -> list[tuple[str, str, str]]:
        """(message, state, status) of each message of a step."""
        return [
            (each["message"], each.get("state", ""), each["status"]) for each in self.messages() if each["uid"] == uid
        ]


# -- by hand ----------------------------------------------------------------------------------------------------------

CREATED: dict[int, str | list[items.Attributes]] = {
    0x00080060: "CT",
    0x00100010: "Doe^Jane",
    0x00100020: "P1",
    0x00400241: "CT1",
    0x00400244: "20260102",
    0x00400245: "101500",
    0x00400252: "IN PROGRESS",
    0x00400253: "PPS1",
    0x00400270: [items.item({0x0020000D: "1.2.3", 0x00080050: "A1", 0x00400009: "SPS1"})],
    0x00400340: [],
}


def ended(uids: Sequence[str], state: str = "COMPLETED") -> dict[int, str | list[items.Attributes]]:
    images = [items.item({0x00081150: CT, 0x00081155: uid}) for uid in uids]
    series = items.item({0x0020000E: "1.2.3.1", 0x00081140: images})
    return {0x00400252: state, 0x00400250: "20260102", 0x00400251: "102200", 0x00400340: [series]}


@dataclass
class StepAnswered:
    status: int
    comment: str
    command: Command


def send_step(
    port: int,
    uid: str,
    data: dict[int, Any] | bytes,
    *,
    is_set: bool = False,
    calling: str = "CT1",
    syntax: str = EXPLICIT_VR_LITTLE_ENDIAN,
) -> StepAnswered:
    """N-CREATE or N-SET on an association of its own."""
    contexts = [Context(1, MODALITY_PERFORMED_PROCEDURE_STEP, (syntax,))]
    association = Association.open("127.0.0.1", port, calling, "EDGE", contexts)
    if 1 not in association.accepted:
        association.release()
        return StepAnswered(-association.refused[1], "", Command())
    body = data if isinstance(data, bytes) else items.encode_items(items.item(data), syntax)
    kind = "REQUESTED" if is_set else "AFFECTED"
    command: dict[int, int | str] = {
        Element.COMMAND_FIELD: CommandField.N_SET_RQ if is_set else CommandField.N_CREATE_RQ,
        Element[f"{kind}_SOP_CLASS_UID"]: MODALITY_PERFORMED_PROCEDURE_STEP,
    }
    if uid:
        command[Element[f"{kind}_SOP_INSTANCE_UID"]] = uid
    (answer,) = association.request(1, command, body, deadline=Deadline(30))
    association.release()
    return StepAnswered(answer.status, answer.command.text(Element.ERROR_COMMENT), answer.command)
