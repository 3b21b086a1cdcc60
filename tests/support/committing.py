"""A modality that asks for storage commitment and takes the report, for the tests: real sockets, by script."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from edge.dicom.acse import Context, Role
from edge.dicom.command import Command, CommandField, Element
from edge.dicom.commitment_data import Reference, Report, action_information, new_transaction_uid, parse_report
from edge.dicom.dialogue import Deadline
from edge.dicom.scu import Association
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, STORAGE_COMMITMENT_PUSH, STORAGE_COMMITMENT_PUSH_INSTANCE
from tests.support.peers import ENVIRONMENT, REPOSITORY, absent, requires
from tests.support.scripted import Associate, Link, ScriptedScp, accept

CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"


@dataclass
class Asking:
    """One N-ACTION, and how it was answered."""

    status: int
    comment: str
    transaction_uid: str


def ask(
    port: int,
    references: Iterable[tuple[str, str]],
    uid: str = "",
    *,
    calling: str = "CT1",
    called: str = "EDGE",
    data: bytes | None = None,
    syntax: str = EXPLICIT_VR_LITTLE_ENDIAN,
    then: Callable[[], None] = lambda: None,
    **changed: int | str,
) -> Asking:
    """Ask as a modality does. `changed`: elements of the command; `then`: done before the association is released."""
    uid = uid or new_transaction_uid()
    if data is None:
        data = action_information(uid, [Reference(*each) for each in references], syntax)
    roles = {STORAGE_COMMITMENT_PUSH: Role(scu=True, scp=False)}
    contexts = [Context(1, STORAGE_COMMITMENT_PUSH, (syntax,))]
    association = Association.open("127.0.0.1", port, calling, called, contexts, roles=roles)
    if 1 not in association.accepted:
        association.release()
        return Asking(-association.refused[1], "", uid)
    command: dict[int, int | str] = {
        Element.COMMAND_FIELD: CommandField.N_ACTION_RQ,
        Element.REQUESTED_SOP_CLASS_UID: STORAGE_COMMITMENT_PUSH,
        Element.REQUESTED_SOP_INSTANCE_UID: STORAGE_COMMITMENT_PUSH_INSTANCE,
        Element.ACTION_TYPE_ID: 1,
    }
    command.update({Element[name.upper()]: value for name, value in changed.items()})
    (answer,) = association.request(1, command, data, deadline=Deadline(30))
    then()
    association.release()
    return Asking(answer.status, answer.command.text(Element.ERROR_COMMENT), uid)


@dataclass
class TakenReport:
    """A report as the modality got it."""

    event_type: int
    report: Report
    calling: str
    called: str
    status: int

    @property
    def failed(self) -> dict[str, int]:
        return self.report.failed


Act = Callable[[Link, int, Command], None]


class ScriptedModality(ScriptedScp):
    """Takes reports on a port of its own. Each report is answered with the next of `statuses`, the last one again."""

    def __init__(self, statuses: Sequence[int] = (0,), port: int = 0, associations: Sequence[Associate] = ()) -> None:
        super().__init__([self._take], associations or (accept(),), port=port)
        self._statuses, self.reports = list(statuses), list[TakenReport]()

    def _take(self, link: Link, context: int, command: Command) -> None:
        data = bytearray()
        link.wire.read_data_set(context, lambda views: [data.extend(each) for each in views] and None)
        event = command.number(Element.EVENT_TYPE_ID)
        report = parse_report(bytes(data), link.contexts[context][1], event)
        status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
        taken = TakenReport(event, report, link.request.calling_ae, link.request.called_ae, status)
        self.reports.append(taken)
        link.respond(context, command, status)


# -- dcmjs-dimse ------------------------------------------------------------------------------------------------------

DCMJS_DIMSE = "dcmjs-dimse@0.3.3"
MODALITY_SCRIPT = Path(__file__).with_name("commit_modality.js")


@cache
def node_modules() -> Path:
    """Where dcmjs-dimse is; it is installed below build/ when it is first asked for."""
    folder = REPOSITORY / "build" / "node"
    found = folder / "node_modules"
    if not (found / "dcmjs-dimse").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        command = [requires("npm"), "install", "--prefix", str(folder), "--ignore-scripts", "--no-audit", DCMJS_DIMSE]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
        if done.returncode:
            shutil.rmtree(found, ignore_errors=True)
            absent(f"{DCMJS_DIMSE} from the npm registry")
    return found


@dataclass
class DcmjsModality:
    """dcmjs-dimse as a scanner; `arguments` as commit_modality.js has them."""

    directory: Path
    arguments: Sequence[str]
    process: subprocess.Popen[bytes] = field(init=False)

    def __enter__(self) -> DcmjsModality:
        self.directory.mkdir(parents=True, exist_ok=True)
        environment = {**ENVIRONMENT, "NODE_PATH": str(node_modules())}
        command = [requires("node"), str(MODALITY_SCRIPT), *self.arguments]
        with (self.directory / "modality.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=sys.stderr, env=environment)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(10)

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = (self.directory / "modality.log").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == name]
