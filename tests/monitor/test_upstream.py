"""The gateway and those it tells, end to end: heartbeats through an outage and a kill, channels tried and reloaded."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from contextlib import ExitStack, closing
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

from edge.monitor.heartbeat import schema, verify
from edge.text import from_iso
from tests.support.objects import ct_files
from tests.support.peers import Edge, StoreScp, free_port, http_get, requires, routes_to, storescu, wait_until
from tests.support.receivers import Authority, HttpsReceiver, MailServer, Taken
from tests.support.schemas import validator

KEY = b"the site's key"

#: aiosmtpd's advice: a TLS port of its own has no STARTTLS to ask for.
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")


@pytest.fixture
def edge(tmp_path: Path) -> Edge:
    """Not yet started; its configuration directory is the authority's folder, too."""
    return Edge(tmp_path / "edge")


@pytest.fixture
def authority(edge: Edge) -> Authority:
    return Authority(edge.config_dir)


def keep_secret(edge: Edge, name: str, content: bytes) -> None:
    path = edge.config_dir / name
    path.write_bytes(content + b"\n")
    path.chmod(0o600)


def heartbeat(receiver: HttpsReceiver, every: str = "1s", more: str = 'key = "site-key"\n') -> str:
    return f'[heartbeat]\nurl = "{receiver.url}"\nevery = "{every}"\nca = "ca.pem"\n{more}'


def only_signed(taken: Taken) -> int:
    """As a central office would: 401 for a bad signature, 422 for what the schema does not know."""
    if taken.headers["Edge-Site"] != "0067" or not verify(KEY, taken.body, taken.headers["Edge-Signature"]):
        return 401
    errors = list(validator().iter_errors(taken.json))
    return 422 if errors else 204


def numbers(receiver: HttpsReceiver) -> list[int]:
    return [each["number"] for each in receiver.documents]


def heard(receiver: HttpsReceiver) -> list[Any]:
    """Its documents, in order; one whose answer did not come in time is sent again as it was, and counts once."""
    return list({each.body: each.json for each in receiver.taken}.values())


def outbox(edge: Edge) -> list[dict[str, Any]]:
    """What waits, from the catalog: quicker than `edge notify list`, whose words test_a_refused_heartbeat... reads."""
    with closing(sqlite3.connect(f"file:{edge.data_dir / 'catalog.db'}?mode=ro", uri=True)) as conn:
        conn.row_factory = sqlite3.Row
        return [dict(row) for row in conn.execute("SELECT * FROM message WHERE channel = 'heartbeat' ORDER BY id")]


def test_heartbeats_go_through_an_outage_and_a_kill(edge: Edge, authority: Authority, running: ExitStack) -> None:
    receiver = HttpsReceiver(authority)
    receiver.answer = only_signed
    keep_secret(edge, "site-key", KEY)
    edge.configure(heartbeat(receiver))
    running.enter_context(receiver)
    running.enter_context(edge)
    wait_until(lambda: len(receiver.taken) >= 2, 20, "heartbeats arrive")
    receiver.stop()
    before = len(heard(receiver))
    wait_until(lambda: len(outbox(edge)) >= 3, 20, "they wait")
    wait_until(lambda: "cannot be reached" in outbox(edge)[0]["last_error"], 20, "the first has been tried")
    edge.kill()
    edge.start()
    receiver.start()
    wait_until(lambda: len(heard(receiver)) >= before + 4, 20, "and arrive after the outage")
    told = heard(receiver)
    assert [each["number"] for each in told] == list(range(1, len(told) + 1))
    moments = [from_iso(each["at"]) for each in told]
    assert moments == sorted(moments)
    assert moments[before] < time.time() - 2, "what waited has its original time"
    edge.stop()
    assert len({each["boot"] for each in receiver.documents}) == 2
    assert receiver.documents[-1]["status"]["state"] == "draining", "the centre knows that this end was on purpose"


def test_a_wrong_key_is_told_in_words_and_heals_when_it_is_mended(
    edge: Edge, authority: Authority, running: ExitStack
) -> None:
    receiver = running.enter_context(HttpsReceiver(authority))
    receiver.answer = only_signed
    keep_secret(edge, "site-key", b"another key")
    edge.configure(heartbeat(receiver))
    running.enter_context(edge)
    wait_until(lambda: outbox(edge) and outbox(edge)[0]["attempts"], 20, "it was tried")
    assert "answers 401 Unauthorized: compare the key" in outbox(edge)[0]["last_error"]
    assert not receiver.taken
    tried = edge.cli("notify", "test", "heartbeat")
    assert (tried.returncode, "answers 401" in tried.stdout) == (1, True)
    keep_secret(edge, "site-key", KEY)
    wait_until(lambda: receiver.taken, 20, "the new key counts without a restart")
    assert numbers(receiver)[0] == 1
    assert "another key" not in edge.output()


def test_mutual_tls_instead_of_a_key(edge: Edge, authority: Authority, running: ExitStack) -> None:
    receiver = running.enter_context(HttpsReceiver(authority, ask_client=True))
    authority.issue("edge-0067")
    edge.configure(heartbeat(receiver, more='certificate = "edge-0067.pem"\nclient_key = "edge-0067.key"\n'))
    running.enter_context(edge)
    wait_until(lambda: len(receiver.taken) >= 2, 20, "heartbeats arrive")
    assert "Edge-Signature" not in receiver.taken[0].headers


def test_a_channel_is_tried_reloaded_and_used(edge: Edge, authority: Authority, running: ExitStack) -> None:
    server = running.enter_context(MailServer(authority))
    keep_secret(edge, "password", b"wrong")
    text = (
        f'[email.mimso]\nhost = "127.0.0.1"\nport = {server.port}\nca = "ca.pem"\n'
        'user = "edge"\npassword = "password"\n'
        'sender = "edge@clinic.example"\nto = ["a@example.org", "b@example.org"]\n'
    )
    edge.configure(text)
    tried = edge.cli("notify", "test", "email.mimso")
    assert tried.returncode == 1
    assert tried.stdout.count("refuses the login of edge: 535") == 2
    keep_secret(edge, "password", b"s3cr3t")
    tried = edge.cli("notify", "test", "email.mimso")
    assert (tried.returncode, tried.stdout.count("delivered.")) == (0, 2)
    assert [mail.recipients for mail in server.mails] == [["a@example.org"], ["b@example.org"]]
    assert server.mails[0].content["Subject"] == "[Edge 0067 Test Clinic] test: nothing is wrong"
    unknown = edge.cli("notify", "test", "email.mimo")
    assert unknown.returncode == 2
    assert "there are: email.mimso" in unknown.stderr


def test_channels_come_and_go_with_a_reload(edge: Edge, authority: Authority, running: ExitStack) -> None:
    first, second = (running.enter_context(HttpsReceiver(authority)) for _ in range(2))
    keep_secret(edge, "site-key", KEY)
    edge.configure(heartbeat(first))
    running.enter_context(edge)
    wait_until(lambda: first.taken, 20, "the first gets them")
    edge.configure(heartbeat(second))
    edge.reload()
    wait_until(lambda: second.taken, 20, "then the second")
    assert numbers(second)[0] <= numbers(first)[-1] + 1
    edge.configure("")
    edge.reload()
    wait_until(lambda: "has been read again" in edge.output().rpartition("SIGHUP")[2], 10, "and then nobody")


def test_a_refused_heartbeat_is_parked_and_sent_again_by_a_person(
    edge: Edge, authority: Authority, running: ExitStack
) -> None:
    receiver = running.enter_context(HttpsReceiver(authority))
    receiver.answer = lambda taken: 422 if taken.json["number"] == 1 else 204
    keep_secret(edge, "site-key", KEY)
    edge.configure(heartbeat(receiver))
    running.enter_context(edge)
    wait_until(lambda: numbers(receiver)[:1] == [2], 20, "the next one passes")
    found = json.loads(edge.cli("notify", "list", "--json").stdout)
    (parked,) = [each for each in found if each["parked_at"]]
    assert "answers 422" in parked["last_error"]
    receiver.answer = lambda taken: 204
    done = edge.cli("notify", "retry", "heartbeat")
    assert (done.returncode, done.stdout) == (0, "1 message of heartbeat will be sent again.\n")
    wait_until(lambda: 1 in numbers(receiver), 20, "it was taken")


def test_discarding_while_the_gateway_is_down(edge: Edge, authority: Authority, running: ExitStack) -> None:
    keep_secret(edge, "site-key", KEY)
    edge.configure(f'[heartbeat]\nurl = "https://127.0.0.1:{free_port()}/"\nkey = "site-key"\nevery = "1s"\n')
    with edge:
        wait_until(lambda: outbox(edge), 20, "one waits")
    waiting = len(outbox(edge))
    done = edge.cli("notify", "discard", "heartbeat")
    assert done.stdout == "0 messages of heartbeat discarded.\n"
    done = edge.cli("notify", "discard", "heartbeat", "--waiting")
    assert done.stdout.startswith(f"{waiting} message")
    assert outbox(edge) == []


def test_the_schema_is_printed(edge: Edge) -> None:
    assert json.loads(edge.cli("schema", "heartbeat").stdout) == schema()


CANARY = "Kanarienvogel"

#: What holds is told at once, and what the site owes the central office comes within seconds.
IMPATIENT = """
[alert.storage-filling]
after = "0s"
[alert.destination-down]
after = "0s"
[alert.new-modality]
threshold = "0s"
[alert.unknown-equipment]
enabled = false
[storage]
warn = 0.0001
refuse = 0.9999
"""

DIRECTIVE = ("unscheduled-downtime", "new-modality", "storage-filling", "destination-down")


def opened(notices: list[dict[str, Any]]) -> list[str]:
    """The kinds that were told to be open, of the four, in the order of their coming."""
    return [each["kind"] for each in notices if each["event"] == "opened" and each["kind"] in DIRECTIVE]


def test_the_four_notices_pass_a_cut_link_once_each_in_order_and_name_no_patient(
    edge: Edge, authority: Authority, running: ExitStack, tmp_path: Path
) -> None:
    mail, hook, centre = MailServer(authority), HttpsReceiver(authority), HttpsReceiver(authority)
    centre.answer = only_signed
    keep_secret(edge, "site-key", KEY)
    keep_secret(edge, "password", b"s3cr3t")
    dead = StoreScp(tmp_path / "dead", "DEAD")
    edge.configure(
        heartbeat(centre)
        + routes_to(dead)
        + IMPATIENT
        + f'[webhook.chat]\nurl = "{hook.url}"\nca = "ca.pem"\n'
        + f'[email.mimso]\nhost = "127.0.0.1"\nport = {mail.port}\nca = "ca.pem"\nuser = "edge"\n'
        'password = "password"\nsender = "edge@clinic.example"\nto = ["mimso@example.org"]\n'
    )
    edge.start()
    edge.kill()
    running.enter_context(edge)
    files = ct_files(tmp_path / "ct", 3, 1024, PatientName=f"{CANARY}^Anna", PatientID=CANARY, AccessionNumber=CANARY)
    storescu(files, edge.port)
    wait_until(lambda: len(waiting_kinds(edge, "webhook.chat")) >= 4, 40, "all four wait")
    wait_until(lambda: edge.api_status()["outbox"]["webhook.chat"]["last_error"], 10, "and the status says why")
    mended = time.time()
    with mail, hook, centre:
        for channel in ("webhook.chat", "email.mimso/mimso@example.org", "heartbeat"):
            wait_until(lambda channel=channel: not oldest_before(edge, channel, mended), 90, f"{channel} is empty")
        # A notice rides on the heartbeat after it, which may be still to come.
        wait_until(lambda: len(notices_of(centre)) >= len(hook.documents), 90, "the centre has heard of all")
    told = hook.documents
    assert sorted(opened(told)) == sorted(DIRECTIVE)
    assert [each["at"] for each in told] == sorted(each["at"] for each in told)
    assert all(from_iso(each["at"]) < mended for each in told if each["kind"] in DIRECTIVE)
    assert [each["notice"] for each in told] == sorted({each["notice"] for each in told}), "once each, in order"
    sent = [each.content for each in mail.mails]
    for each, notice in zip(sent, told, strict=True):
        assert notice["kind"].replace("-", " ") in each["Subject"]
    dates = [parsedate_to_datetime(each["Date"]).timestamp() for each in sent]
    assert dates == [from_iso(each["at"]) for each in told]
    assert [each["notice"] for each in notices_of(centre)] == [each["notice"] for each in told]
    no_patient_in(edge, [*hook.taken, *centre.taken], [each.as_string() for each in sent])


def notices_of(centre: HttpsReceiver) -> list[dict[str, Any]]:
    """What the heartbeats have brought."""
    return [each for document in centre.documents for each in document["notices"]]


def waiting_kinds(edge: Edge, channel: str) -> list[str]:
    with closing(sqlite3.connect(f"file:{edge.data_dir / 'catalog.db'}?mode=ro", uri=True)) as conn:
        bodies = [json.loads(row[0]) for row in conn.execute("SELECT body FROM message WHERE channel = ?", (channel,))]
    return opened(bodies)


def oldest_before(edge: Edge, channel: str, moment: float) -> bool:
    with closing(sqlite3.connect(f"file:{edge.data_dir / 'catalog.db'}?mode=ro", uri=True)) as conn:
        sql = "SELECT EXISTS (SELECT 1 FROM message WHERE channel = ? AND at < ?)"
        return bool(conn.execute(sql, (channel, moment)).fetchone()[0])


def no_patient_in(edge: Edge, taken: list[Taken], mails: list[str]) -> None:
    """Neither in what left, nor in the log, nor on a page that needs no sign-in."""
    pages = [http_get(edge.url(path))[1] for path in ("/", "/metrics", "/api/status", "/readyz", "/healthz")]
    everything = b"".join([*(each.body for each in taken), *(mail.encode() for mail in mails), *pages])
    assert CANARY.encode() not in everything
    assert CANARY not in edge.log.read_text("utf-8")
    assert CANARY in edge.cli("studies", "list").stdout, "the canary sings where it may"


def test_a_failed_disk_is_told_though_nothing_can_be_stored(
    edge: Edge, authority: Authority, running: ExitStack, tmp_path: Path
) -> None:
    hook = running.enter_context(HttpsReceiver(authority))
    edge.configure(f'[webhook.chat]\nurl = "{hook.url}"\nca = "ca.pem"\nkinds = ["storage-unhealthy"]\n')
    running.enter_context(edge)
    strace = [requires("strace"), "-f", "-qq", "-o", "/dev/null", "-e", "inject=fsync,fdatasync:error=EIO"]
    tracer = subprocess.Popen([*strace, "-e", "trace=fsync,fdatasync", "-p", str(edge.pid)])
    try:
        wait_until(lambda: hook.taken, 30, "it is told")
    finally:
        tracer.terminate()
        tracer.wait(10)
    (told,) = hook.documents
    assert (told["kind"], told["severity"], told["event"]) == ("storage-unhealthy", "critical", "opened")
    assert "Scanners are refused because the storage failed" in told["text"]
