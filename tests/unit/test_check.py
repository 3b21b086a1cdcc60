"""`edge check` warns of what is legal but strange, and is silent where nothing is."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge.cli import cli
from edge.config import load_config
from edge.config.sections import Config
from edge.errors import ConfigError
from edge.monitor.config_warnings import ASSUMED_DAILY_BYTES, globs_meet, warnings
from edge.monitor.exposure_warnings import secret_warnings
from tests.support.certificates import Authority

SAMPLE = Path(__file__).parent.parent.parent / "conf.d"
GB = 10**9

ROOMY = (1000 * GB, 900 * GB)

SITE = '[site]\nid = "1"\ndata_dir = "data"\n'
CT1 = '[modality.ct1]\nae_title = "CT1"\nhosts = ["10.0.0.1"]\n'
ARCHIVE = '[destination.archive]\nae_title = "VNA"\nhost = "10.0.0.9"\nport = 104\n'
ROUTE = '[route.all]\nto = ["archive"]\n'
PLAIN = SITE + CT1 + ARCHIVE + ROUTE

Configure = Callable[[str], Config]


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    def write(text: str) -> Config:
        (tmp_path / "a.toml").write_text(text)
        return load_config(tmp_path)

    return write


def test_nothing_strange(configure: Configure) -> None:
    assert warnings(configure(PLAIN), {"CT1"}, ROOMY, GB) == []


def test_nothing_known_beyond_the_files(configure: Configure) -> None:
    assert warnings(configure(PLAIN)) == []


def test_the_sample_is_not_strange() -> None:
    assert warnings(load_config(SAMPLE), {"STORESCU"}, ROOMY) == []


# Routes


@pytest.mark.parametrize(
    "when",
    [
        'CallingAETitle = "CT2"',
        'CallingAETitle = ["MR*", "CT"]',
        'CallingAETitle = "ct1"',
        "CallingAETitle = { not = 'CT*' }",
        "CallingAETitle = { not = ['CT1', 'MR'] }",
        "CallingAETitle = { regex = 'C' }",
        "CallingAETitle = { present = false }",
        'RemoteAddress = "10.0.1.*"',
        'RemoteAddress = "10.0.1.0/24"',
        'CallingAETitle = "CT1", RemoteAddress = "10.0.0.2"',
    ],
)
def test_a_route_that_no_caller_reaches(configure: Configure, when: str) -> None:
    (warning,) = warnings(configure(PLAIN + f"when = {{ {when} }}"))
    fact = when.split(maxsplit=1)[0]
    assert warning.startswith(f"a.toml:13: route.all.when.{fact}: no [modality] meets this")


@pytest.mark.parametrize(
    "when",
    [
        'CallingAETitle = "CT*", RemoteAddress = "10.0.*", CalledAETitle = "OTHER"',
        'CallingAETitle = ["MR1", "CT?"]',
        "CallingAETitle = { not = 'MR*' }",
        "CallingAETitle = { regex = 'CT.' }",
        'RemoteAddress = ["10.0.0.0/16", "10.9.9.9"]',
        "CallingAETitle = { present = true }",
        "Modality = 'MR'",
    ],
)
def test_a_route_that_a_caller_may_reach(configure: Configure, when: str) -> None:
    assert warnings(configure(PLAIN + f"when = {{ {when} }}")) == []


@pytest.mark.parametrize(
    ("condition", "reachable"),
    [
        ('"CT*"', True),
        ('["M*", "*T1"]', True),
        ("{ not = 'CT*' }", True),
        ('"[AB]*"', True),
        ('"M*"', False),
        ('["M*", "A*"]', False),
    ],
)
def test_a_modality_named_by_a_pattern(configure: Configure, condition: str, reachable: bool) -> None:
    plain = PLAIN.replace('"CT1"', '"C*"').replace("10.0.0.1", "10.0.0.0/24")
    found = warnings(configure(plain + f'when = {{ CallingAETitle = {condition}, RemoteAddress = "10.0.0.7" }}'))
    assert [": no [modality] meets this" in warning for warning in found] == ([] if reachable else [True])


def test_where_strangers_are_accepted_every_caller_reaches(configure: Configure) -> None:
    listen = '\n[listen]\nunknown = "accept"'
    assert warnings(configure(PLAIN + 'when = { CallingAETitle = "CT2" }' + listen)) == []


def test_a_condition_that_nothing_meets_is_an_error_with_its_line(configure: Configure) -> None:
    with pytest.raises(ConfigError, match=r"^a\.toml:13: route\.all\.when\.SeriesNumber: "):
        configure(PLAIN + "when.SeriesNumber = { from = 10, to = 9 }")


def test_no_route_and_nobody_who_may_send(configure: Configure) -> None:
    assert warnings(configure(SITE + '[listen]\nunknown = "refuse"')) == [
        'a.toml:5: listen.unknown: nobody can send: name the equipment in [modality.NAME], or set it to "accept"',
        "route: there is none, so everything received is held; add a [route.NAME]",
    ]


def words(letters: str, longest: int) -> list[str]:
    return ["".join(word) for length in range(longest + 1) for word in product(letters, repeat=length)]


def test_two_globs_meet_exactly_if_some_text_matches_both() -> None:
    matched = {glob: {text for text in words("ab", 6) if fnmatchcase(text, glob)} for glob in words("ab*?", 3)}
    for (a, texts), (b, others) in product(matched.items(), repeat=2):
        assert globs_meet(a, b) == (not texts.isdisjoint(others)), (a, b)


# Peers


def test_a_destination_that_no_route_uses(configure: Configure) -> None:
    other = ARCHIVE.replace("archive", "spare").replace("VNA", "SPARE")
    assert warnings(configure(PLAIN + other)) == [
        "a.toml:13: destination.spare: no route sends there; name it in the `to` of a [route], or remove it"
    ]


@pytest.mark.parametrize(
    ("listen", "host", "port", "ourselves"),
    [
        ("0.0.0.0", "127.0.0.1", 11112, True),
        ("0.0.0.0", "localhost", 11112, True),
        ("::", "::1", 11112, True),
        ("127.0.0.1", "localhost", 11112, True),
        ("10.0.0.5", "10.0.0.5", 11112, True),
        ("10.0.0.5", "127.0.0.1", 11112, False),
        ("0.0.0.0", "127.0.0.1", 11113, False),
        ("0.0.0.0", "10.0.0.9", 11112, False),
    ],
)
def test_a_destination_that_is_the_gateway(
    configure: Configure, listen: str, host: str, port: int, ourselves: bool
) -> None:
    text = PLAIN.replace("10.0.0.9", host).replace("104", str(port)) + f'[listen]\nhost = "{listen}"'
    expected = "a.toml:9: destination.archive.host: this is the gateway itself: what it sends returns to it;"
    assert [warning.startswith(expected) for warning in warnings(configure(text))] == [True] * ourselves


@pytest.mark.parametrize(
    ("title", "seen", "silent"),
    [
        ("CT1", {"MR1"}, True),
        ("CT1", {"CT1"}, False),
        ("CT1", {"ct1"}, False),
        ("CT*", {"CT7"}, False),
        ("CT?", set(), True),
    ],
)
def test_a_modality_that_has_never_sent(configure: Configure, title: str, seen: set[str], silent: bool) -> None:
    found = warnings(configure(PLAIN.replace("CT1", title)), seen)
    expected = f'a.toml:4: modality.ct1: has never sent; compare AE title "{title}" and address with the equipment,'
    assert [warning.startswith(expected) for warning in found] == [True] * silent


@pytest.mark.parametrize(
    ("services", "callers", "warned"),
    [
        ('"echo", "store", "worklist"', {"CT1"}, ""),
        ('"echo", "store", "worklist"', set(), "has never sent"),
        ('"echo", "store"', {"CT1"}, "has never sent"),
        ('"echo", "worklist"', set(), "has never called"),
        ('"echo"', {"ct1"}, ""),
    ],
)
def test_equipment_that_only_asks_has_called(
    configure: Configure, services: str, callers: set[str], warned: str
) -> None:
    text = PLAIN.replace('ae_title = "CT1"', f'ae_title = "CT1"\nservices = [{services}]')
    found = [each for each in warnings(configure(text), set(), callers=callers) if "has never" in each]
    assert [f"modality.ct1: {warned}" in each for each in found] == ([True] if warned else [])


# The disk


def test_a_file_system_too_small_for_a_day(configure: Configure) -> None:
    config = configure(PLAIN)
    (assumed,) = warnings(config, None, (GB // 5, GB // 5))
    assert assumed.startswith(
        "a.toml:3: site.data_dir: the file system takes 190 MB up to storage.refuse,"
        " traffic is 10 GB a day (assumed, nothing is measured yet);"
    )
    (measured,) = warnings(config, None, (10 * GB, 10 * GB), 9.6 * GB)
    assert "takes 9.5 GB up to storage.refuse, traffic is 9.6 GB a day (measured)" in measured


def test_keep_that_does_not_fit(configure: Configure) -> None:
    config = configure(PLAIN + '[retention]\nkeep = "10d"')
    assert warnings(config, None, (100 * GB, 100 * GB)) == [
        "a.toml:14: retention.keep: 10 days at 10 GB a day (assumed, nothing is measured yet) need 100 GB,"
        " the file system takes 95 GB up to storage.refuse; shorten it, or choose a larger file system"
    ]
    assert warnings(config, None, (106 * GB, 106 * GB)) == []
    assert warnings(config, None, (100 * GB, 100 * GB), 9 * GB) == []
    assert ASSUMED_DAILY_BYTES == 10 * GB


def test_a_file_system_that_is_full_already(configure: Configure) -> None:
    (warning,) = warnings(configure(PLAIN), None, (1000 * GB, 50 * GB), GB)
    assert warning.startswith(
        "a.toml:3: site.data_dir: the file system is above storage.refuse, so nothing is accepted"
    )


def test_a_configuration_made_by_hand_has_no_lines(configure: Configure) -> None:
    config = configure(PLAIN)
    config.lines.clear()
    assert warnings(config, set())[0].startswith("modality.ct1: has never sent")


def test_faults_of_shape_and_of_comparison_are_named_together(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(
        '[site]\nid = "1"\ndata_dir = "d"\n[listen]\nprt = 1\n[destination.a]\nae_title = "A"\nhost = "a"\nport = 1\n'
        '[route.r]\nto = ["a"]\nwhen = { RemoteAddress = "10.0.0.0/99", SliceThickness = { from = 3, to = 1 } }\n'
    )
    with pytest.raises(ConfigError) as found:
        load_config(tmp_path)
    assert [problem.partition(" ")[0] for problem in found.value.problems] == [
        "site.toml:5:",
        "site.toml:12:",
        "site.toml:12:",
    ]


# The console


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('host = "10.0.0.5"\n', True),
        ('host = "0.0.0.0"\n', True),
        ('host = "0.0.0.0"\nproxies = ["10.0.0.6"]\n', False),
        ('host = "localhost"\n', False),
    ],
)
def test_a_console_in_clear(configure: Configure, lines: str, told: bool) -> None:
    found = warnings(configure(f"{PLAIN}[console]\n{lines}"))
    assert any("console.host: passwords and patient data cross the network in clear" in each for each in found) == told


# Keys


def test_a_heartbeat_key_that_the_centre_would_refuse_is_strange(tmp_path: Path) -> None:
    key = tmp_path / "heartbeat.key"
    key.touch(mode=0o600)
    (tmp_path / "a.toml").write_text(PLAIN + '[heartbeat]\nurl = "https://c.example.org/h"\nkey = "heartbeat.key"\n')
    for content, is_strange in ((b"short", True), (b"\0" * 32, True), (b"0123456789abcdef", False)):
        key.write_bytes(content)
        done = CliRunner().invoke(cli, ["--config", str(tmp_path), "check"])
        assert done.exit_code == 0, done.output
        assert ("heartbeat.key is no key" in " ".join(done.output.split())) == is_strange


def test_a_modality_may_have_a_way_back_and_services_that_are_to_come(configure: Configure) -> None:
    config = configure(
        '[site]\nid = "1"\ndata_dir = "d"\n[modality.ct1]\nae_title = "CT1"\nhost = "10.0.0.7"\n'
        'port = 104\ncommit = "archive"\n'
        'services = ["echo", "store", "commit", "query", "retrieve", "worklist", "mpps", "admin"]\n'
    )
    modality = config.modalities["ct1"]
    assert (modality.host, modality.port, modality.commit) == ("10.0.0.7", 104, "archive")
    said = " ".join(line for line in warnings(config) if "has no effect yet" in line)
    assert "query and retrieve has no effect yet" in said
    assert "admin has no effect yet" in said


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            '[route.odd]\nto = ["archive"]\nwhen = { Modality = "ct" }',
            '"ct" matches nothing: Modality is a code in upper case',
        ),
        ('[modality.all]\nae_title = "*"', "anybody on the network can send under any AE title"),
        ('[modality.all]\nae_title = "X"\nhosts = ["0.0.0.0/0"]', "0.0.0.0/0 is every address"),
        (
            '[email.x]\nhost = "mail"\nsender = "a@b.org"\nto = ["c@d.org"]\nsecurity = "none"',
            "notices cross the network in clear",
        ),
        ('[maintenance.x]\nfrom = "2020-01-01 10:00"\nto = "2020-01-01 11:00"\nreason = "x"', "it is over"),
    ],
)
def test_what_is_probably_not_meant(configure: Configure, more: str, expected: str) -> None:
    assert any(expected in each for each in warnings(configure(f"{PLAIN}\n{more}"))), warnings(
        configure(f"{PLAIN}\n{more}")
    )


def test_a_secret_in_clear_is_warned_of(configure: Configure, tmp_path: Path) -> None:
    mail = '[email.x]\nhost = "mail"\nsender = "a@b.org"\nto = ["c@d.org"]\nuser = "u"\npassword = "{}"'
    config = configure(f"{PLAIN}\n{mail.format('Tr0ub4dor&3!')}")
    assert "this looks like the secret itself" in secret_warnings(config, tmp_path)[0]
    assert secret_warnings(configure(f"{PLAIN}\n{mail.format('mail.password')}"), tmp_path) == []


def test_an_address_that_two_feeds_name_is_of_the_smaller_network(configure: Configure) -> None:
    feeds = '[hl7]\nport = 2575\n[feed.his]\nhosts = ["10.10.0.0/16"]\nauthority = "A"\n'
    feeds += '[feed.ris]\nhosts = ["10.10.9.5"]\nauthority = "B"\n'
    (found,) = [each for each in warnings(configure(PLAIN + feeds)) if "feed" in each]
    assert found.endswith("10.10.9.5/32 is in 10.10.0.0/16 of feed his: what comes from there is of ris")


def test_the_consoles_certificate_files_are_opened(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    good, old = authority.issue("here"), authority.issue("old", days=-1)
    crl = authority.revoke()
    folder = tmp_path / "conf.d"
    folder.mkdir()

    def said(certificate: Path, key: Path, ca: Path) -> str:
        files = f'certificate = "{certificate}"\nkey = "{key}"\nclient_ca = "{ca}"\nclient_crl = "{crl}"\n'
        (folder / "a.toml").write_text(f"{PLAIN}[console]\n{files}")
        done = CliRunner().invoke(cli, ["check", "--config", str(folder)])
        assert done.exit_code == 0, done.output
        return done.output

    assert "console." not in said(good.certificate, good.key, authority.ca)
    assert "has expired" in said(old.certificate, old.key, authority.ca)
    assert "cannot be used" in said(good.certificate, old.key, authority.ca)
    assert "cannot be used" in said(good.certificate, good.key, tmp_path / "nowhere.pem")
