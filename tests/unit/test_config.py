"""The configuration: every typo is named with file and line, all of a directory at once; what is right is read."""

from __future__ import annotations

import dataclasses
import datetime as dt
import difflib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.config import kinds, load_config
from edge.config.files import Key, locate
from edge.config.sections import (
    NAMED_SECTIONS,
    SINGLE_SECTIONS,
    Config,
    ConsoleSection,
    Listen,
    RetentionSection,
    StorageSection,
)
from edge.config.tables import field_of, keys, required_keys
from edge.config.values import Unfit, ValueKind
from edge.errors import ConfigError
from edge.model import Priority

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SAMPLE = Path(__file__).parent.parent.parent / "conf.d"

#: A whole configuration by table; a test replaces the tables it is about.
GOOD = {
    "site": 'id = "0067"\ndata_dir = "data"',
    "tls": 'certificate = "edge.pem"\nkey = "edge.key"\nca = "ca.pem"',
    "modality.ct1": 'ae_title = "CT1"',
    "destination.archive": 'ae_title = "VNA"\nhost = "vna.example.org"\nport = 104',
    "route.everything": 'to = ["archive"]',
    "dicomweb": "port = 8043",
    "client.viewer": 'token = "viewer-token"',
    "hold.teaching": 'studies = ["1.2.3"]',
    "drop.sensor": 'path = "/srv/sensor"',
    "feed.his": 'hosts = ["10.10.9.5"]',
    "prefetch.chest": 'from = "archive"',
    "relay.archive": 'host = "vna.example.org"\nport = 2575',
    "coerce.site": 'remove = ["PatientComments"]',
    "mask.echo": "areas = [[0, 0, 800, 60]]",
    "retention.mammography": 'keep = "3650d"',
    "alert.destination-down": 'after = "5m"',
    "email.mimso": 'host = "mail.example.org"\nsender = "edge@example.org"\nto = ["mimso@example.org"]',
    "webhook.chat": 'url = "https://chat.example.org/edge"',
    "syslog.log": 'host = "log.example.org"',
    "maintenance.switch": 'from = "2026-12-05 22:00"\nto = "2026-12-06 02:00"\nreason = "new core switch"',
}
SINGLE = [((table,), cls) for table, cls in SINGLE_SECTIONS.items()]
BELOW = {"modality": "ct1", "destination": "archive", "route": "everything", "hold": "teaching", "client": "viewer"}
BELOW |= {"coerce": "site", "mask": "echo", "drop": "sensor", "retention": "mammography"}
BELOW |= {"feed": "his", "relay": "archive", "prefetch": "chest"}
BELOW |= {"alert": "destination-down", "email": "mimso", "webhook": "chat", "syslog": "log", "maintenance": "switch"}
BELOW |= {"alert": "destination-down", "email": "mimso", "webhook": "chat", "syslog": "log"}
ALL = SINGLE + [((table, BELOW[table]), cls) for table, (cls, _) in NAMED_SECTIONS.items()]
EVERY_TABLE = [pytest.param(table, cls, id=".".join(table)) for table, cls in ALL]
EVERY_REQUIRED_KEY = [
    pytest.param(table, key, id=".".join((*table, key))) for table, cls in ALL for key in required_keys(cls)
]


@dataclasses.dataclass
class Directory:
    """A configuration directory under test."""

    path: Path

    def write(self, name: str, text: str) -> None:
        self.path.mkdir(exist_ok=True)
        (self.path / name).write_text(text, encoding="utf-8")

    def write_good(self, **replaced: str) -> None:
        """One file a table; `site` stands in site.toml, `route.everything` in route.everything.toml."""
        for table, text in {**GOOD, **replaced}.items():
            self.write(f"{table}.toml", f"[{table}]\n{text}\n")

    def load(self) -> Config:
        return load_config(self.path)

    def problems(self) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            self.load()
        assert str(caught.value) == "\n".join(caught.value.problems)
        return caught.value.problems

    def problem(self) -> str:
        (problem,) = self.problems()
        return problem


@pytest.fixture
def conf(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "conf.d")


def without(text: str, key: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith(f"{key} ="))


# Typos in keys


@pytest.mark.parametrize("cls", [cls for _, cls in ALL])
def test_every_field_of_every_section_has_its_kind_of_value(cls: type) -> None:
    fields = {field.name for field in dataclasses.fields(cls)}
    assert fields - set(map(field_of, keys(cls))) == (
        {"name"} if cls in [cls for cls, _ in NAMED_SECTIONS.values()] else set()
    )


@pytest.mark.parametrize(("table", "cls"), EVERY_TABLE)
def test_a_misspelt_key_is_named_with_file_line_and_right_spelling(conf: Directory, table: Key, cls: type) -> None:
    name = ".".join(map(str, table))
    conf.write_good(**{name: "\n# a comment\n" + "\n".join(f'{key}{key[-1]} = "x"' for key in keys(cls))})
    expected = [
        f'{name}.toml:{line}: {name}.{key}{key[-1]}: unknown key; did you mean "{key}"?'
        for line, key in enumerate(keys(cls), 4)
    ]
    assert [problem for problem in conf.problems() if "neither" not in problem] == expected


@pytest.mark.parametrize(("table", "cls"), EVERY_TABLE)
def test_a_value_of_the_wrong_type_is_named_with_file_and_line(conf: Directory, table: Key, cls: type) -> None:
    name = ".".join(map(str, table))
    conf.write_good(**{name: "\n".join(f"{key} = 1979-05-27 07:32:00" for key in keys(cls))})
    problems = [problem for problem in conf.problems() if ", found 1979" in problem]
    for line, (key, problem) in enumerate(zip(keys(cls), problems, strict=True), 2):
        named = rf"{re.escape(name)}.toml:{line}: {re.escape(name)}.{key}: expected .+, found 1979-05-27.*"
        assert re.fullmatch(named, problem), problem


@pytest.mark.parametrize(("table", "key"), EVERY_REQUIRED_KEY)
def test_a_missing_key_is_named_at_its_table(conf: Directory, table: Key, key: str) -> None:
    name = ".".join(map(str, table))
    conf.write_good(**{name: without(GOOD[name], key)})
    assert conf.problem().startswith(f"{name}.toml:1: {name}.{key}: missing; expected ")


def test_what_is_spelt_right_is_compared_with_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As every key and table is, with each command."""
    monkeypatch.setattr(difflib, "get_close_matches", lambda *_, **__: pytest.fail("compared"))
    load_config(SAMPLE)


def test_required_keys() -> None:
    assert {".".join((table[0], key)) for table, cls in ALL for key in required_keys(cls)} == {
        "site.id",
        "site.data_dir",
        "modality.ae_title",
        "mask.areas",
        "route.to",
        "retention.keep",
        "drop.path",
        "email.host",
        "email.sender",
        "email.to",
        "webhook.url",
        "feed.hosts",
        "relay.host",
        "relay.port",
        "syslog.host",
        "maintenance.from",
        "maintenance.to",
        "maintenance.reason",
        "prefetch.from",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('host = "h"\nport = 1', "ae_title: missing"),
        ('ae_title = "A"\nport = 1', "host: missing"),
        ('ae_title = "A"\nhost = "h"', "port: missing"),
        ('ae_title = "A"\nhost = "h"\nport = 1\nurl = "https://h"', "url: only a destination with kind"),
        ('kind = "dicomweb"', "url: missing"),
        ('kind = "dicomweb"\nurl = "https://h/dicom-web"\nport = 1', "port: only a destination with kind"),
        ('kind = "dicomweb"\nurl = "https://h"\nconfirm = "commitment"', "confirm: expected"),
        ('kind = "dicomweb"\nurl = "http://h"\ntoken = "t"', "url: expected https://"),
        ('kind = "dicomweb"\nurl = "https://h"\nclient_key = "k"', "client_certificate: expected"),
        ('kind = "dicomweb"\nurl = "https://h"\noauth = { client = "c" }', "oauth: missing: token_url, secret"),
    ],
)
def test_each_kind_of_destination_has_its_keys(conf: Directory, text: str, expected: str) -> None:
    conf.write_good(**{"destination.archive": text})
    assert f"destination.archive.{expected}" in conf.problem()


def test_a_web_destination_proves_by_query_and_has_its_host_from_the_url(conf: Directory) -> None:
    conf.write_good(**{"destination.archive": 'kind = "dicomweb"\nurl = "https://h.example.org/dicom-web/"'})
    found = conf.load().destinations["archive"]
    assert (found.confirm, found.host, found.port, found.url) == (
        "query",
        "h.example.org",
        443,
        "https://h.example.org/dicom-web",
    )


def test_all_typos_of_a_directory_are_named_at_once(conf: Directory) -> None:
    for table, cls in ALL:
        name = ".".join(map(str, table))
        lines = [f"[{name}]", *(f'{key}{key[-1]} = "x"' for key in keys(cls))]
        conf.write(f"{name}.toml", "\n".join(lines))
    found = [problem for problem in conf.problems() if "neither" not in problem]
    assert sorted(found) == sorted(
        f'{name}.toml:{line}: {name}.{key}{key[-1]}: unknown key; did you mean "{key}"?'
        for name, cls in ((".".join(map(str, table)), cls) for table, cls in ALL)
        for line, key in enumerate(keys(cls), 2)
    )


@pytest.mark.parametrize("table", [*SINGLE_SECTIONS, *NAMED_SECTIONS])
def test_a_misspelt_table_is_named_and_its_keys_are_checked_too(conf: Directory, table: str) -> None:
    conf.write_good()
    heading = f"{table}{table[-1]}" + (".other" if table in NAMED_SECTIONS else "")
    conf.write("zz.toml", f"\n[{heading}]\nqqqq = 1\n")
    assert f'zz.toml:2: {table}{table[-1]}: unknown table; did you mean "{table}"?' in conf.problems()
    assert any(problem.startswith(f"zz.toml:3: {heading}.qqqq: unknown key; expected") for problem in conf.problems())


def test_a_misspelt_table_of_destinations_makes_no_route_wrong(conf: Directory) -> None:
    conf.write_good(**{"destination.archive": ""})
    (conf.path / "destination.archive.toml").write_text(f"[destinations.archive]\n{GOOD['destination.archive']}")
    assert conf.problem() == 'destination.archive.toml:1: destinations: unknown table; did you mean "destination"?'


def test_keys_and_lists_where_tables_belong(conf: Directory) -> None:
    conf.write_good()
    conf.write("00.toml", 'ae_title = "X"\nconsole = 3\nmodality.ae_title = "CT1"\n[[hold]]\nstudies = []\n')
    (conf.path / "hold.teaching.toml").unlink()
    assert [problem.partition("; expected one")[0] for problem in conf.problems()] == [
        "00.toml:1: ae_title: unknown key outside any table",
        "00.toml:2: console: expected a table [console], found 3",
        '00.toml:3: modality.ae_title: expected a table [modality.NAME], found "CT1"',
        "00.toml:4: hold: expected tables [hold.NAME], found a list",
    ]


@pytest.mark.parametrize(
    ("table", "text", "fault"),
    [
        ("storge", "warn = 0.99", "storage.refuse: expected warn below refuse"),
        ("listn", "port = 8042", "console.port: expected different ports for listen and console"),
    ],
)
def test_a_misspelt_table_that_contradicts_a_default_is_named(
    conf: Directory, table: str, text: str, fault: str
) -> None:
    conf.write_good()
    conf.write("zz.toml", f"[{table}]\n{text}\n")
    assert any(f"{table}: unknown table" in problem for problem in conf.problems())
    assert any(fault in problem for problem in conf.problems())


# Values

#: What some function of the standard library refuses with an exception of its own.
STRANGE: list[Any] = [
    *("", ".", "..", "/", "~", "*", "[", "(", "\\", "\u202e", "a" * 5000, "9" * 5000, f"{'9' * 500}d", "99999999999d"),
    *(
        "0001-01-01T00:00+14:00",
        "9999-12-31T23:59-14:00",
        "0000-00-00",
        "1e9d",
        "a{99999999999}",
        "(" * 5000,
        "{0}",
        "%s",
    ),
    *("https://[", "https://x:99999", "https://x:y", "::/129", "1.2.3.4/33", "sha256:", "America", "../UTC"),
    *(True, -1, 2**64, 10**400, -0.0, float("inf"), float("nan"), dt.date(1, 1, 1), dt.time(1)),
    *(dt.datetime(1, 1, 1, tzinfo=dt.timezone.utc), [], {}),
]
#: What a `when` and a `set` may name, and what only a `when` may: elsewhere it is a typo whatever its value, and is
#: compared with all attributes.
ATTRIBUTES, FACT = ("PatientName", "Rows"), "RemoteAddress"


def test_no_value_is_too_strange_to_be_named() -> None:
    listed = [*STRANGE, *([each] for each in STRANGE if len(str(each)) < 100)]
    tables = [{name: each} for name in ATTRIBUTES for each in STRANGE]
    forms = [{form: each} for form in ("regex", "from") for each in STRANGE]
    when = [{name: form} for name in (*ATTRIBUTES, FACT) for form in forms] + [{FACT: each} for each in STRANGE]
    every = {id(kind): (key, kind) for _, cls in ALL for key, kind in keys(cls).items()}  # many keys share one
    for key, kind in every.values():
        for each in (*listed, *tables, *(when if key == "when" else ())):
            try:
                found = kind.read(each)
            except Unfit:
                continue
            assert found not in (float("inf"), float("nan"))


def test_a_number_of_thousands_of_digits_is_a_fault_of_its_file(conf: Directory) -> None:
    conf.write_good(listen=f"port = {'1' * 5000}")
    assert conf.problem() == "listen.toml: a number has too many digits"


@pytest.mark.parametrize(
    ("kind", "given_", "expected"),
    [
        (kinds.TEXT, "0067", "0067"),
        (kinds.AE_TITLE, " EDGE ", "EDGE"),
        (kinds.AE_TITLE, "A234567890123456", "A234567890123456"),
        (kinds.AE_GLOB, "*", "*"),
        (kinds.AE_GLOB, "CT[0-9][0-9]_ROOM_[12345]*", "CT[0-9][0-9]_ROOM_[12345]*"),
        (kinds.HOST, "vna.example.org", "vna.example.org"),
        (kinds.HOST, "PACS_01", "PACS_01"),
        (kinds.HOST, "10.20.0.9", "10.20.0.9"),
        (kinds.HOST, "fe80::1", "fe80::1"),
        (kinds.NETWORK, "10.10.4.21", "10.10.4.21"),
        (kinds.NETWORK, "10.10.4.0/24", "10.10.4.0/24"),
        (kinds.NETWORK, "2001:0db8::/32", "2001:0db8::/32"),
        (kinds.PORT, 1, 1),
        (kinds.PORT, 65535, 65535),
        (kinds.COUNT, 1, 1),
        (kinds.PATH, ".", Path()),
        (kinds.FRACTION, 1, 1.0),
        (kinds.FRACTION, 0.5, 0.5),
        (kinds.DURATION, "0s", 0.0),
        (kinds.DURATION, "30s", 30.0),
        (kinds.DURATION, "15m", 900.0),
        (kinds.DURATION, "12h", 43_200.0),
        (kinds.DURATION, "30d", 2_592_000.0),
        (kinds.DURATION, "2w", 1_209_600.0),
        (kinds.DURATION, "1.5 h", 5_400.0),
        (kinds.UID, "1.2.840.10008", "1.2.840.10008"),
        (kinds.PRIORITY, "stat", Priority.STAT),
        (kinds.PRIORITY, "routine", Priority.ROUTINE),
        (kinds.UIDS, [], ()),
        (kinds.DESTINATIONS, ["a", "b"], ("a", "b")),
    ],
)
def test_right_values(kind: ValueKind, given_: object, expected: object) -> None:
    assert kind.read(given_) == expected


@pytest.mark.parametrize(
    ("kind", "given_", "fault"),
    [
        (kinds.TEXT, "", 'expected text in quotes, found ""'),
        (kinds.TEXT, "a\nb", r'expected text in quotes, found "a\nb"'),
        (kinds.TEXT, 67, 'found 67; write "67"'),
        (kinds.TEXT, True, "found true"),
        (kinds.AE_TITLE, "A2345678901234567", "expected an AE title of 1 to 16 characters"),
        (kinds.AE_TITLE, "   ", "expected an AE title"),
        (kinds.AE_TITLE, "CT\\1", "expected an AE title"),
        (kinds.AE_TITLE, "RÖ", 'found "RÖ"'),
        (kinds.AE_GLOB, "A2345678901234567*", "expected an AE title"),
        (kinds.HOST, "10.20.0.999", 'expected a host name or an address, found "10.20.0.999"'),
        (kinds.HOST, "vna:104", "expected a host name"),
        (kinds.HOST, "http://vna", "expected a host name"),
        (kinds.HOST, "vna example", "expected a host name"),
        (kinds.NETWORK, "10.10.4.21/24", '; did you mean "10.10.4.0/24"?'),
        (kinds.NETWORK, "ct1.example.org", "expected an address or a network"),
        (kinds.NETWORK, 10, "expected an address or a network"),
        (kinds.PORT, "abc", 'expected a port from 1 to 65535, found "abc"'),
        (kinds.PORT, "104", 'found "104"; write it without quotes'),
        (kinds.PORT, 0, "found 0"),
        (kinds.PORT, 65536, "found 65536"),
        (kinds.PORT, 104.0, "found 104.0"),
        (kinds.PORT, True, "found true"),
        (kinds.COUNT, 0, "expected a whole number from 1, found 0"),
        (kinds.COUNT, 10**30, "; at most 1000000000"),
        (kinds.FRACTION, 0, "expected a fraction above 0 and at most 1, found 0"),
        (kinds.FRACTION, 95, "found 95"),
        (kinds.FRACTION, float("nan"), "found NaN"),
        (kinds.DURATION, 30, "found 30"),
        (kinds.DURATION, "30", 'found "30"'),
        (kinds.DURATION, "-1d", 'found "-1d"'),
        (kinds.DURATION, "30 days", 'expected a duration such as "30s"'),
        (kinds.DURATION, "36501d", '; at most "36500d"'),
        (kinds.DURATION, f"{'9' * 400}s", '; at most "36500d"'),
        (kinds.PERIOD, "0s", "expected a duration above 0"),
        (kinds.TERM, "9999 business days", 'expected a duration such as "4h"'),
        (kinds.MOMENT, "0001-01-01 00:00", "; a year from 1970 to 9998"),
        (kinds.MOMENT, "0001-01-01T00:00+14:00", "expected a date and time"),
        (kinds.REGEX, "a{99999999999}", "the repetition number is too large"),
        (kinds.REGEX, "(" * 5000, ": "),
        (kinds.UID, "1.2.", "expected a UID"),
        (kinds.UID, "1" * 65, "expected a UID"),
        (kinds.PATH, "~/edge", "the home directory is not looked up"),
        (kinds.one_of("commitment", "query", "status"), "comitment", '; did you mean "commitment"?'),
        (kinds.PRIORITY, "STAT", '; did you mean "stat"?'),
        (kinds.PRIORITY, [1], 'expected "stat", "urgent" or "routine", found a list'),
        (kinds.DESTINATIONS, "archive", 'found "archive"; write ["archive"]'),
        (kinds.DESTINATIONS, [], "expected a list of at least one destination, found an empty list"),
    ],
)
def test_wrong_values(kind: ValueKind, given_: object, fault: str) -> None:
    with pytest.raises(Unfit, match=re.escape(fault)):
        kind.read(given_)


def test_an_item_of_a_list_is_named_with_its_own_line(conf: Directory) -> None:
    hosts = 'hosts = [  # "]"\n  "10.0.0.1", "10.0.0.2",\n  "10.0.0.300",\n\n  "10.0.0.7/24" ]'
    conf.write_good(**{"modality.ct1": f'{hosts}\nae_title = "CT1"'})
    expected = 'modality.ct1.hosts: expected an address or a network such as "10.10.4.0/24", found'
    assert conf.problems() == [
        f'modality.ct1.toml:4: {expected} "10.0.0.300"',
        f'modality.ct1.toml:6: {expected} "10.0.0.7/24"; did you mean "10.0.0.0/24"?',
    ]


@pytest.mark.parametrize("name", ['""', '"CT 1"', '"-x"', '"a/b"'])
def test_wrong_names_of_tables(conf: Directory, name: str) -> None:
    conf.write_good()
    conf.write("zz.toml", f'[modality.{name}]\nae_title = "CT2"\n')
    assert re.fullmatch(r"zz.toml:1: modality\.\S*.*: expected a name of letters, digits, .*, found .*", conf.problem())


# Conditions


@pytest.mark.parametrize(
    "when",
    [
        {},
        {"Modality": "CT", "CallingAETitle": "DENT*", "CalledAETitle": "EDGE", "RemoteAddress": "10.*"},
        {"Modality": ["IO", "PX"], "SeriesNumber": 3, "SliceThickness": 0.625, "InstanceNumber": [1, 2.5, "3"]},
        {"StudyDescription": {"regex": "(?i)^head"}, "ReceivedAt": {"from": "08:00", "to": "18:00"}},
        {"SeriesNumber": {"from": 100}, "StudyDate": {"to": "20251231"}},
        {"AccessionNumber": {"present": True}, "RequestAttributesSequence": {"present": False}},
        {"Modality": {"not": ["CT", "MR"]}, "PatientID": {"not": {"regex": "^TEST"}}, "LUTData": {"present": True}},
        {"ReferencedStudySequence": {"not": {"present": True}}, "Manufacturer": ["GE*", {"regex": "S.*"}]},
    ],
)
def test_right_conditions(when: dict[str, Any]) -> None:
    assert kinds.WHEN.read(when) == when


@pytest.mark.parametrize(
    ("when", "key", "fault"),
    [
        ({"Modalty": "CT"}, ("Modalty",), 'not a DICOM keyword; did you mean "Modality"?'),
        ({"modality": "CT"}, ("modality",), 'did you mean "Modality"?'),
        ({"CallingAE": "CT"}, ("CallingAE",), 'did you mean "CallingAETitle"?'),
        ({"qqqq": "CT"}, ("qqqq",), "expected one of the data dictionary"),
        ({"PixelData": {"present": True}}, ("PixelData",), "above the pixel data"),
        ({"MediaStorageSOPClassUID": "1.2"}, ("MediaStorageSOPClassUID",), "above the pixel data"),
        ({"AffectedSOPClassUID": "1.2"}, ("AffectedSOPClassUID",), "above the pixel data"),
        ({"RequestAttributesSequence": "x"}, ("RequestAttributesSequence",), "{ present = true }"),
        ({"Modality": True}, ("Modality",), "found true"),
        ({"Modality": dt.date(2026, 1, 1)}, ("Modality",), "found 2026-01-01"),
        ({"Modality": []}, ("Modality",), "found an empty list"),
        ({"Modality": ["CT", False]}, ("Modality", 1), "found false"),
        ({"Modality": {}}, ("Modality",), "exactly one of not, regex, from/to or present, found none"),
        ({"Modality": {"not": "CT", "from": "A"}}, ("Modality",), "found not and from"),
        ({"Modality": {"nott": "CT"}}, ("Modality", "nott"), 'unknown condition; did you mean "not"?'),
        ({"Modality": {"qqqq": "CT"}}, ("Modality", "qqqq"), "expected not, regex, from, to or present"),
        ({"Modality": {"regex": "C["}}, ("Modality", "regex"), 'found "C[": unterminated character set'),
        ({"Modality": {"regex": 3}}, ("Modality", "regex"), "expected a regular expression in quotes, found 3"),
        ({"Modality": {"present": "yes"}}, ("Modality", "present"), 'expected true or false, found "yes"'),
        ({"Modality": {"from": ["A"]}}, ("Modality", "from"), "found a list"),
        ({"Modality": {"not": {"regx": "C"}}}, ("Modality", "not", "regx"), 'did you mean "regex"?'),
        ({"Modality": {"not": [True]}}, ("Modality", "not", 0), "found true"),
    ],
)
def test_wrong_conditions(when: dict[str, Any], key: Key, fault: str) -> None:
    with pytest.raises(Unfit) as unfit:
        kinds.WHEN.read(when)
    ((found, text),) = unfit.value.faults
    assert found == key
    assert fault in text


def test_conditions_of_routes_and_holds_are_named_with_their_lines(conf: Directory) -> None:
    conf.write_good(
        **{
            "route.everything": 'to = ["archive"]\nwhen.Modality.regex = "["\nwhen.StudyDat = "2026*"',
            "dicomweb": "port = 8043",
            "client.viewer": 'token = "viewer-token"',
            "hold.teaching": "when = { Modalty = 'CT' }",
        }
    )
    assert [problem.split(": ")[:2] for problem in conf.problems()] == [
        ["hold.teaching.toml:2", "hold.teaching.when.Modalty"],
        ["route.everything.toml:3", "route.everything.when.Modality.regex"],
        ["route.everything.toml:4", "route.everything.when.StudyDat"],
    ]


# What no section can see alone


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        (
            {"route.everything": 'to = [\n"archiv"]'},
            'route.everything.toml:3: route.everything.to: unknown destination "archiv"; did you mean "archive"?',
        ),
        (
            {"mask.echo": 'areas = [[0, 0, 8, 8]]\nto = ["archiv"]'},
            'mask.echo.toml:3: mask.echo.to: unknown destination "archiv"; did you mean "archive"?',
        ),
        (
            {"worklist": 'from = "archiv"'},
            'worklist.toml:2: worklist.from: unknown destination "archiv"; did you mean "archive"?',
        ),
        (
            {"iocm": 'senders = ["ct1", "ct9"]'},
            'iocm.toml:2: iocm.senders: unknown modality "ct9"; did you mean "ct1"?',
        ),
        (
            {"console": 'client_ca = "ca.pem"'},
            "console.toml:2: console.client_ca: expected certificate as well, found client_ca alone",
        ),
        (
            {"heartbeat": 'client_key = "site.key"'},
            "heartbeat.toml:2: heartbeat.client_key: expected certificate as well, found client_key alone",
        ),
        (
            {"modality.ct2": 'hosts = ["10.0.0.1"]\nae_title = "CT1"'},
            "modality.ct2.toml:3: modality.ct2.ae_title: same AE title and address as modality.ct1"
            " (modality.ct1.toml:2)",
        ),
        (
            {"destination.vna": 'port = 104\nhost = "vna.example.org"\nae_title = "VNA"'},
            "destination.vna.toml:4: destination.vna.ae_title: same AE title, host and port as destination.archive"
            " (destination.archive.toml:2)",
        ),
        (
            {"storage": "refuse = 0.7"},
            "storage.toml:2: storage.refuse: expected warn below refuse, found warn = 0.8 and refuse = 0.7",
        ),
        (
            {"storage": "warn = 0.95"},
            "storage.toml:2: storage.warn: expected warn below refuse, found warn = 0.95 and refuse = 0.95",
        ),
        (
            {"console": "\nport = 11112"},
            "console.toml:3: console.port: expected different ports for listen and console, found 11112 for both",
        ),
        (
            {"hl7": "port = 2575\ntls_port = 2575"},
            "hl7.toml:3: hl7.tls_port: expected different ports for hl7.port and hl7.tls_port, found 2575 for both",
        ),
        (
            {"hl7": "\n\ntls_port = 8043", "dicomweb": "port = 8043"},
            "hl7.toml:4: hl7.tls_port: expected different ports for dicomweb and hl7, found 8043 for both",
        ),
        ({"hold.teaching": ""}, "hold.teaching.toml:1: hold.teaching: expected studies or when, found neither"),
    ],
)
def test_what_does_not_go_together(conf: Directory, tables: dict[str, str], problem: str) -> None:
    conf.write_good(**tables)
    assert conf.problem() == problem


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("modality.ct1", "certificate", '"ct1.example.org"\nae_title = "CT1"'),
        ("hl7", "tls_port", "2575"),
        ("feed.his", "certificate", '"his.example.org"\nhosts = ["10.0.0.9"]'),
        ("relay.archive", "tls", 'true\nhost = "vna.example.org"\nport = 2575'),
    ],
)
def test_what_needs_tls_says_so_where_there_is_none(conf: Directory, table: str, key: str, value: str) -> None:
    conf.write_good(**{table: f"{key} = {value}"})
    (conf.path / "tls.toml").unlink(missing_ok=True)
    assert conf.problem() == f"{table}.toml:2: {table}.{key}: needs TLS, but there is no [tls] table"


@pytest.mark.parametrize(
    "tables",
    [
        {
            "modality.ct1": 'ae_title = "X"\nhosts = ["10.0.0.1"]',
            "modality.b": 'ae_title = "X"\nhosts = ["10.0.1.0/24"]',
        },
        {"modality.b": 'ae_title = "CT*"'},  # a pattern beside a name
        {"destination.b": 'ae_title = "VNA"\nhost = "vna.example.org"\nport = 105'},
        {"listen": 'host = "10.0.0.1"', "console": "port = 11112"},
        {"storage": "warn = 0.9\nrefuse = 1"},
    ],
)
def test_what_does_go_together(conf: Directory, tables: dict[str, str]) -> None:
    conf.write_good(**tables)
    conf.load()


def test_faults_within_sections_do_not_hide_those_across(conf: Directory) -> None:
    conf.write_good(**{"route.everything": 'to = ["archiv"]\npriority = "high"'})
    assert [problem.split(": ")[1] for problem in conf.problems()] == [
        "route.everything.to",
        "route.everything.priority",
    ]


# Files


def test_tables_merge_in_name_order(conf: Directory) -> None:
    conf.write("20.toml", '[modality.b]\nae_title = "B"\n[destination.archive]\nport = 104\n[listen]\nport = 104')
    conf.write("10.toml", '[site]\nid = "1"\n[modality.a]\nae_title = "A"\n[destination.archive]\nhost = "h"')
    conf.write("30.toml", '[site]\ndata_dir = "d"\n[destination.archive]\nae_title = "VNA"')
    config = conf.load()
    assert (config.listen.port, config.destinations["archive"].port, config.site.id) == (104, 104, "1")
    assert list(config.modalities) == ["a", "b"]
    assert config.lines["destination.archive.port"] == "20.toml:4"
    assert config.lines["destination.archive"] == "10.toml:5"


def test_a_key_set_twice_names_both_files(conf: Directory) -> None:
    conf.write_good(listen="port = 104")
    conf.write("zz.toml", '# more\n[listen]\nhost = "::"\nport = 105\n[site.id]\nx = 1')
    assert conf.problems() == [
        "zz.toml:4: listen.port: already set in listen.toml:2",
        "zz.toml:5: site.id: already set in site.toml:2",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[listen]\nport = 1\n\nport = 2\n", "zz.toml:4: listen.port: already set in zz.toml:2"),
        ("[listen]\nport = 1\n[console]\n[listen]\n", "zz.toml:4: listen: already set in zz.toml:1"),
        ("listen = { port = 1, port = 2 }\n", "zz.toml:1: listen.port: already set in zz.toml:1"),
    ],
)
def test_a_key_set_twice_in_one_file(conf: Directory, text: str, problem: str) -> None:
    conf.write_good()
    conf.write("zz.toml", text)
    assert conf.problem() == problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"[listen]\nport 104\n", 'zz.toml:2: not TOML: there is no "=" between key and value; write port = 104'),
        (b"[listen\nport = 104\n", 'zz.toml:1: not TOML: the name of a table ends with "]"; write [listen]'),
        (b"[listen]\nae_title = EDGE\n", 'zz.toml:2: not TOML: text needs quotes; write ae_title = "EDGE"'),
        (b'[listen]\n\nae_title = """EDGE', "zz.toml:3: not TOML: unterminated string before the end of the file"),
        (b'[listen]\n\nae_title = "R\xd6"', "zz.toml:3: not UTF-8 text; save the file as UTF-8"),
        (b"x = " + b"[" * 5000, "zz.toml: nested too deeply to be a configuration"),
    ],
)
def test_a_broken_file_hides_no_other_and_no_more_is_held_against_it(
    conf: Directory, text: bytes, problem: str
) -> None:
    conf.write_good(**{"route.everything": 'to = ["teleread"]\npriority = "high"'})  # teleread may stand in zz.toml
    (conf.path / "site.toml").unlink()
    (conf.path / "zz.toml").write_bytes(text)
    priority, broken = conf.problems()
    assert "route.everything.priority" in priority
    assert broken == problem


def test_a_file_that_cannot_be_read(conf: Directory) -> None:
    conf.write_good()
    (conf.path / "zz.toml").mkdir()
    assert conf.problem() == "zz.toml: cannot be read: Is a directory"


def test_hidden_and_other_files_are_passed_over(conf: Directory) -> None:
    conf.write_good()
    for name in (".#site.toml", ".site.toml.swp", "site.toml~", "site.toml.dpkg-old", "README"):
        conf.write(name, "nonsense")
    conf.load()


def test_line_ends_and_byte_order_mark_of_windows(conf: Directory) -> None:
    conf.write_good()
    (conf.path / "zz.toml").write_bytes(b'\xef\xbb\xbf[listen]\r\nhost = """\\\r\n  ::"""\r\nprt = 1\r\n')
    assert conf.problem() == 'zz.toml:4: listen.prt: unknown key; did you mean "port"?'


def test_no_directory(tmp_path: Path) -> None:
    missing, file, empty = tmp_path / "none", tmp_path / "file", tmp_path / "empty"
    file.touch()
    empty.mkdir()
    assert Directory(missing).problem() == f"{missing}: No such file or directory; expected a directory of *.toml files"
    assert Directory(file).problem() == f"{file}: Not a directory; expected a directory of *.toml files"
    assert "no *.toml file here; `edge init` writes the first ones" in Directory(empty).problem()


def test_a_missing_table_is_named_with_the_directory(conf: Directory) -> None:
    conf.write("a.toml", "")
    assert [problem.partition(": missing")[0] for problem in conf.problems()] == [
        f"{conf.path}: site.id",
        f"{conf.path}: site.data_dir",
    ]


# Where keys stand


ODD = '''\
top."a.b".'c d' = 1          # comment with = and "quotes
[ table . "quoted \\u00e4" ]
key = """
[not.a.table]
key = 1
"""
other = \'\'\'
'' ]
\'\'\'\'\'
tail = ["""a"""", "]",
  1, \'\'\'b\'\'\'\', ']',
  2]
[table.next]
list = [ [1, 2], # ]
  { in = "}", "li ne" = [
    "x" ] },

  1979-05-27 07:32:00, 3.14 ]
a.b.c = { d.e = 1, f = { g = "#" } }
last = 'it"s'
[[many]]
one = 1
[[many]]
one = 2'''
ODD_LINES = {
    ("top", "a.b", "c d"): 1,
    ("table", "quoted ä"): 2,
    ("table", "quoted ä", "key"): 3,
    ("table", "quoted ä", "other"): 7,
    ("table", "quoted ä", "tail"): 10,
    ("table", "quoted ä", "tail", 2): 11,
    ("table", "quoted ä", "tail", 5): 12,
    ("table", "next"): 13,
    ("table", "next", "list"): 14,
    ("table", "next", "list", 0): 14,
    ("table", "next", "list", 0, 1): 14,
    ("table", "next", "list", 1): 15,
    ("table", "next", "list", 1, "in"): 15,
    ("table", "next", "list", 1, "li ne"): 15,
    ("table", "next", "list", 1, "li ne", 0): 16,
    ("table", "next", "list", 2): 18,
    ("table", "next", "list", 3): 18,
    ("table", "next", "a", "b", "c"): 19,
    ("table", "next", "a", "b", "c", "d", "e"): 19,
    ("table", "next", "a", "b", "c", "f", "g"): 19,
    ("table", "next", "last"): 20,
    ("many",): 21,
}


def test_lines_of_an_odd_layout() -> None:
    tomllib.loads(ODD)
    found = locate(ODD)
    assert {key: found[key][0] for key in ODD_LINES} == ODD_LINES
    assert found["table",] == [2]


_BARE = st.text("ab-_1", min_size=1, max_size=3)
_ANY_TEXT = st.text(st.sampled_from("a\"'#[]{}=,.\\ \täß"), max_size=6)
_QUOTED = _ANY_TEXT.map(lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"')
_NAMES = st.lists(_BARE | _QUOTED, min_size=1, max_size=3)
_SCALARS = _QUOTED | st.sampled_from(
    ["1", "-2.5e3", "true", "'''\n]\n'''", '"""a\n"b" = [\n"""', '""""a"""""', '""', "1979-05-27 07:32:00"]
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: "[ # ]\n" + ",\n\n".join(items) + "]")
        | st.lists(inner, max_size=3).map(lambda items: "{" + ", ".join(f"k{n}={x}" for n, x in enumerate(items)) + "}")
    ),
    max_leaves=4,
)
_STATEMENTS = st.lists(st.tuples(_NAMES, st.none() | _VALUES, st.sampled_from(["", "\n", "# x = [\n"])), max_size=8)


@settings(max_examples=200, deadline=None)
@given(_STATEMENTS)
def test_lines_of_any_layout(statements: list[tuple[list[str], str | None, str]]) -> None:
    lines: dict[Key, list[int]] = {}
    text = ""
    table: Key = ()
    for names, value, before in statements:
        text += before
        name = tuple(next(iter(tomllib.loads(f"{part}=1"))) for part in names)
        table, key = (name, name) if value is None else (table, table + name)
        lines.setdefault(key, []).append(text.count("\n") + 1)
        text += f"[ {' . '.join(names)} ]\n" if value is None else f"{'.'.join(names)} = {value} # end\n"
    found = locate(text)
    assert {key: found[key] for key in lines} == lines


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("a1\"'#[]{}=,.\\ \t\n"), max_size=40))
def test_the_locator_ends_on_any_text_and_knows_every_key_of_toml(text: str) -> None:
    found = locate(text)
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert set(paths(tables, ())) <= found.keys()


def paths(value: object, key: Key) -> Iterator[Key]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*key, name)
            yield from paths(inner, (*key, name))


# What comes out


def test_a_whole_configuration(conf: Directory) -> None:
    conf.write_good(
        **{
            "site": 'id = "0067"\nname = "Example"\ndata_dir = "/var/lib/edge"',
            "listen": 'unknown = "accept"\nconflicts = "forward"\nae_title = "GATE"\nhost = "::"\nport = 104',
            "modality.ct1": 'ae_title = "CT*"\nhosts = ["10.10.4.21", "10.10.5.0/24"]',
            "destination.archive": 'ae_title = "VNA"\nhost = "h"\nport = 1\nconfirm = "query"\nassociations = 4',
            "route.everything": 'to = ["archive"]\npriority = "urgent"\nwhen = { Modality = ["IO", "PX"] }',
            "retention": 'keep = "2w"',
        }
    )
    config = conf.load()
    assert (config.site.name, config.site.data_dir) == ("Example", Path("/var/lib/edge"))
    assert config.listen == Listen("GATE", "::", 104, "accept", "forward")
    assert config.modalities["ct1"].hosts == ("10.10.4.21", "10.10.5.0/24")
    assert config.destinations["archive"].associations == 4
    assert config.routes["everything"].priority is Priority.URGENT
    assert config.routes["everything"].when == {"Modality": ["IO", "PX"]}
    assert config.holds["teaching"].studies == ("1.2.3",)
    assert config.retention.keep == 14 * 86400
    assert (config.storage, config.console) == (StorageSection(), ConsoleSection())


def test_a_relative_data_dir_begins_at_the_configuration(conf: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    conf.write_good(site='id = "1"\ndata_dir = "../data"')
    monkeypatch.chdir("/")
    assert conf.load().site.data_dir == conf.path.parent / "data"
    monkeypatch.chdir(conf.path.parent)
    assert load_config(Path(conf.path.name)).site.data_dir == conf.path.parent / "data"


def test_an_omitted_name_is_the_id(conf: Directory) -> None:
    conf.write_good()
    assert conf.load().site.name == "0067"


def test_where_a_key_stands_makes_no_configuration_different(conf: Directory) -> None:
    conf.write_good()
    before = conf.load()
    conf.write("site.toml", f"# moved\n[site]\n{GOOD['site']}")
    assert conf.load() == before


# The sample


@pytest.mark.parametrize(
    ("written", "read"),
    [("2026-12-25", "2026-12-25"), ("12-25", "12-25"), ("02-29", "02-29"), (dt.date(2026, 12, 25), "2026-12-25")],
)
def test_a_day_off_is_kept_as_it_is_compared(written: object, read: str) -> None:
    assert kinds.DATES.read([written]) == (read,)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 reads one form of a date")
@pytest.mark.parametrize(("written", "read"), [("20261225", "2026-12-25"), ("2026-W52-5", "2026-12-25")])
def test_a_day_off_in_another_form_of_iso_8601_is_that_day(written: str, read: str) -> None:
    assert kinds.DATES.read([written]) == (read,)


def test_the_sample_runs_as_it_is() -> None:
    config = load_config(SAMPLE)
    assert config.site.data_dir == SAMPLE.parent / ".edge"
    assert (config.listen.ae_title, config.listen.port) == ("EDGE", 11112)
    archive = config.destinations["archive"]
    assert (archive.ae_title, archive.host, archive.port, archive.confirm) == ("ARCHIVE", "127.0.0.1", 11113, "status")
    assert [(route.to, route.when) for route in config.routes.values()] == [(("archive",), {})]


def test_the_sample_shows_every_key_and_its_default(conf: Directory) -> None:
    text = "\n".join(path.read_text() for path in sorted(SAMPLE.glob("*.toml")))
    named = [(f"{table}.", cls) for table, (cls, _) in NAMED_SECTIONS.items()]
    for table, cls in [*((f"{table}]", cls) for table, cls in SINGLE_SECTIONS.items()), *named]:
        section = re.search(rf"^(# )?\[{re.escape(table)}.*?(?=^(# )?\[|\Z)", text, re.MULTILINE | re.DOTALL)
        assert section, table
        for key in keys(cls):
            assert re.search(rf"^(# )?{key} = \S+", section[0], re.MULTILINE), f"{table}.{key}"
    shown = re.sub(r"^# (?=\w+ = )", "", (SAMPLE / "10-site.toml").read_text(), flags=re.MULTILINE)
    conf.write("10-site.toml", re.sub(r"^# \[", "[", shown, flags=re.MULTILINE))
    config = conf.load()
    tls = dict.fromkeys(("certificate", "key", "client_ca", "client_crl", "client_ocsp"))
    console = dataclasses.replace(config.console, **tls)
    assert (config.listen, config.storage, config.retention, console) == (
        Listen(),
        StorageSection(),
        RetentionSection(),
        ConsoleSection(),
    )
