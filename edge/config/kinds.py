"""The kinds of value that a configuration may hold: in words, by its parser (edge.config.parsers), and as JSON Schema.

edge.config.values says what a kind is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge.config import parsers
from edge.config.alarms import ALERT_SEVERITIES
from edge.config.values import ValueKind, did_you_mean, format_value, read_parts, unfit
from edge.model import Priority


@dataclass(frozen=True, slots=True)
class OAuth:
    """Where tokens are asked for with our own credentials (RFC 6749 section 4.4)."""

    token_url: str
    client: str
    secret: str  # a file, or the name of a credential
    scope: str = ""


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
        parsers.require(len(value) >= least)
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
_COUNT = {"type": "integer", "minimum": 1, "maximum": parsers.MOST_COUNT}

BANNER = ValueKind(
    f"text of at most {parsers.MAX_BANNER} characters, in several lines where it needs them",
    parsers.parse_banner,
    _STRING,
)
TEXT = ValueKind("text in quotes", parsers.parse_quoted_text, _STRING)
PATH = ValueKind("a path in quotes, absolute or relative to the configuration's directory", parsers.parse_path, _STRING)
AE_TITLE = ValueKind("an AE title of 1 to 16 characters without backslash", parsers.parse_ae_title, _AE)
AE_TITLE_LIST = list_of(AE_TITLE, "AE titles")
AE_GLOB = ValueKind(
    'an AE title of 1 to 16 characters without backslash, or a pattern such as "CT*"', parsers.parse_ae_glob, _AE
)
HOST = ValueKind("a host name or an address", parsers.parse_host, _STRING)
HOST_NAMES = list_of(HOST, "host names")
NETWORK = ValueKind('an address or a network such as "10.10.4.0/24"', parsers.parse_network, _STRING)
NETWORKS = list_of(NETWORK, "addresses or networks")
PORT = ValueKind("a port from 1 to 65535", parsers.parse_port, {"type": "integer", "minimum": 1, "maximum": 65535})
COUNT = ValueKind("a whole number from 1", parsers.parse_count, _COUNT)
FRACTION = ValueKind(
    "a fraction above 0 and at most 1", parsers.parse_fraction, {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
)
DURATION = ValueKind(
    'a duration such as "30s", "15m", "12h", "30d" or "2w"',
    parsers.parse_duration,
    {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?[smhdw]$"},
)
PERIOD = ValueKind('a duration above 0 such as "30s", "15m" or "12h"', parsers.parse_period, DURATION.schema)
YES_NO = ValueKind("true or false", parsers.parse_yes_no, {"type": "boolean"})
CERTIFICATE = ValueKind(
    'a name or pattern such as "ct1.example.org" or "*.example.org", or "sha256:..."',
    parsers.parse_certificate,
    _STRING,
)
UID = ValueKind("a UID: at most 64 digits and dots", parsers.parse_uid, {"type": "string", "pattern": "^[0-9.]{1,64}$"})
SOME_NETWORKS = list_of(NETWORK, "at least one address or network", least=1)
CHARSET = ValueKind('a character set such as "8859/1", "UNICODE UTF-8" or "ISO IR87"', parsers.parse_charset, _STRING)
MESSAGE_TYPES = list_of(
    ValueKind('an HL7 message type such as "ADT"', parsers.parse_message_type, _STRING), "HL7 message types"
)
REGEX = ValueKind("a regular expression in quotes", parsers.parse_regex, _STRING)
MODALITY_CODES = list_of(ValueKind('a Modality such as "ES"', parsers.parse_code, _STRING), "values of Modality")
UIDS = list_of(UID, "Study Instance UIDs")
EMAIL = ValueKind('an e-mail address such as "edge@example.org"', parsers.parse_email, _STRING)
EMAILS = list_of(EMAIL, "at least one e-mail address", least=1)
URL = ValueKind("an address that begins with https:// (http:// only to this machine)", parsers.parse_url, _STRING)
CONSOLE_URL = ValueKind('an address that begins with https:// or http://, or ""', parsers.parse_console_url, _STRING)
FILE = ValueKind(
    "a path in quotes, absolute or relative to the configuration's directory", parsers.parse_secret, _STRING
)
SECRET = ValueKind(
    "the path of a file that holds the secret, or the name of a systemd credential", parsers.parse_secret, _STRING
)
SERVICE_URL = ValueKind("an address that begins with https:// or http://", parsers.parse_service_url, _STRING)
ORIGINS = list_of(
    ValueKind('an origin such as "https://viewer.example.org", or "*"', parsers.parse_origin, _STRING), "origins"
)
OAUTH = ValueKind("a table with token_url, client and secret", _oauth, {"type": "object"})
SECRET_OR_NONE = ValueKind(SECRET.expected, lambda value: parsers.parse_secret(value) if value != "" else "", _STRING)
PROJECT = ValueKind('1 to 16 letters, digits and "-"', parsers.parse_project, _STRING)
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
TABLE_NAME = ValueKind("the name of a table", parsers.parse_text, _STRING)
TABLE_NAMES = list_of(TABLE_NAME, "names of tables")
DESTINATIONS = list_of(TEXT, "at least one destination", least=1)
#: Those of a modality that the gateway has, and those that it accepts and does not have yet.
SERVED, NOT_SERVED = ("echo", "store", "commit", "query", "retrieve", "worklist", "mpps"), ("admin",)
#: Open only where there is a [query] table: an upgrade opens nothing.
QUERY_SERVICES = frozenset({"query", "retrieve"})
SERVICE_NAMES = list_of(one_of(*SERVED, *NOT_SERVED), f"services of {', '.join(SERVED + NOT_SERVED)}")
WORKLIST_PARTS = list_of(one_of("own", "today"), 'words of "own", "today"')
ROLE = one_of("none", "viewer", "operator", "admin")
HEADER = ValueKind('the name of an HTTP header such as "X-Remote-User", or ""', parsers.parse_header, _STRING)
PRIORITY = ValueKind(
    _PRIORITY_WORD.expected, lambda value: Priority[_PRIORITY_WORD.parse(value).upper()], _PRIORITY_WORD.schema
)
SEVERITY = one_of(*ALERT_SEVERITIES)
WORKING_DAYS = list_of(one_of("mon", "tue", "wed", "thu", "fri", "sat", "sun"), 'days such as "mon"')
DATES = list_of(ValueKind('a day such as "2026-12-25", or "12-25" for every year', parsers.parse_date, _STRING), "days")
MOMENT = ValueKind(
    'a date and time in quotes such as "2026-12-05 22:00", in local time', parsers.parse_date_and_time, _STRING
)
TIME_OR_NEVER = ValueKind('a time of day such as "09:00", or "never"', parsers.parse_time_of_day, _STRING)
TIME_ZONE = ValueKind('a time zone such as "America/Chicago"', parsers.parse_time_zone, _STRING)
WHEN = ValueKind('a table of conditions such as { Modality = "CT" }', _conditions, {"type": "object"})
TERM = ValueKind('a duration such as "4h", or "5 business days"', parsers.parse_term, _STRING)
