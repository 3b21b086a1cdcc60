"""E-mail: one mail to one recipient over SMTP (RFC 5321), with STARTTLS or TLS, logged in where the site says so.

A mail is a pure function of its notice: sent again after a lost answer it has the same Message-ID, so that readers and
servers know it again, and its Date is when the notice arose. Mails about one alert are one thread.
What the server says about the login, the sender or the recipient is about us (Rejected: it waits, a person must act); a
5xx after the text is about this mail (Permanent: parked). Its words are shown, cut to one line.
"""

from __future__ import annotations

import hashlib
import json
import smtplib
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate

from edge.errors import Permanent, Transient
from edge.messaging import Rejected, notice
from edge.messaging.line import WAIT_SECONDS, Cutter, in_words
from edge.messaging.notice import Notice
from edge.store.outbox import Message
from edge.text import printable

SMTP_PORTS = {"starttls": 587, "tls": 465, "none": 25}
#: The mail is taken: QUIT is a courtesy.
QUIT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class MailServer:
    """A mail server that takes our mail. `password` and `context` read their files again for each mail."""

    host: str
    port: int
    security: str  # starttls | tls | none
    user: str | None
    password: Callable[[], bytes]
    context: Callable[[], ssl.SSLContext]

    @property
    def label(self) -> str:
        return f"the mail server {self.host}:{self.port}"


class EmailSender:
    """The channel of one recipient."""

    def __init__(self, server: MailServer, sender: str, recipient: str, all_recipients: tuple[str, ...] = ()) -> None:
        """`all_recipients` is what the To header shows; each has a channel of their own."""
        self._server, self._sender, self._recipient = server, sender, recipient
        self._shown = all_recipients or (recipient,)
        self._cutter = Cutter()

    def deliver(self, message: Message) -> None:
        """Send a notice, or a letter as it is. Raises Transient, Rejected or Permanent."""
        if message.kind == notice.LETTER:
            letter = json.loads(message.body)
            mail = _letter(letter["subject"], letter["text"], message.at, self._sender, self._shown)
        else:
            mail = compose(notice.parse_notice(message.body), message.at, self._sender, self._shown)
        send(self._server, self._sender, self._recipient, mail, self._cutter)

    def cut(self) -> None:
        self._cutter.cut()

    def close(self) -> None:
        """Each mail has a connection of its own: there is nothing to close."""


def compose(content: Notice, at: float, sender: str, recipients: tuple[str, ...]) -> EmailMessage:
    """The mail about a notice that arose at `at`, in seconds since 1970."""
    mail = _mail(notice.subject(content), notice.letter(content), f"Edge {content.site_id}", at, sender, recipients)
    domain = sender.rpartition("@")[2]
    mail["Message-ID"] = f"<{_digest(content.site_id, content.id, content.event, content.at)}@{domain}>"
    thread = f"<{_digest(content.site_id, content.kind, content.subject, content.since)}@{domain}>"
    mail["In-Reply-To"] = mail["References"] = thread
    return mail


#: A mail passes every server, also one without 8BITMIME (RFC 6152).
_SEVEN_BIT = SMTP.clone(cte_type="7bit")


def _letter(subject: str, text: str, at: float, sender: str, recipients: tuple[str, ...]) -> EmailMessage:
    mail = _mail(subject, text, "Edge", at, sender, recipients)
    mail["Message-ID"] = f"<{_digest(subject, text, str(at))}@{sender.rpartition('@')[2]}>"
    return mail


def _mail(subject: str, text: str, name: str, at: float, sender: str, recipients: tuple[str, ...]) -> EmailMessage:
    mail = EmailMessage(policy=_SEVEN_BIT)
    mail["Subject"] = subject
    mail["From"] = Address(name, addr_spec=sender)
    mail["To"] = ", ".join(recipients)
    mail["Date"] = formatdate(at)
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody answers it automatically
    mail.set_content(text)
    return mail


def _digest(*parts: str) -> str:
    return "edge." + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def send(server: MailServer, sender: str, recipient: str, mail: EmailMessage, cutter: Cutter | None = None) -> None:
    """Hand one mail to the server. Raises Transient, Rejected or Permanent, in words."""
    watching = (cutter or Cutter()).watching
    with (
        in_words(server.label),
        _open_session(server) as smtp,
        watching(lambda: smtp.sock),
        _answers_in_words(server, sender, recipient),
    ):
        smtp.ehlo_or_helo_if_needed()
        if server.security == "starttls":
            smtp.starttls(context=server.context())
        if server.user is not None:
            _log_in(smtp, server.user, server.password().decode())
        smtp.send_message(mail, sender, [recipient])


def _log_in(smtp: smtplib.SMTP, user: str, password: str) -> None:
    """Log in by PLAIN or LOGIN, inside TLS. Not by CRAM-MD5, which smtplib prefers: a FIPS-mode OpenSSL has no MD5."""
    smtp.ehlo_or_helo_if_needed()
    offered = {"PLAIN", "LOGIN"}.intersection(smtp.esmtp_features.pop("auth", "").upper().split())
    if offered:
        smtp.esmtp_features["auth"] = " ".join(sorted(offered))
    smtp.login(user, password)


@contextmanager
def _open_session(server: MailServer) -> Iterator[smtplib.SMTP]:
    try:
        if server.security == "tls":
            smtp: smtplib.SMTP = smtplib.SMTP_SSL(
                server.host, server.port, timeout=WAIT_SECONDS, context=server.context()
            )
        else:
            smtp = smtplib.SMTP(server.host, server.port, timeout=WAIT_SECONDS)
    except smtplib.SMTPConnectError as error:
        raise Transient(f"{server.label} turns us away: {_answer_text(error.smtp_code, error.smtp_error)}") from None
    except smtplib.SMTPServerDisconnected:
        raise Transient(f'{server.label} hung up at once: does it want security = "tls" on this port?') from None
    try:
        yield smtp
    finally:
        try:
            if smtp.sock is not None:
                smtp.sock.settimeout(QUIT_SECONDS)
            smtp.quit()
        except (smtplib.SMTPException, OSError, ValueError):
            smtp.close()  # the mail's fate is known already


@contextmanager
def _answers_in_words(server: MailServer, sender: str, recipient: str) -> Iterator[None]:
    """What the server answered, as our errors. The most telling words stand first."""
    try:
        yield
    except smtplib.SMTPAuthenticationError as error:
        answer = _answer_text(error.smtp_code, error.smtp_error)
        raise _failure_class(error.smtp_code)(
            f"{server.label} refuses the login of {server.user}: {answer}; compare user and password"
        ) from None
    except smtplib.SMTPRecipientsRefused as error:
        code, answer = error.recipients[recipient][0], _answer_text(*error.recipients[recipient])
        raise _failure_class(code)(f"{server.label} refuses the recipient {recipient}: {answer}") from None
    except smtplib.SMTPSenderRefused as error:
        answer = _answer_text(error.smtp_code, error.smtp_error)
        raise _failure_class(error.smtp_code)(f"{server.label} refuses the sender {sender}: {answer}") from None
    except smtplib.SMTPDataError as error:
        kind = Permanent if error.smtp_code >= 500 else Transient
        raise kind(f"{server.label} refuses the mail: {_answer_text(error.smtp_code, error.smtp_error)}") from None
    except smtplib.SMTPNotSupportedError:
        lacks = "STARTTLS" if server.security == "starttls" else "logins"
        raise Rejected(f"{server.label} offers no {lacks}; compare security and port") from None
    except smtplib.SMTPServerDisconnected:
        raise Transient(f"{server.label} hung up in the middle") from None
    except smtplib.SMTPResponseException as error:
        raise Transient(f"{server.label} answers {_answer_text(error.smtp_code, error.smtp_error)}") from None
    except (smtplib.SMTPException, UnicodeError) as error:
        raise Transient(f"{server.label} does not speak SMTP as we do ({type(error).__name__})") from None


def _failure_class(code: int) -> type[Transient]:
    """The class of a failure: 4xx ends by itself (greylisting), 5xx needs a person (RFC 5321 section 4.2.1)."""
    return Rejected if code >= 500 else Transient


def _answer_text(code: int, words: bytes | str) -> str:
    text = words.decode("utf-8", "replace") if isinstance(words, bytes) else words
    return f"{code} {printable(' '.join(text.split()))[:200]}"
