"""Parsers of single values of a configuration: each raises ValueError, with a remedy where there is one."""

from __future__ import annotations

import ipaddress
import re
from datetime import date, datetime
from pathlib import Path
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from edge.config.alarms import Term
from edge.config.charset_names import codec_for

MAX_BANNER = 8000
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}  # seconds
#: The longest duration and the greatest number: what is added to them still is a date, and fits into a database.
MOST_DURATION_DAYS, MOST_COUNT = 36500, 10**9
_YEARS = range(1970, 9999)


def require(fits: bool, remedy: str = "") -> None:
    if not fits:
        raise ValueError(remedy)


def parse_text(value: object) -> str:
    if isinstance(value, str) and value.strip() and value.isprintable():
        return value
    raise ValueError


def parse_banner(value: object) -> str:
    """Text of several lines (TOML: three quotes)."""
    require(isinstance(value, str))
    text = str(value).strip()
    require(len(text) <= MAX_BANNER and all(char == "\n" or char.isprintable() for char in text))
    return text


def parse_quoted_text(value: object) -> str:
    require(type(value) is not int, f'; write "{value}"')
    return parse_text(value)


def parse_path(value: object) -> Path:
    path = Path(parse_text(value))
    require(not str(path).startswith("~"), "; the home directory is not looked up here")
    return path


def parse_ae_title(value: object) -> str:
    title = parse_quoted_text(value).strip(" ")  # spaces around it mean nothing (PS3.5 section 6.2, AE)
    require(len(title) <= 16 and title.isascii() and "\\" not in title)
    return title


def parse_ae_glob(value: object) -> str:
    glob = parse_quoted_text(value).strip(" ")
    shortest = re.sub(r"\[!?.[^\]]*\]", "?", glob).replace("*", "")
    require(len(shortest) <= 16 and glob.isascii() and "\\" not in glob)
    return glob


def _address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError from None


def parse_host(value: object) -> str:
    name = parse_text(value)
    if ":" in name or re.fullmatch(r"[0-9.]+", name):  # can only be meant as an address
        return _address(name)
    label = r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?"
    require(len(name) <= 253 and bool(re.fullmatch(rf"{label}(\.{label})*\.?", name)))
    return name


def parse_header(value: object) -> str:
    """RFC 9110 section 5.1: a token."""
    require(isinstance(value, str) and bool(re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]*", value)))
    return str(value)


def parse_network(value: object) -> str:
    text = parse_text(value)
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


def parse_port(value: object) -> int:
    if type(value) is int and 1 <= value <= 65535:
        return value
    raise ValueError("; write it without quotes" if isinstance(value, str) and value.isdigit() else "")


def parse_count(value: object) -> int:
    if type(value) is int and 1 <= value <= MOST_COUNT:
        return value
    raise ValueError(f"; at most {MOST_COUNT}" if type(value) is int and value > MOST_COUNT else "")


def parse_fraction(value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1:
        return float(value)
    raise ValueError


def parse_uid(value: object) -> str:
    uid = parse_text(value)
    require(len(uid) <= 64 and bool(re.fullmatch(r"[0-9]+(\.[0-9]+)*", uid)))
    return uid


def parse_yes_no(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("; write it without quotes" if value in ("true", "false") else "")


def parse_certificate(value: object) -> str:
    text = parse_text(value).strip()
    if not text.lower().startswith("sha256:"):
        return text
    digits = text[7:].replace(":", "").lower()
    require(bool(re.fullmatch(r"[0-9a-f]{64}", digits)), "; SHA-256 has 64 hexadecimal digits")
    return f"sha256:{digits}"


def parse_date(value: object) -> str:
    """`2026-12-25`, or `12-25` for that day of each year."""
    text = value.isoformat() if isinstance(value, date) else parse_text(value)
    is_yearly = len(text) <= len("12-25")
    try:
        found = date.fromisoformat(f"2024-{text}" if is_yearly else text).isoformat()
    except ValueError:
        raise ValueError from None
    return found.removeprefix("2024-") if is_yearly else found


def parse_date_and_time(value: object) -> datetime:
    """Local time of the site, as `2026-12-05 22:00`; one with an offset is that moment (edge.config.maintenance)."""
    try:
        found = datetime.fromisoformat(parse_text(value))
    except ValueError:
        raise ValueError from None
    require(found.year in _YEARS, f"; a year from {_YEARS[0]} to {_YEARS[-1]}")
    return found


def parse_time_of_day(value: object) -> float | None:
    """Seconds since midnight; None for "never"."""
    text = parse_text(value)
    if text == "never":
        return None
    match = re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", text)
    if match is None:
        raise ValueError
    return int(match[1]) * 3600.0 + int(match[2]) * 60.0


def parse_time_zone(value: object) -> str:
    name = parse_text(value)
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError from None
    return name


def parse_duration(value: object) -> float:
    match = re.fullmatch(rf"([0-9]+(?:\.[0-9]+)?) ?({'|'.join(_UNITS)})", parse_text(value))
    if match is None:
        raise ValueError
    seconds = float(match[1]) * _UNITS[match[2]]
    require(seconds <= MOST_DURATION_DAYS * _UNITS["d"], f'; at most "{MOST_DURATION_DAYS}d"')
    return seconds


def parse_period(value: object) -> float:
    seconds = parse_duration(value)
    require(seconds > 0)
    return seconds


def parse_term(value: object) -> Term:
    match = re.fullmatch(r"([1-9][0-9]{0,2}) business days?", parse_text(value))
    return Term(days=int(match[1])) if match else Term(seconds=parse_duration(value))


def parse_email(value: object) -> str:
    address = parse_text(value)
    require(len(address) <= 254 and bool(re.fullmatch(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+", address)))
    return address


def _split_url(text: str, remedy: str) -> SplitResult:
    """The parts of an address of HTTP, without credentials and fragment."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError from None
    require(bool(host) and text.isascii() and " " not in text and not parts.fragment)
    require(parts.username is None, remedy)
    require(parts.scheme in ("https", "http"))
    return parts


def parse_url(value: object) -> str:
    text = parse_text(value)
    parts = _split_url(text, "; a password in it would be seen: use the key")
    require(parts.scheme == "https" or parts.hostname in ("localhost", "127.0.0.1", "::1"))
    return text


def parse_charset(value: object) -> str:
    text = parse_text(value)
    require(codec_for(text) is not None)
    return text


def parse_message_type(value: object) -> str:
    text = parse_text(value)
    require(re.fullmatch("[A-Z][A-Z0-9]{2}", text) is not None)
    return text


def parse_service_url(value: object) -> str:
    """Base of the services: any http is taken here, and warned of (edge.monitor.config_warnings)."""
    text = parse_text(value).rstrip("/")
    require(not _split_url(text, "; a password in it would be seen: use token or oauth").query)
    return text


def parse_origin(value: object) -> str:
    """RFC 6454 section 7: scheme, host, and a port where it is not the scheme's own; or * for any page."""
    text = parse_text(value).rstrip("/")
    require(text == "*" or bool(re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?", text)))
    return text


def parse_console_url(value: object) -> str:
    """The address of pages: people open it, so that it may be plain HTTP, too."""
    if value == "":
        return ""
    text = parse_text(value).rstrip("/")
    _split_url(text, "; a password in it would be seen")
    return text


def parse_secret(value: object) -> str:
    name = parse_text(value)
    require(not name.startswith("~"), "; the home directory is not looked up here")
    return name


def parse_project(value: object) -> str:
    """Part of pseudonyms, which must fit into a Patient ID and a Patient's Name."""
    name = parse_quoted_text(value)
    require(bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,15}", name)))
    return name


def compile_regex(text: str) -> re.Pattern[str]:
    """Raises ValueError, which says what is wrong."""
    try:
        return re.compile(text)
    except (re.error, OverflowError) as error:
        raise ValueError(f": {error}") from None
    except RecursionError:
        raise ValueError(": nested too deeply") from None


def parse_regex(value: object) -> str:
    text = "" if value == "" else parse_text(value)
    compile_regex(text)
    return text


def parse_code(value: object) -> str:
    """A code string (PS3.5 section 6.2, CS)."""
    text = parse_text(value)
    require(re.fullmatch("[A-Z0-9_]{1,16}", text) is not None)
    return text
