"""Notices at real receivers: mail servers, HTTPS, rsyslog; what goes wrong with each is told in words, and heals."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

from edge import messaging
from edge.config.channels import channels_for
from edge.config.sections import Config
from edge.errors import ConfigError, Permanent, Transient
from edge.messaging import Courier, Rejected, line, notice, syslog
from edge.messaging.channels import build_channels
from edge.store import outbox
from edge.store.database import Store
from edge.store.outbox import Message
from edge.text import iso
from tests.support.gateway import CONFIG, configuration
from tests.support.peers import absent, wait_until
from tests.support.receivers import Authority, HttpsReceiver, MailServer, Rsyslog

AT = 1_800_000_000.0
#: aiosmtpd's advice: a TLS port of its own has no STARTTLS to ask for.
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")

SECRETS = ("s3cr3t", "the webhook's key")


def body(number: int = 7, event: str = "opened", **more: Any) -> str:
    told = {
        "notice": number,
        "event": event,
        "kind": "destination-down",
        "subject": "archive",
        "severity": "major",
        "since": iso(AT - 300),
        "at": iso(AT),
        "ended": iso(AT) if event == "closed" else None,
        "duration_seconds": 300.0 if event == "closed" else None,
        "text": "Destination archive does not answer.",
        "means": "412 images for it wait safely on disk and go by themselves when it answers.",
        "do": "Try `edge echo archive`.",
        "site": {"id": "0067", "name": "Klinik Süd"},
        "version": "0.1.0",
    }
    return json.dumps(told | more)


def message(number: int = 7, at: float = AT, **more: Any) -> Message:
    return Message(number, "any", "notice", at, body(number, **more), 0)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "conf.d")


def configured(tmp_path: Path, text: str) -> Config:
    folder = tmp_path / "conf.d"
    folder.mkdir(exist_ok=True)
    for name, content in {"password": "s3cr3t\n", "key": "the webhook's key\n"}.items():
        (folder / name).write_text(content)
        (folder / name).chmod(0o600)
    return configuration(tmp_path, CONFIG + text)


def channels(tmp_path: Path, text: str) -> dict[str, Any]:
    return build_channels(configured(tmp_path, text), tmp_path / "conf.d")


def email(server: MailServer, security: str = "starttls", more: str = "", to: str = '["a@example.org"]') -> str:
    login = 'user = "edge"\npassword = "password"\n' if security != "none" else ""
    return (
        f'[email.mimso]\nhost = "127.0.0.1"\nport = {server.port}\nsecurity = "{security}"\n{login}'
        f'sender = "edge@clinic.example"\nto = {to}\nca = "ca.pem"\n{more}'
    )


# Words


def test_a_letter_says_what_since_when_what_it_means_and_what_to_do() -> None:
    told = notice.parse_notice(body())
    assert notice.subject(told) == "[Edge 0067 Klinik Süd] MAJOR: destination down: archive"
    text = notice.letter(told)
    for words in ("does not answer", "since 2027-01-15 07:55:00 UTC", "wait safely on disk", "`edge echo archive`"):
        assert words in text
    assert max(len(line) for line in text.splitlines()) < 998  # RFC 5321 section 4.5.3.1.6


def test_a_letter_names_the_directive_s_notice_and_a_moment_is_no_span() -> None:
    told = notice.parse_notice(
        body(kind="storage-filling", subject="storage", directive="storage", ended=iso(AT - 300))
    )
    assert notice.subject(told).endswith("MAJOR: storage filling")
    assert "reports to the central office: a local storage concern." in notice.letter(told)
    assert "When:\nat 2027-01-15 07:55:00 UTC\n" in notice.letter(told)


def test_the_end_is_told_with_its_duration_and_nothing_to_do() -> None:
    told = notice.parse_notice(body(event="closed"))
    assert notice.subject(told) == "[Edge 0067 Klinik Süd] ended after 5 min: destination down: archive"
    assert "ended 2027-01-15 08:00:00 UTC after 5 min" in notice.letter(told)
    assert "What to do" not in notice.letter(told)


def test_an_escalation_says_for_how_long() -> None:
    told = notice.parse_notice(body(event="escalated", since=iso(AT - 7 * 86400)))
    assert notice.subject(told).endswith("ESCALATED, open for 7 d: destination down: archive")


@pytest.mark.parametrize("broken", ["", "{}", "[]", '{"notice": 1, "site": 3}'])
def test_what_is_no_notice_is_refused_for_good(broken: str) -> None:
    with pytest.raises(Permanent):
        notice.parse_notice(broken)


def test_what_the_wire_calls_itself_forges_no_header_and_no_line() -> None:
    told = notice.parse_notice(body(subject="X\r\nBcc: evil@example.org\x1b[2J"))
    assert "\n" not in notice.subject(told)
    assert "\n" not in notice.log_line(told)
    assert "\x1b" not in notice.letter(told)


# Who wants what


def test_channels_for_a_notice(tmp_path: Path) -> None:
    config = configured(
        tmp_path,
        '[email.all]\nhost = "m"\nsender = "e@x.org"\nto = ["a@x.org", "b@x.org"]\n'
        '[email.boss]\nhost = "m"\nsender = "e@x.org"\nto = ["c@x.org"]\nevents = ["escalated"]\n'
        '[webhook.disk]\nurl = "https://h/"\nkinds = ["storage-*"]\n'
        '[syslog.grave]\nhost = "l"\nseverity = "critical"\n'
        '[heartbeat]\nurl = "https://c/"\nkey = "key"\n',
    )
    everybody = ["email.all/a@x.org", "email.all/b@x.org"]
    assert channels_for(config, "conflict", "minor", "opened") == [*everybody, "heartbeat.notices"]
    assert channels_for(config, "conflict", "minor", "escalated") == [
        *everybody,
        "email.boss/c@x.org",
        "heartbeat.notices",
    ]
    assert channels_for(config, "storage-refusing", "critical", "closed") == [
        *everybody,
        "webhook.disk",
        "syslog.grave",
        "heartbeat.notices",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            '[webhook.x]\nurl = "https://h/"\nkinds = ["storage-*", "storage-filing"]\n',
            'webhook.x.kinds: no kind of alert is "storage-filing"; did you mean "storage-filling"?',
        ),
        (
            '[webhook.x]\nurl = "http://chat.example.org/"\n',
            "webhook.x.url: expected an address that begins with https",
        ),
        ('[webhook.x]\nurl = "https://u:p@chat.example.org/"\n', "a password in it would be seen: use the key"),
        ('[heartbeat]\nurl = "https://c/"\n', "heartbeat.url: expected key (to sign) or certificate"),
        ('[heartbeat]\nurl = "https://c/"\nkey = "k"\nclient_key = "k"\n', "client_key: expected certificate as well"),
        (
            '[email.x]\nhost = "m"\nsender = "a@b"\nto = ["a@b"]\nsecurity = "none"\nuser = "u"\npassword = "p"\n',
            "which shows the password to the network",
        ),
        ('[email.x]\nhost = "m"\nsender = "a@b"\nto = ["a@b"]\npassword = "p"\n', "email.x.password: expected user"),
        ('[email.x]\nhost = "m"\nsender = "a"\nto = ["a@b\\r\\nBcc: c@d"]\n', "expected an e-mail address"),
    ],
)
def test_what_would_not_work_is_named(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(tmp_path, text)
    assert fault in str(caught.value)


# E-mail


@pytest.mark.parametrize("security", ["starttls", "tls", "none"])
def test_a_mail_arrives(tmp_path: Path, authority: Authority, security: str) -> None:
    login = ("edge", "s3cr3t") if security != "none" else None
    with MailServer(authority, security, login) as server:
        made = channels(tmp_path, email(server, security, to='["a@example.org", "b@example.org"]'))
        for channel in made.values():
            channel.deliver(message())
    assert [mail.recipients for mail in server.mails] == [["a@example.org"], ["b@example.org"]]
    first, second = (mail.content for mail in server.mails)
    assert first["Subject"] == "[Edge 0067 Klinik Süd] MAJOR: destination down: archive"
    assert first["To"] == "a@example.org, b@example.org"
    assert parsedate_to_datetime(first["Date"]).timestamp() == AT
    assert first["Message-ID"] == second["Message-ID"]
    assert "Klinik Süd" in first.get_content()
    assert first["Content-Transfer-Encoding"] in ("quoted-printable", "base64")  # no server must offer 8BITMIME


def test_open_and_end_are_two_mails_of_one_thread(tmp_path: Path, authority: Authority) -> None:
    with MailServer(authority) as server:
        (channel,) = channels(tmp_path, email(server)).values()
        channel.deliver(message())
        channel.deliver(message(event="closed"))
    opened, ended = (mail.content for mail in server.mails)
    assert opened["Message-ID"] != ended["Message-ID"]
    assert opened["References"] == ended["References"]


def refused(channel: Any, kind: type[Exception], *words: str, told: Message | None = None) -> str:
    with pytest.raises(Transient if kind is Transient else kind) as caught:
        channel.deliver(told or message())
    assert type(caught.value) is kind
    for word in words:
        assert word in str(caught.value)
    for secret in SECRETS:
        assert secret not in str(caught.value)
    return str(caught.value)


def test_a_wrong_password_waits_for_a_person(tmp_path: Path, authority: Authority) -> None:
    with MailServer(authority, login=("edge", "another")) as server:
        (channel,) = channels(tmp_path, email(server)).values()
        refused(channel, Rejected, "refuses the login of edge", "535", "compare user and password")
    assert not server.mails


def test_a_changed_password_counts_at_once(tmp_path: Path, authority: Authority) -> None:
    with MailServer(authority, login=("edge", "new")) as server:
        (channel,) = channels(tmp_path, email(server)).values()
        refused(channel, Rejected, "login")
        (tmp_path / "conf.d" / "password").write_text("new\n")
        channel.deliver(message())
    assert len(server.mails) == 1


def test_a_missing_secret_is_named_and_not_shown(tmp_path: Path, authority: Authority) -> None:
    with MailServer(authority) as server:
        (channel,) = channels(tmp_path, email(server)).values()
        (tmp_path / "conf.d" / "password").chmod(0o644)
        refused(channel, Rejected, "may be read by others", "chmod 600")
        (tmp_path / "conf.d" / "password").unlink()
        refused(channel, Rejected, "cannot be read", "password")


def test_a_server_under_another_name_or_authority_is_refused(tmp_path: Path, authority: Authority) -> None:
    stranger = Authority(tmp_path / "stranger")
    for security in ("starttls", "tls"):
        with MailServer(stranger, security) as server:
            (channel,) = channels(tmp_path, email(server, security)).values()
            refused(channel, Rejected, "certificate that is not accepted", "compare its name and ca")
        assert not server.mails


@pytest.mark.parametrize(("server_has", "we_want"), [("none", "starttls"), ("none", "tls"), ("tls", "starttls")])
def test_the_wrong_security_is_told_in_words(
    tmp_path: Path, authority: Authority, server_has: str, we_want: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.messaging.smtp.WAIT_SECONDS", 1.0)
    with MailServer(authority, server_has, None) as server:
        (channel,) = channels(tmp_path, email(server, we_want)).values()
        with pytest.raises(Transient, match=r"offers no STARTTLS|on TLS|in time|hung up|wants? security"):
            channel.deliver(message())
    assert not server.mails


@pytest.mark.parametrize(
    ("answer", "of", "kind", "words"),
    [
        ("550 no such user", "a@example.org", Rejected, "refuses the recipient a@example.org: 550 no such user"),
        ("450 greylisted", "a@example.org", Transient, "refuses the recipient a@example.org: 450 greylisted"),
        ("554 looks like spam", "", Permanent, "refuses the mail: 554 looks like spam"),
        ("451 try later", "", Transient, "refuses the mail: 451 try later"),
    ],
)
def test_refusals_of_the_server(
    tmp_path: Path, authority: Authority, answer: str, of: str, kind: type[Exception], words: str
) -> None:
    with MailServer(authority) as server:
        server.answer = lambda recipient: answer if recipient == of else ""
        (channel,) = channels(tmp_path, email(server)).values()
        refused(channel, kind, words)


def test_nobody_there(tmp_path: Path, authority: Authority) -> None:
    server = MailServer(authority)
    (channel,) = channels(tmp_path, email(server)).values()
    refused(channel, Transient, "the mail server 127.0.0.1", "cannot be reached: Connection refused")
    (elsewhere,) = channels(tmp_path, email(server).replace('"127.0.0.1"', '"no-such-host.invalid"')).values()
    refused(elsewhere, Transient, "cannot be resolved")


# Webhooks


def webhook(receiver: HttpsReceiver) -> str:
    return f'[webhook.chat]\nurl = "{receiver.url}?token=abc"\nkey = "key"\nca = "ca.pem"\n'


def test_a_webhook_is_signed_with_its_time(tmp_path: Path, authority: Authority) -> None:
    with HttpsReceiver(authority) as receiver:
        (channel,) = channels(tmp_path, webhook(receiver)).values()
        channel.deliver(message())
        channel.deliver(message())
    first, again = receiver.taken
    assert first.json == json.loads(body())
    assert first.path.endswith("?token=abc")
    signed = first.headers["Edge-Timestamp"].encode() + b"." + first.body
    expected = hmac.new(b"the webhook's key", signed, hashlib.sha256).hexdigest()
    assert first.headers["Edge-Signature"] == f"sha256={expected}"
    assert first.headers["Edge-Delivery"] == again.headers["Edge-Delivery"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, Permanent), (422, Permanent), (401, Rejected), (404, Rejected), (302, Rejected), (500, Transient)],
)
def test_answers_of_a_webhook(tmp_path: Path, authority: Authority, status: int, kind: type[Exception]) -> None:
    with HttpsReceiver(authority) as receiver:
        receiver.answer = lambda taken: status
        (channel,) = channels(tmp_path, webhook(receiver)).values()
        told = refused(channel, kind, f"answers {status}")
    assert "token" not in told
    assert not receiver.taken


def test_a_receiver_under_another_name_is_refused(tmp_path: Path, authority: Authority) -> None:
    with HttpsReceiver(authority, "another.example.org") as receiver:
        (channel,) = channels(tmp_path, webhook(receiver)).values()
        refused(channel, Rejected, "certificate that is not accepted", "127.0.0.1")
    assert not receiver.taken


class Rude:
    """Accepts, and answers with what it likes, for ever."""

    def __init__(self, *chunks: bytes, pause: float = 0.01) -> None:
        self._chunks, self._pause, self._ending = chunks, pause, threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            sock, _ = self._listener.accept()
            with sock:
                while not self._ending.wait(self._pause):
                    for chunk in self._chunks:
                        sock.sendall(chunk)
        except OSError:
            pass  # the gateway has ended it

    def __enter__(self) -> Rude:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._listener.close()


@pytest.mark.parametrize("chunk", [b"X: y\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"\x00\xff", b""])
def test_a_rude_receiver_is_outlasted(tmp_path: Path, chunk: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "DELIVERY_SECONDS", 0.3)
    with Rude(chunk) as rude:
        (channel,) = channels(tmp_path, f'[webhook.x]\nurl = "http://127.0.0.1:{rude.port}/"\n').values()
        with pytest.raises(Transient):
            channel.deliver(message())


# Syslog


def test_format_of_rfc_5424() -> None:
    told = syslog.format_message(3, "destination-down", "Süd", AT + 0.25, 3, hostname="ed ge", procid="42")
    head = "<27>1 2027-01-15T08:00:00.250000Z ed_ge edge 42 destination-down - "
    assert told == head.encode() + b"\xef\xbb\xbf" + "Süd".encode()
    assert syslog.format_message(5, "", "x", AT, 10).startswith(b"<85>1 2027-01-15T08:00:00.000000Z - edge - - - ")


@pytest.fixture
def rsyslog(tmp_path: Path, authority: Authority, running: ExitStack) -> Rsyslog:
    if not list(Path("/usr/lib").glob("*/rsyslog/lmnsd_gtls.so")):
        absent("rsyslog-gnutls")
    return running.enter_context(Rsyslog(tmp_path / "rsyslog", authority))


def collector(rsyslog: Rsyslog, transport: str) -> str:
    port = {"udp": rsyslog.udp, "tcp": rsyslog.tcp, "tls": rsyslog.tls}[transport]
    return f'[syslog.siem]\nhost = "localhost"\ntransport = "{transport}"\nport = {port}\nca = "ca.pem"\n'.replace(
        '"localhost"', '"127.0.0.1"' if transport == "udp" else '"localhost"'
    )


@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
def test_rsyslog_takes_our_messages(tmp_path: Path, rsyslog: Rsyslog, transport: str) -> None:
    (channel,) = channels(tmp_path, collector(rsyslog, transport)).values()
    channel.deliver(message())
    channel.deliver(message(event="closed"))
    channel.close()
    wait_until(lambda: len(rsyslog.messages) == 2, 10, "both are written")
    first, second = rsyslog.messages
    assert (first["pri"], second["pri"]) == (str(3 * 8 + 3), str(3 * 8 + 5))
    assert (first["app"], first["msgid"], first["version"]) == ("edge", "destination-down", "1")
    assert first["at"].startswith("2027-01-15T08:00:00")
    assert "site 0067 (Klinik Süd): MAJOR: destination down: archive" in first["msg"]


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_a_collector_that_was_away_gets_everything_once_in_order(
    tmp_path: Path, rsyslog: Rsyslog, transport: str
) -> None:
    (channel,) = channels(tmp_path, collector(rsyslog, transport)).values()
    channel.deliver(message(1, kind="k1"))
    wait_until(lambda: len(rsyslog.messages) == 1, 10, "it has read the first")  # not only its kernel
    rsyslog.stop()
    refused(channel, Transient, "the syslog collector localhost")
    rsyslog.start()
    for number in (2, 3):
        channel.deliver(message(number, kind=f"k{number}"))
    channel.close()
    wait_until(lambda: len(rsyslog.messages) == 3, 10, "all three")
    assert [told["msgid"] for told in rsyslog.messages] == ["k1", "k2", "k3"]


def test_what_the_other_end_has_not_acknowledged_was_not_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syslog, "WAIT_SECONDS", 0.3)
    monkeypatch.setattr(line, "WAIT_SECONDS", 0.3)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        sender = syslog.Syslog("127.0.0.1", listener.getsockname()[1], "tcp")
        with pytest.raises(Transient, match="does not answer in time"):
            sender.send(syslog.ERROR, "x", "y" * 100_000, AT)
        sender.close()


def test_a_collector_that_has_hung_up_is_called_anew() -> None:
    """It still reads what comes, and throws it away: a half-closed connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = syslog.Syslog("127.0.0.1", listener.getsockname()[1], "tcp")
        sender.send(syslog.ERROR, "first", "x", AT)
        with listener.accept()[0] as hung_up:
            hung_up.shutdown(socket.SHUT_WR)
            sender.send(syslog.ERROR, "second", "x", AT)
            with listener.accept()[0] as called_anew:
                assert b" second " in called_anew.recv(4096)
            assert b" second " not in hung_up.recv(4096)
        sender.close()


# Through an outage, by couriers


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "catalog.db")
    yield made
    made.close()


def post_all(db: Store, config: Config, notices: list[tuple[float, str]]) -> None:
    for at, text in notices:
        told = json.loads(text)
        for name in channels_for(config, told["kind"], told["severity"], told["event"]):
            db.write(lambda conn, name=name, at=at, text=text: outbox.post(conn, name, "notice", at, text))


def test_four_notices_through_a_cut_link_once_each_in_order(
    tmp_path: Path, authority: Authority, rsyslog: Rsyslog, db: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messaging, "FIRST_SECONDS", 0.05)
    monkeypatch.setattr(messaging, "LONGEST_SECONDS", 0.1)
    mail, https = MailServer(authority), HttpsReceiver(authority)
    text = email(mail, to='["a@example.org", "b@example.org"]') + webhook(https) + collector(rsyslog, "tls")
    config = configured(tmp_path, text)
    rsyslog.stop()
    kinds = ["unscheduled-downtime", "new-modality", "storage-filling", "destination-down"]
    notices = [(AT + n, body(n, kind=kind, at=iso(AT + n))) for n, kind in enumerate(kinds)]
    post_all(db, config, notices)
    couriers = [Courier(db, name, channel) for name, channel in build_channels(config, tmp_path / "conf.d").items()]
    for courier in couriers:
        courier.start()
    wait_until(lambda: all(courier._failures >= 2 for courier in couriers), 20, "every channel has failed twice")
    mail.drop_after_data = 1
    with mail, https, rsyslog:
        wait_until(lambda: not _left(db), 20, "everything is delivered")
        wait_until(lambda: len(rsyslog.messages) == 4, 10, "and written")
    for courier in couriers:
        courier.stop()
    assert [each["kind"] for each in https.documents] == kinds
    assert [told["msgid"] for told in rsyslog.messages] == kinds
    seen: list[str] = []
    for recipient in ("a@example.org", "b@example.org"):
        mine = [each.content for each in mail.mails if each.recipients == [recipient]]
        ids = list(dict.fromkeys(each["Message-ID"] for each in mine))  # the one whose answer was lost came twice
        assert len(ids) == 4
        seen += ids
        dates = [parsedate_to_datetime(each["Date"]).timestamp() for each in mine]
        assert sorted(set(dates)) == [AT, AT + 1, AT + 2, AT + 3]
        assert dates == sorted(dates)
    assert len(mail.mails) == 9
    assert len(set(seen)) == 4


def _left(db: Store) -> int:
    with db.reading() as conn:
        return len(outbox.lines(conn, 100))
