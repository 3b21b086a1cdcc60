"""Only the archive that was asked proves custody: by title, address, certificate, transaction and method."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest

from edge.config import load_config
from edge.config.sections import Destination
from edge.daemon.outbound import Outbound
from edge.dicom import acse, commitment_data
from edge.dicom.acse import Context, Request, Role
from edge.dicom.command import DATA_SET, CommandField, Element
from edge.dicom.commitment_data import Reference
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, STORAGE_COMMITMENT_PUSH, STORAGE_COMMITMENT_PUSH_INSTANCE
from edge.dicom.wire import Wire
from edge.errors import ReportRefused
from edge.messaging.audit.refused import Register
from edge.monitor.config_warnings import warnings
from edge.network.tls import Certificate
from edge.outbound.confirm import Confirmer
from edge.scp import admission
from edge.scp.admission import Caller, Resolver, reporter_fault
from edge.store import commitments
from edge.store.database import Transaction
from tests.outbound.test_confirm import Clock, Gateway
from tests.support.gateway import Receiving

OWN = Certificate(("vna.clinic", "10.0.0.9"), "sha256:" + "11" * 32, 0.0)
NAMED = Certificate(("vna-out.clinic",), "sha256:" + "22" * 32, 0.0)
OTHER = Certificate(("ct1.clinic",), "sha256:" + "33" * 32, 0.0)
ADDRESSES = {"vna.clinic": frozenset({"10.0.0.9", "fd00::9"})}


def where(**more: object) -> Destination:
    return Destination("vna", "VNA", "vna.clinic", 104, **{"confirm": "commitment", **more})  # type: ignore[arg-type]


PLAIN = where(reports_from=("VNA_SCU",))
TLS = where(tls=True)
PINNED = where(tls=True, certificate="vna-out.clinic")
FARM = where(hosts=("10.1.0.0/24", "192.0.2.7"))
RENAMED = where(tls=True, tls_name="vna-out.clinic")

#: Destination, then who is its reporter: calling AE title, address, certificate.
YES = [
    (PLAIN, "VNA", "10.0.0.9", None),
    (PLAIN, "vna", "10.0.0.9", None),
    (PLAIN, "VNA_SCU", "10.0.0.9", None),
    (PLAIN, "Vna_Scu", "::ffff:10.0.0.9", None),
    (PLAIN, "VNA", "fd00:0:0:0::9", None),
    (PLAIN, "VNA", "10.0.0.9", OTHER),
    (PLAIN, "VNA", "192.0.2.1", OWN),
    (TLS, "VNA", "192.0.2.1", OWN),
    (TLS, "VNA", "10.0.0.9", OTHER),
    (PINNED, "VNA", "192.0.2.1", NAMED),
    (FARM, "VNA", "10.1.0.77", None),
    (FARM, "VNA", "192.0.2.7", None),
    (FARM, "VNA", "10.0.0.9", None),
    (RENAMED, "VNA", "192.0.2.1", NAMED),
]
TITLES = ("VNA", "vna", "VNA_SCU", "Vna_Scu", "VNA2", "CT1", "", "*")
PLACES = ("10.0.0.9", "::ffff:10.0.0.9", "fd00:0:0:0::9", "10.0.0.8", "10.1.0.77", "192.0.2.7", "192.0.2.1", "::1", "")
MATRIX = list(product((PLAIN, TLS, PINNED, FARM, RENAMED), TITLES, PLACES, (None, OWN, NAMED, OTHER)))


def title_fits(destination: Destination, title: str) -> bool:
    return title.upper() in (destination.ae_title, *destination.reports_from)


@pytest.mark.parametrize(("destination", "title", "address", "certificate"), YES)
def test_the_archive_itself_may_report(
    destination: Destination, title: str, address: str, certificate: Certificate | None
) -> None:
    assert reporter_fault(destination, Caller(title, address, certificate), ADDRESSES.__getitem__) == ""


def test_nobody_else_may_report() -> None:
    """The rule once more, in another way: every cell of title x address x certificate x what is configured."""
    for destination, title, address, certificate in MATRIX:
        at_home = address in ("10.0.0.9", "::ffff:10.0.0.9", "fd00:0:0:0::9")
        at_home = at_home or (destination is FARM and address in ("10.1.0.77", "192.0.2.7"))
        if destination is PINNED:
            proved = certificate is NAMED
        elif destination is RENAMED:
            proved = certificate is NAMED or (certificate is not None and at_home)
        elif destination is TLS:
            proved = certificate is OWN or (certificate is not None and at_home)
        else:
            proved = certificate is OWN or at_home
        fault = reporter_fault(destination, Caller(title, address, certificate), ADDRESSES.__getitem__)
        assert (fault == "") == (proved and title_fits(destination, title)), (destination, title, address, certificate)


@pytest.mark.parametrize("confirm", ["query", "status"])
def test_who_proves_by_another_method_does_not_report(confirm: str) -> None:
    assert "confirm" in reporter_fault(where(confirm=confirm), Caller("VNA", "10.0.0.9", OWN), ADDRESSES.__getitem__)


def test_a_name_is_resolved_once_a_minute_and_what_was_found_last_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, asked = Clock(), list[str]()
    answers = [["10.0.0.9", "10.0.0.10"], socket.gaierror(-3, "no name server"), ["10.0.0.11"]]

    def getaddrinfo(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        found = answers[len(asked) - 1]
        if isinstance(found, OSError):
            raise found
        return [(0, 0, 0, "", (address, 0)) for address in found]

    monkeypatch.setattr(admission.socket, "getaddrinfo", getaddrinfo)
    resolve = Resolver(clock)
    for seconds, expected in (
        (0, {"10.0.0.9", "10.0.0.10"}),
        (59, {"10.0.0.9", "10.0.0.10"}),
        (2, {"10.0.0.9", "10.0.0.10"}),
        (61, {"10.0.0.11"}),
    ):
        clock.now += seconds
        assert resolve("vna.clinic") == expected
    assert asked == ["vna.clinic"] * 3


# -- on the wire ------------------------------------------------------------------------------------------------------

CONFIG = """
[site]
id = "0067"
data_dir = "data"
[modality.any]
ae_title = "*"
[destination.archive]
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = 1
confirm = "commitment"
reports_from = ["ARCHIVE_OUT"]
[destination.second]
ae_title = "SECOND"
host = "127.0.0.1"
port = 2
confirm = "commitment"
[destination.twin]
ae_title = "ARCHIVE"
host = "127.0.0.3"
port = 1
confirm = "commitment"
[destination.queried]
ae_title = "QUERIED"
host = "127.0.0.1"
port = 3
confirm = "query"
[route.all]
to = ["archive"]
"""


class Scene:
    """A gateway that has sent one image to each destination and asked for proof of it; nothing runs but its door."""

    def __init__(self, tmp_path: Path, edge: Receiving) -> None:
        self.edge = edge
        self.gateway = Gateway(tmp_path, Clock())
        self.gateway.db.close()
        self.gateway.db = edge.db
        self.outbound = Outbound(edge.db, edge.spool, edge.config)
        self.confirmers: dict[str, Confirmer] = {}
        self.outbound._confirmer = self.confirmers.get  # type: ignore[method-assign]  # they do not run
        edge.link.take_report = self.outbound.report
        self.uids: dict[str, str] = {}
        self.asked: dict[str, str] = {}
        for name, destination in edge.config.destinations.items():
            (self.uids[name],) = self.gateway.send(1, destination=name)
            self.asked[name] = commitment_data.new_transaction_uid()
            self.confirmers[name] = Confirmer(edge.db, destination, "EDGE", clock=self.gateway.clock)

            def work(conn: Transaction, name: str = name) -> None:
                batch, now = commitments.list_unconfirmed(conn, name, 10), self.gateway.clock()
                commitments.open_request(conn, name, self.asked[name], batch, now, now + 600)

            edge.db.write(work)

    def state(self, name: str) -> str:
        (state,) = self.gateway.states([self.uids[name]])
        return str(state)

    def report(self, calling: str, source: str, about: str, uids: list[str] | None = None) -> int:
        """Call from an address of our own, report everything of a transaction as committed; the status."""
        references = [Reference("1.2.840.10008.5.1.4.1.1.2", uid) for uid in uids or [self.uids[about]]]
        data = commitment_data.action_information(self.asked[about], references, EXPLICIT_VR_LITTLE_ENDIAN)
        contexts = (Context(1, STORAGE_COMMITMENT_PUSH, (EXPLICIT_VR_LITTLE_ENDIAN,)),)
        request = Request(calling, "EDGE", contexts, 0, {STORAGE_COMMITMENT_PUSH: Role(scu=False, scp=True)})
        with socket.create_connection(("127.0.0.1", self.edge.port), 10, (source, 0)) as sock:
            sock.sendall(acse.request_pdu(request))
            head = sock.recv(6, socket.MSG_WAITALL)
            accept = acse.parse_accept(head + sock.recv(struct.unpack(">L", head[2:])[0], socket.MSG_WAITALL))
            if 1 not in accept.contexts:
                return -1
            wire = Wire(sock)
            event: dict[int, int | str] = {
                Element.AFFECTED_SOP_CLASS_UID: STORAGE_COMMITMENT_PUSH,
                Element.COMMAND_FIELD: CommandField.N_EVENT_REPORT_RQ,
                Element.MESSAGE_ID: 1,
                Element.DATA_SET_TYPE: DATA_SET,
                Element.AFFECTED_SOP_INSTANCE_UID: STORAGE_COMMITMENT_PUSH_INSTANCE,
                Element.EVENT_TYPE_ID: 1,
            }
            wire.send_message(1, event, data)
            return wire.read_command(60)[1].number(Element.STATUS)


@contextmanager
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Receiving(tmp_path, CONFIG) as edge:
        made = Scene(tmp_path, edge)
        yield made
        made.outbound.transcoder.close()


@pytest.mark.parametrize(
    ("calling", "source", "about"),
    [
        ("ARCHIVE", "127.0.0.1", "archive"),
        ("archive", "127.0.0.1", "archive"),
        ("ARCHIVE_OUT", "127.0.0.1", "archive"),
        ("Archive_Out", "127.0.0.1", "archive"),
        ("SECOND", "127.0.0.1", "second"),
        ("ARCHIVE", "127.0.0.3", "twin"),
    ],
)
def test_the_asked_archive_confirms(tmp_path: Path, calling: str, source: str, about: str) -> None:
    with scene(tmp_path) as made:
        assert made.report(calling, source, about) == 0
        states = {name: made.state(name) for name in made.uids}
        assert states == {**dict.fromkeys(made.uids, "sent"), about: "confirmed"}
        assert made.edge.refusals.take() == []


@pytest.mark.parametrize(
    ("calling", "source", "about"),
    [
        ("ARCHIVE", "127.0.0.2", "archive"),  # its title, from elsewhere
        ("ARCHIVE_OUT", "127.0.0.2", "archive"),
        ("ARCHIVE", "127.0.0.3", "archive"),  # another archive of the same title
        ("ARCHIVE", "127.0.0.1", "twin"),
        ("SECOND", "127.0.0.1", "archive"),  # another archive
        ("ARCHIVE", "127.0.0.1", "second"),
        ("QUERIED", "127.0.0.1", "queried"),  # it is queried, and so does not report
        ("CT1", "127.0.0.1", "archive"),  # a modality has no such context at all
    ],
)
def test_a_forged_report_confirms_nothing_and_is_on_record(
    tmp_path: Path, calling: str, source: str, about: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), scene(tmp_path) as made:
        status = made.report(calling, source, about)
        assert status == (-1 if calling == "CT1" else 0x0110)
        assert {made.state(name) for name in made.uids} == {"sent"}
        if status == -1:
            return
        for _ in range(30):
            made.report(calling, source, about)
        refusals = made.edge.refusals.take()
        assert [(each.address, each.calling_ae) for each in refusals] == [(source, calling)], "said once"
        assert refusals[0].why.startswith("a report of storage commitment is not accepted: ")
        assert caplog.text.count("refused: ") == 1
        enter = Register().enter(refusals)
        assert enter is not None
        made.edge.db.write(enter)
        ((event, who, detail),) = made.edge.rows(
            "SELECT event, who, words(event, detail, payload) FROM ledger ORDER BY seq DESC LIMIT 1"
        )
        assert (event, who) == ("refused", calling)
        assert detail.startswith(f"from {source}: a report of storage commitment is not accepted: ")


def test_an_archive_that_was_asked_cannot_prove_for_another(tmp_path: Path) -> None:
    """Neither by naming the other's images in its own transaction, nor on the association that we opened to it."""
    with scene(tmp_path) as made:
        assert made.report("SECOND", "127.0.0.1", "second", [made.uids["archive"]]) == 0
        assert made.state("archive") == "sent"
        assert made.confirmers["second"].report(made.asked["archive"], [made.uids["archive"]], {}) is False
        assert made.state("archive") == "sent"
        with pytest.raises(ReportRefused):
            made.outbound.report(made.asked["archive"], [made.uids["archive"]], {}, Caller("SECOND", "127.0.0.1"))


# -- what `edge check` says -------------------------------------------------------------------------------------------

SITE = '[site]\nid = "1"\ndata_dir = "data"\n[modality.ct1]\nae_title = "CT1"\n[route.all]\nto = ["archive"]\n'
ARCHIVE = '[destination.archive]\nae_title = "VNA"\nhost = "10.0.0.9"\nport = 104\n'
OTHER_ARCHIVE = ARCHIVE.replace("archive", "b").replace("VNA", "pacs")
COMMITMENT = 'confirm = "commitment"\n'
SECURED = 'tls = true\n[tls]\ncertificate = "a.pem"\nkey = "a.key"\nca = "ca.pem"\n'


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (COMMITMENT, ["destination.archive.confirm: reports of storage commitment arrive over plain DICOM"]),
        (COMMITMENT + SECURED, []),
        (COMMITMENT + 'reports_from = ["VNA_SCU"]\n' + SECURED, []),
        ('reports_from = ["VNA_SCU"]\n', ['reports_from: it is not used: confirm is "status"']),
        ('confirm = "query"\nhosts = ["10.0.0.10"]\n', ['hosts: it is not used: confirm is "query"']),
        (COMMITMENT + 'reports_from = ["CT1"]\n' + SECURED, ['"CT1" is an AE title of modality.ct1, too']),
        (COMMITMENT + 'reports_from = ["vna"]\n' + SECURED, ['"vna" is its ae_title already']),
        (COMMITMENT + 'reports_from = ["Edge"]\n' + SECURED, ['"Edge" is our own AE title']),
        (
            COMMITMENT + 'reports_from = ["PACS"]\n' + SECURED + OTHER_ARCHIVE,
            ['"PACS" is an AE title of destination.b, too', "destination.b: no route sends there"],
        ),
    ],
)
def test_check_says_what_a_reporter_means(tmp_path: Path, more: str, said: list[str]) -> None:
    (tmp_path / "a.toml").write_text(SITE + ARCHIVE + more)
    found = warnings(load_config(tmp_path))
    assert len(found) == len(said), found
    assert all(any(text in line for line in found) for text in said), found


def test_a_title_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(SITE + ARCHIVE + 'reports_from = ["much too long a title"]\n')
    with pytest.raises(Exception, match=r"a\.toml:12: destination\.archive\.reports_from"):
        load_config(tmp_path)
