"""The kinds of value that a configuration may hold, and the check of each (edge.config.values says what one is)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from edge.config.alarms import ALERT_SEVERITIES, Term
from edge.config.charset_names import codec_for
from edge.config.values import ValueKind, did_you_mean, format_value, read_parts, unfit
from edge.model import Priority

MAX_BANNER = 8000
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True, slots=True)
class OAuth:
    """Where tokens are asked for with our own credentials (RFC 6749 section 4.4)."""

    token_url: str
    client: str
    secret: str  # a file, or the name of a credential
    scope: str = ""


def _require(fits: bool, remedy: str = "") -> None:
    if not fits:
        raise ValueError(remedy)


def _text(value: object) -> str:
    if isinstance(value, str) and value.strip() and value.isprintable():
        return value
    raise ValueError


def _banner(value: object) -> str:
    """Text of several lines (TOML: three quotes)."""
    _require(isinstance(value, str))
    text = str(value).strip()
    _require(len(text) <= MAX_BANNER and all(char == "\n" or char.isprintable() for char in text))
    return text


def _quoted_text(value: object) -> str:
    _require(type(value) is not int, f'; write "{value}"')
    return _text(value)


def _path(value: object) -> Path:
    path = Path(_text(value))
    _require(not path.parts[0].startswith("~"), "; the home directory is not looked up here")
    return path


def _ae_title(value: object) -> str:
    title = _quoted_text(value).strip(" ")  # spaces around it mean nothing (PS3.5 section 6.2, AE)
    _require(len(title) <= 16 and title.isascii() and "\\" not in title)
    return title


def _ae_glob(value: object) -> str:
    glob = _quoted_text(value).strip(" ")
    shortest = re.sub(r"\[!?.[^\]]*\]", "?", glob).replace("*", "")
    _require(len(shortest) <= 16 and glob.isascii() and "\\" not in glob)
    return glob


def _address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError from None


def _host(value: object) -> str:
    name = _text(value)
    if ":" in name or re.fullmatch(r"[0-9.]+", name):  # can only be meant as an address
        return _address(name)
    label = r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?"
    _require(len(name) <= 253 and bool(re.fullmatch(rf"{label}(\.{label})*\.?", name)))
    return name


def _header(value: object) -> str:
    """RFC 9110 section 5.1: a token."""
    _require(isinstance(value, str) and bool(re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]*", value)))
    return str(value)


def _network(value: object) -> str:
    text = _text(value)
    try:
        ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(_nearest_network(text)) from None
    return text


def _nearest_network(text: str) -> str:
    try:
        return f'; did you mean "{ipaddress.ip_network(text, strict=False)}"?'
    except ValueError:
        return ""


def _port(value: object) -> int:
    if type(value) is int and 1 <= value <= 65535:
        return value
    raise ValueError("; write it without quotes" if isinstance(value, str) and value.isdigit() else "")


def _count(value: object) -> int:
    if type(value) is int and value >= 1:
        return value
    raise ValueError


def _fraction(value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1:
        return float(value)
    raise ValueError


def _uid(value: object) -> str:
    uid = _text(value)
    _require(len(uid) <= 64 and bool(re.fullmatch(r"[0-9]+(\.[0-9]+)*", uid)))
    return uid


def _yes_no(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("; write it without quotes" if value in ("true", "false") else "")


def _certificate(value: object) -> str:
    text = _text(value).strip()
    if not text.lower().startswith("sha256:"):
        return text
    digits = text[7:].replace(":", "").lower()
    _require(bool(re.fullmatch(r"[0-9a-f]{64}", digits)), "; SHA-256 has 64 hexadecimal digits")
    return f"sha256:{digits}"


def _date(value: object) -> str:
    """`2026-12-25`, or `12-25` for that day of each year."""
    text = value.isoformat() if isinstance(value, date) else _text(value)
    try:
        date.fromisoformat(text if len(text) > 5 else f"2024-{text}")
    except ValueError:
        raise ValueError from None
    return text


def _moment(value: object) -> datetime:
    """Local time of the site, as `2026-12-05 22:00`; a time with an offset is converted to the machine's zone."""
    try:
        found = datetime.fromisoformat(_text(value))
    except ValueError:
        raise ValueError from None
    return found.astimezone().replace(tzinfo=None) if found.tzinfo else found


def _time_of_day(value: object) -> float | None:
    """Seconds since midnight; None for "never"."""
    text = _text(value)
    if text == "never":
        return None
    match = re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", text)
    if match is None:
        raise ValueError
    return int(match[1]) * 3600.0 + int(match[2]) * 60.0


def _time_zone(value: object) -> str:
    name = _text(value)
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError from None
    return name


def _term(value: object) -> Term:
    match = re.fullmatch(r"([1-9][0-9]*) business days?", _text(value))
    return Term(days=int(match[1])) if match else Term(seconds=DURATION.parse(value))


def _email(value: object) -> str:
    address = _text(value)
    _require(len(address) <= 254 and bool(re.fullmatch(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+", address)))
    return address


def _split_url(text: str, remedy: str) -> SplitResult:
    """The parts of an address of HTTP, without credentials and fragment."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError from None
    _require(bool(host) and text.isascii() and " " not in text and not parts.fragment)
    _require(parts.username is None, remedy)
    _require(parts.scheme in ("https", "http"))
    return parts


def _url(value: object) -> str:
    text = _text(value)
    parts = _split_url(text, "; a password in it would be seen: use the key")
    _require(parts.scheme == "https" or parts.hostname in ("localhost", "127.0.0.1", "::1"))
    return text


def _charset(value: object) -> str:
    text = _text(value)
    _require(codec_for(text) is not None)
    return text


def _message_type(value: object) -> str:
    text = _text(value)
    _require(re.fullmatch("[A-Z][A-Z0-9]{2}", text) is not None)
    return text


def _service_url(value: object) -> str:
    """Base of the services: any http is taken here, and warned of (edge.monitor.config_warnings)."""
    text = _text(value).rstrip("/")
    _require(not _split_url(text, "; a password in it would be seen: use token or oauth").query)
    return text


def _origin(value: object) -> str:
    """RFC 6454 section 7: scheme, host, and a port where it is not the scheme's own; or * for any page."""
    text = _text(value).rstrip("/")
    _require(text == "*" or bool(re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?", text)))
    return text


def _oauth(value: object) -> OAuth:
    if not isinstance(value, dict):
        raise ValueError
    kinds = {"token_url": URL, "client": TEXT, "secret": SECRET, "scope": TEXT}

    def read(name: str, given: Any) -> tuple[str, Any]:
        if name not in kinds:
            raise unfit(f"unknown key{did_you_mean(name, kinds)}")
        return name, kinds[name].read(given)

    found = dict(read_parts(value.items(), read))
    if missing := [name for name in ("token_url", "client", "secret") if name not in found]:
        raise unfit(f"missing: {', '.join(missing)}")
    return OAuth(**found)


def _console_url(value: object) -> str:
    """The address of pages: people open it, so that it may be plain HTTP, too."""
    if value == "":
        return ""
    text = _text(value).rstrip("/")
    _split_url(text, "; a password in it would be seen")
    return text


def _secret(value: object) -> str:
    name = _text(value)
    _require(not name.startswith("~"), "; the home directory is not looked up here")
    return name


def _project(value: object) -> str:
    """Part of pseudonyms, which must fit into a Patient ID and a Patient's Name."""
    name = _quoted_text(value)
    _require(bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,15}", name)))
    return name


def _quantity(units: Mapping[str, int]) -> Callable[[object], float]:
    def parse(value: object) -> float:
        match = re.fullmatch(rf"([0-9]+(?:\.[0-9]+)?) ?({'|'.join(units)})", _text(value))
        if match is None:
            raise ValueError
        return float(match[1]) * units[match[2]]

    return parse


def _regex(value: object) -> str:
    text = "" if value == "" else _text(value)
    try:
        re.compile(text)
    except re.error:
        raise ValueError from None
    return text


def _code(value: object) -> str:
    """A code string (PS3.5 section 6.2, CS)."""
    text = _text(value)
    _require(re.fullmatch("[A-Z0-9_]{1,16}", text) is not None)
    return text


def one_of(*choices: str) -> ValueKind:
    """Accept one of a few words."""

    def parse(value: object) -> str:
        if value in choices:
            return str(value)
        raise ValueError(did_you_mean(value, choices))

    *first, last = (f'"{choice}"' for choice in choices)
    return ValueKind(f"{', '.join(first)} or {last}", parse, {"enum": list(choices)})


def list_of(kind: ValueKind, what: str, *, least: int = 0) -> ValueKind:
    """Accept a list whose items are all of one kind, `what` in words."""

    def parse(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError(f"; write [{format_value(value)}]" if isinstance(value, str) else "")
        _require(len(value) >= least)
        return read_parts(enumerate(value), lambda _, item: kind.read(item))

    return ValueKind(f"a list of {what}", parse, {"type": "array", "items": kind.schema, "minItems": least})


def _conditions(value: object) -> dict[str, Any]:
    """The conditions of a route or a hold, as TOML has them; each can be compiled."""
    if not isinstance(value, dict):
        raise ValueError
    if value:
        from edge.config.conditions import compile_condition  # noqa: PLC0415 - the dictionary is slow to import

        read_parts(value.items(), compile_condition)
    return value


def list_of_words(*choices: str) -> ValueKind:
    """Accept a list of some of a few words."""
    return list_of(one_of(*choices), f"{', '.join(choices[:-1])} or {choices[-1]}", least=1)


_PRIORITY_WORD = one_of(*(priority.name.lower() for priority in Priority))

_STRING = {"type": "string"}
_AE = {"type": "string", "minLength": 1, "maxLength": 16}

BANNER = ValueKind(f"text of at most {MAX_BANNER} characters, in several lines where it needs them", _banner, _STRING)
TEXT = ValueKind("text in quotes", _quoted_text, _STRING)
PATH = ValueKind("a path in quotes, absolute or relative to the configuration's directory", _path, _STRING)
AE_TITLE = ValueKind("an AE title of 1 to 16 characters without backslash", _ae_title, _AE)
AE_TITLE_LIST = list_of(AE_TITLE, "AE titles")
AE_GLOB = ValueKind('an AE title of 1 to 16 characters without backslash, or a pattern such as "CT*"', _ae_glob, _AE)
HOST = ValueKind("a host name or an address", _host, _STRING)
HOST_NAMES = list_of(HOST, "host names")
NETWORK = ValueKind('an address or a network such as "10.10.4.0/24"', _network, _STRING)
NETWORKS = list_of(NETWORK, "addresses or networks")
PORT = ValueKind("a port from 1 to 65535", _port, {"type": "integer", "minimum": 1, "maximum": 65535})
COUNT = ValueKind("a whole number from 1", _count, {"type": "integer", "minimum": 1})
FRACTION = ValueKind(
    "a fraction above 0 and at most 1", _fraction, {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
)
DURATION = ValueKind(
    'a duration such as "30s", "15m", "12h", "30d" or "2w"',
    _quantity(_SECONDS),
    {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?[smhdw]$"},
)
YES_NO = ValueKind("true or false", _yes_no, {"type": "boolean"})
CERTIFICATE = ValueKind(
    'a name or pattern such as "ct1.example.org" or "*.example.org", or "sha256:..."', _certificate, _STRING
)
UID = ValueKind("a UID: at most 64 digits and dots", _uid, {"type": "string", "pattern": "^[0-9.]{1,64}$"})
SOME_NETWORKS = list_of(NETWORK, "at least one address or network", least=1)
CHARSET = ValueKind('a character set such as "8859/1", "UNICODE UTF-8" or "ISO IR87"', _charset, _STRING)
MESSAGE_TYPES = list_of(ValueKind('an HL7 message type such as "ADT"', _message_type, _STRING), "HL7 message types")
REGEX = ValueKind("a regular expression in quotes", _regex, _STRING)
MODALITY_CODES = list_of(ValueKind('a Modality such as "ES"', _code, _STRING), "values of Modality")
UIDS = list_of(UID, "Study Instance UIDs")
EMAIL = ValueKind('an e-mail address such as "edge@example.org"', _email, _STRING)
EMAILS = list_of(EMAIL, "at least one e-mail address", least=1)
URL = ValueKind("an address that begins with https:// (http:// only to this machine)", _url, _STRING)
CONSOLE_URL = ValueKind('an address that begins with https:// or http://, or ""', _console_url, _STRING)
FILE = ValueKind("a path in quotes, absolute or relative to the configuration's directory", _secret, _STRING)
SECRET = ValueKind("the path of a file that holds the secret, or the name of a systemd credential", _secret, _STRING)
SERVICE_URL = ValueKind("an address that begins with https:// or http://", _service_url, _STRING)
ORIGINS = list_of(ValueKind('an origin such as "https://viewer.example.org", or "*"', _origin, _STRING), "origins")
OAUTH = ValueKind("a table with token_url, client and secret", _oauth, {"type": "object"})
SECRET_OR_NONE = ValueKind(SECRET.expected, lambda value: _secret(value) if value != "" else "", _STRING)
PROJECT = ValueKind('1 to 16 letters, digits and "-"', _project, _STRING)
#: Options of PS3.15 annex E, as a site names them.
RETAIN_OPTIONS = (
    "dates",
    "modified-dates",
    "uids",
    "device",
    "institution",
    "patient-characteristics",
    "safe-private",
)
CLEAN_OPTIONS = ("descriptors", "structured-content", "graphics")
RETAINED = list_of(one_of(*RETAIN_OPTIONS), f"{', '.join(RETAIN_OPTIONS)}")
CLEANED = list_of(one_of(*CLEAN_OPTIONS), f"{', '.join(CLEAN_OPTIONS)}")
GLOBS = list_of(TEXT, 'kinds of alert or patterns such as "storage-*"')
TABLE_NAME = ValueKind("the name of a table", _text, _STRING)
TABLE_NAMES = list_of(TABLE_NAME, "names of tables")
DESTINATIONS = list_of(TEXT, "at least one destination", least=1)
#: Those of a modality that the gateway has, and those that it accepts and does not have yet.
SERVED, NOT_SERVED = ("echo", "store", "commit", "query", "retrieve", "worklist", "mpps"), ("admin",)
#: Open only where there is a [query] table: an upgrade opens nothing.
QUERY_SERVICES = frozenset({"query", "retrieve"})
SERVICE_NAMES = list_of(one_of(*SERVED, *NOT_SERVED), f"services of {', '.join(SERVED + NOT_SERVED)}")
WORKLIST_PARTS = list_of(one_of("own", "today"), 'words of "own", "today"')
ROLE = one_of("none", "viewer", "operator", "admin")
HEADER = ValueKind('the name of an HTTP header such as "X-Remote-User", or ""', _header, _STRING)
PRIORITY = ValueKind(
    _PRIORITY_WORD.expected, lambda value: Priority[_PRIORITY_WORD.parse(value).upper()], _PRIORITY_WORD.schema
)
SEVERITY = one_of(*ALERT_SEVERITIES)
WORKING_DAYS = list_of(one_of("mon", "tue", "wed", "thu", "fri", "sat", "sun"), 'days such as "mon"')
DATES = list_of(ValueKind('a day such as "2026-12-25", or "12-25" for every year', _date, _STRING), "days")
MOMENT = ValueKind('a date and time in quotes such as "2026-12-05 22:00", in local time', _moment, _STRING)
TIME_OR_NEVER = ValueKind('a time of day such as "09:00", or "never"', _time_of_day, _STRING)
TIME_ZONE = ValueKind('a time zone such as "America/Chicago"', _time_zone, _STRING)
WHEN = ValueKind('a table of conditions such as { Modality = "CT" }', _conditions, {"type": "object"})
TERM = ValueKind('a duration such as "4h", or "5 business days"', _term, _STRING)
