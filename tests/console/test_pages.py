"""The console's pages on a real gateway: by HTTP first, then as a person sees them, in Chromium."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from click.testing import CliRunner, Result
from playwright.sync_api import Browser, expect

from edge.cli import cli
from tests.support.browser import chromium, listening
from tests.support.clinic import CANARIES, Clinic, csrf, signed_in
from tests.support.objects import ct_files, object_named
from tests.support.peers import echoscu, http_get, storescu, wait_until
from tests.support.visitor import visitor

PLACES = (
    "/",
    "/studies",
    "/studies/1",
    "/queue",
    "/exceptions",
    "/worklist",
    "/steps",
    "/asked",
    "/commitments",
    "/clients",
    "/configuration",
    "/configuration/history",
    "/maintenance",
    "/equipment",
    "/charts",
    "/report",
    "/links",
    "/help",
    "/dry-run",
    "/accounts",
)


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    with ExitStack() as stack:
        yield Clinic(tmp_path_factory.mktemp("clinic"), stack)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def canaries(text: str) -> list[str]:
    return [canary for canary in CANARIES if canary.lower() in text.lower()]


# -- by HTTP -----------------------------------------------------------------------------------------------------------


def test_without_sign_in_nothing_is_told_of_patients(clinic: Clinic) -> None:
    with visitor(clinic.edge.url("")) as nobody:
        for path in (*PLACES, "/sign-in", "/setup", "/healthz", "/readyz", "/metrics", "/api/status", "/nowhere"):
            answer = nobody.get(path)
            assert not canaries(answer.text), path
            assert "All is well" not in answer.text
        assert nobody.get("/studies/1").url.path == "/sign-in"
    assert not canaries(clinic.edge.log.read_text())


def test_a_viewer_sees_how_it_goes_and_nobodys_name(clinic: Clinic) -> None:
    viewer = clinic.person("viewer")
    for path in (*PLACES, "/studies/1?proof=1", "/queue?state=held"):
        assert not canaries(viewer.get(path).text), path
    assert "All is well" in viewer.get("/").text
    found = viewer.post("/studies/search", data={"csrf": csrf(viewer, "/studies"), "patient_name": "zebra"})
    assert "/studies/1" in found.text  # the field is passed over: whether it is met is not told either
    found = viewer.post("/studies/search", data={"csrf": csrf(viewer, "/studies"), "patient_name": "nobody"})
    assert "/studies/1" in found.text
    decided = viewer.post("/queue/decide", data={"csrf": csrf(viewer, "/queue"), "action": "hold", "reason": "x"})
    assert decided.status_code == 403
    assert not [row for row in clinic.ledger("viewed") if row[0] == "viewer"]


def test_an_operator_finds_patients_and_each_look_is_recorded_once(clinic: Clinic) -> None:
    operator = clinic.person("operator")
    token = csrf(operator, "/studies")
    for asked, there in (
        ({"patient_name": "zebrafink zoe"}, True),
        ({"patient_id": "p00can"}, True),
        ({"accession": "ACC00"}, True),
        ({"modality": "ct", "date_from": "20260101", "date_to": "20260131"}, True),
        ({"patient_name": "zebra", "modality": "MR"}, False),
        ({"date_from": "20260103"}, False),
        ({"patient_name": "'; DROP TABLE study"}, False),
    ):
        answer = operator.post("/studies/search", data={"csrf": token, **asked})
        assert ('href="/studies/1"' in answer.text) == there, asked
        assert not canaries(str(answer.url))  # what is asked for stands in no address
    for path in ("/studies/1", "/studies/1", "/studies/1?proof=1"):
        assert "Zebrafink" in operator.get(path).text
    assert "Proved" in operator.get("/studies/1?proof=1").text
    looks = [row for row in clinic.ledger("viewed") if row[0] == "operator"]
    assert [(who, study) for who, study, _, _ in looks] == [("operator", 1)]
    assert any(row[0] == "operator" for row in clinic.ledger("signed-in"))


def test_a_name_in_an_undeclared_character_set_is_marked_as_a_guess(clinic: Clinic) -> None:
    operator = clinic.person("operator")
    assert 'class="guessed"' not in operator.get("/studies").text
    storescu([object_named(clinic.folder / "undeclared.dcm", "Müller^Jürgen".encode())], clinic.edge.port)
    marked = re.compile(r'Müller Jürgen <small class="guessed" title="[^"]+">guessed</small></a>')
    wait_until(lambda: marked.search(operator.get("/studies").text), 10, "what was answered is in the catalog")
    listed = operator.get("/studies").text
    study = re.findall(r'href="(/studies/\d+)">Müller', listed)[0]
    assert 'Müller Jürgen <small class="guessed"' in operator.get(study).text
    viewer = clinic.person("viewer").get("/studies").text
    assert "Müller" not in viewer
    assert 'class="guessed"' not in viewer


def test_decisions_need_a_reason_and_are_recorded(clinic: Clinic) -> None:
    operator = clinic.person("operator")
    token = csrf(operator, "/queue")
    clinic.archive.stop()
    try:
        clinic.send(3)
        clinic.is_down()
        [number] = [int(each) for each in re.findall(r"Select study (\d+)", operator.get("/queue").text)]

        def decide(action: str, state: str, **more: str) -> str:
            back = f"destination=archive&state={state if state == 'held' else ''}"
            given = {"csrf": token, "pick": str(number), "back": back, "action": action, **more}
            return operator.post("/queue/decide", data=given).text

        assert "Give a reason" in decide("hold", "waiting")
        assert "3 images held" in decide("hold", "waiting", reason="which patient?")
        assert "which patient?" in operator.get("/queue?state=held").text
        assert "3 images made stat" in decide("stat", "held", reason="the ward waits")
        assert "There is no destination" in decide("redirect", "held", reason="x", to="nobody")
        assert "3 images rerouted" in decide("redirect", "held", reason="the archive is away", to="reader")
        wait_until(lambda: len(clinic.reader.files()) == 3, 20, "the reader has them")
        overridden = [(who, to, detail) for who, _, to, detail in clinic.ledger("overridden")]
        assert ("operator", "archive", "priority stat: the ward waits") in overridden
        assert ("operator", "reader", "instead of archive: the archive is away") in overridden
        assert "Nothing was changed" in decide("retry", "held", reason="too late")
    finally:
        clinic.archive.start()


def test_versions_side_by_side(clinic: Clinic) -> None:
    [path] = ct_files(clinic.folder / "first", 1, 16 * 1024, PatientName="Zebrafink^Zoe", StationName="ONE")
    import pydicom

    before = len(clinic.archive.files())
    storescu([path], clinic.edge.port)
    wait_until(lambda: len(clinic.archive.files()) > before, 20, "the first version is at the archive")
    ds = pydicom.dcmread(path)
    ds.StationName, ds.PatientName = "TWO", "Zebrafink^Zacharias"
    ds.save_as(path)
    storescu([path], clinic.edge.port)
    operator, viewer = clinic.person("operator"), clinic.person("viewer")
    [number] = re.findall(r"/exceptions/(\d+)\">Compare", operator.get("/exceptions").text)
    told = operator.get(f"/exceptions/{number}").text
    assert all(word in told for word in ("ONE", "TWO", "Zebrafink^Zacharias", "differs", "Decide about instance"))
    assert re.search(r"archive has since [0-9-]+ [0-9:]+ \S+ instance \d+ under this SOP Instance UID", told)
    masked = viewer.get(f"/exceptions/{number}").text
    assert not canaries(masked)
    assert "TWO" in masked
    assert "differs" in masked
    assert "Decide" not in masked
    token = csrf(operator, f"/exceptions/{number}")
    line = re.findall(r'name="pick" value="(\d+)"', operator.get("/queue?state=held").text)[0]
    for action in ("release", "retry"):
        given = {"csrf": token, "pick": line, "back": "state=held", "action": action, "reason": "all of it"}
        assert "Nothing was changed" in operator.post("/queue/decide", data=given).text
    decide = f"/exceptions/{number}/decide"
    given = {"csrf": token, "action": "release", "reason": ""}
    assert "Say why" in operator.post(decide, data=given).text
    given["reason"] = "the second is right"
    refused = viewer.post(decide, data=given | {"csrf": csrf(viewer, "/queue")})
    assert refused.status_code == 403
    assert f"Instance {number}: released to archive" in operator.post(decide, data=given).text
    who, _, _, detail = clinic.ledger("released")[-1]
    assert (who, detail) == ("operator", "routed to archive: the second is right")
    assert "Nothing was changed" in operator.post(decide, data=given).text


def test_the_configuration_in_force_and_what_differs(clinic: Clinic) -> None:
    viewer = clinic.person("viewer")
    assert "The running configuration matches the files on disk" in viewer.get("/configuration").text
    extra = clinic.edge.config_dir / "20-extra.toml"
    try:
        extra.write_text('[retention]\nkeep = "40d"\n')
        told = viewer.get("/configuration").text
        assert "differ from the running configuration in 1 key" in told
        assert "on disk: 40 d" in told
        extra.write_text('[retention]\nkep = "40d"\n')
        told = viewer.get("/configuration").text
        assert "files on disk contain errors" in told
        assert "20-extra.toml:2: retention.kep: unknown key" in told
    finally:
        extra.unlink()


def test_a_dry_run_says_what_would_have_gone_elsewhere(clinic: Clinic) -> None:
    operator = clinic.person("operator")
    token = csrf(operator, "/dry-run")

    def tried(text: str) -> str:
        return operator.post("/dry-run", data={"csrf": token, "text": text}).text

    same = tried('[route.other-name]\nto = ["archive"]\n')
    assert re.search(r"None of \d+ images would", same)
    told = tried('[route.a]\nto = ["archive"]\n[route.b]\nto = ["reader"]\nwhen = { StationName = "ONE" }\n')
    assert re.search(r"<b>1 of \d+ images would have been sent elsewhere", told)
    assert "archive (routine), reader (routine)" in told
    told = tried('[route.a]\nto = ["arcive"]\n')
    assert "candidate.toml:2: route.a.to: unknown destination &#34;arcive&#34;; did you mean &#34;archive&#34;?" in told
    assert "candidate.toml:1" in tried("[route")
    assert clinic.edge.api_status()["destinations"]["reader"]["sent"] == 3  # nothing was sent


def test_an_alert_is_acknowledged_with_a_note(clinic: Clinic) -> None:
    operator = clinic.person("operator")
    import pydicom

    [path] = ct_files(clinic.folder / "conflict", 1, 16 * 1024)
    storescu([path], clinic.edge.port)
    ds = pydicom.dcmread(path)
    ds.StationName = "OTHER"
    ds.save_as(path)
    storescu([path], clinic.edge.port)

    def conflict() -> dict[str, Any]:
        found = [each for each in clinic.edge.api_status()["alerts"] if each["kind"] == "conflict" and each["id"]]
        return found[0] if found else {}

    number = wait_until(conflict, 20, "the conflict is told")["id"]
    given = {"csrf": csrf(operator, "/"), "id": str(number), "note": "looked at both"}
    assert operator.post("/alerts/acknowledge", data=given).status_code == 200
    wait_until(lambda: not conflict() or conflict()["acknowledged"] == "operator", 20, "somebody looks after it")
    assert operator.post("/alerts/acknowledge", data=given | {"id": "0"}).status_code == 409
    [number] = re.findall(r"/exceptions/(\d+)\">Compare", operator.get("/exceptions").text)
    given = {"csrf": csrf(operator, f"/exceptions/{number}"), "action": "discard", "reason": "made for the test"}
    assert f"Instance {number}: discarded" in operator.post(f"/exceptions/{number}/decide", data=given).text
    assert f"/exceptions/{number}" in operator.get("/exceptions").text  # its file is still kept
    assert clinic.ledger("discarded")[-1][0] == "operator"


def test_accounts_from_the_command(clinic: Clinic) -> None:
    def edge(*args: str) -> Result:
        return CliRunner().invoke(cli, ["console", *args, "--config", str(clinic.edge.config_dir)])

    secret = clinic.folder / "password"
    assert edge("setup").exit_code == 1  # there are accounts
    assert edge("accounts", "add", "carl", "--proxy").exit_code == 0
    assert edge("accounts", "add", "carl", "--proxy").exit_code == 1
    listed = {each["name"]: each for each in json.loads(edge("accounts", "list", "--json").stdout)}
    assert listed["carl"] == {
        "name": "carl",
        "role": "viewer",
        "signs_in": "proxy",
        "state": "active",
        "expires": None,
        "last_sign_in": None,
        "failures": 0,
    }
    assert edge("accounts", "reset", "carl", "--role", "admin", "--password-file", str(secret)).exit_code == 0
    carl = clinic.person("carl")
    assert carl.get("/accounts").status_code == 200
    assert edge("accounts", "disable", "carl").exit_code == 0
    assert carl.get("/accounts").url.path == "/sign-in"
    assert edge("accounts", "enable", "carl", "--expires", "2031-12-31").exit_code == 0
    listed = {each["name"]: each for each in json.loads(edge("accounts", "list", "--json").stdout)}
    assert (listed["carl"]["state"], listed["carl"]["expires"]) == ("active", "2031-12-31")
    assert listed["carl"]["last_sign_in"]
    assert edge("accounts", "enable", "carl", "--expires", "soon").exit_code == 1
    assert edge("accounts", "enable", "nobody").exit_code == 1
    carl = clinic.person("carl")
    assert edge("accounts", "enable", "carl", "--expires", "2001-12-31").exit_code == 0
    assert carl.get("/accounts").url.path == "/sign-in"
    assert edge("accounts", "remove", "carl").exit_code == 0
    assert carl.get("/accounts").url.path == "/sign-in"
    assert edge("accounts", "remove", "carl").exit_code == 1
    secret.chmod(0o644)
    assert "may be read by others" in edge("accounts", "add", "dora", "--password-file", str(secret)).output
    secret.chmod(0o600)
    assert any(detail == "account carl: removed" for _, _, _, detail in clinic.ledger("configured"))


def test_a_crowd_at_the_console_does_not_hurt_the_gateway(clinic: Clinic) -> None:
    crowd = [socket.create_connection(("127.0.0.1", clinic.edge.console_port)) for _ in range(300)]
    try:
        for sock in crowd[::2]:
            with suppress(OSError):  # turned away
                sock.sendall(b"GET / HTTP/1.1\r\nHost: ")
        echoscu(clinic.edge.port)
    finally:
        for sock in crowd:
            sock.close()
    wait_until(lambda: http_get(clinic.edge.url("/healthz"))[0] == 200, 10, "the console answers again")


# -- as a person sees it -----------------------------------------------------------------------------------------------


def test_an_outage_arrives_and_passes_before_ones_eyes(clinic: Clinic, browser: Browser) -> None:
    page = signed_in(browser, clinic, "operator")
    heard = listening(page)
    page.get_by_role("link", name="Overview").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("All is well.")
    clinic.archive.stop()
    try:
        clinic.send(4)
        expect(page.get_by_role("heading", level=1)).to_have_text("Archive does not answer.", timeout=15_000)
        expect(page.locator(".headline")).to_contain_text("4 images for it wait safely")
    finally:
        clinic.archive.start()
    expect(page.get_by_role("heading", level=1)).to_have_text("All is well.", timeout=30_000)
    assert not heard


def test_a_study_is_held_and_released_by_hand(clinic: Clinic, browser: Browser) -> None:
    page = signed_in(browser, clinic, "operator")
    heard = listening(page)
    clinic.archive.stop()
    try:
        clinic.send(2)
        clinic.is_down()
        page.reload()
        page.locator("tbody label").first.click()
        expect(page.locator("[data-count]")).to_have_text("1 selected")
        page.get_by_label("Action").select_option(label="Hold: do not send until released")
        page.get_by_label("Reason", exact=True).fill("the wrong patient?")
        page.get_by_role("button", name="Apply").click()
        expect(page.get_by_role("status")).to_have_text("2 images held.")
    finally:
        clinic.archive.start()
    before = len(clinic.archive.files())
    page.goto(clinic.edge.url("/queue?state=held"))
    page.locator("tbody label").first.click()
    page.get_by_label("Action").select_option(label="Release: send held deliveries")
    page.get_by_label("Reason", exact=True).fill("it was right")
    page.get_by_role("button", name="Apply").click()
    expect(page.get_by_role("status")).to_have_text("2 images released.")
    wait_until(lambda: len(clinic.archive.files()) == before + 2, 30, "the archive has it")
    assert not heard


def test_all_of_it_works_from_the_keyboard_and_without_scripts(clinic: Clinic, browser: Browser) -> None:
    page = signed_in(browser, clinic, "operator", java_script_enabled=False)
    page.goto(clinic.edge.url("/studies"))
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.get_by_label("Patient name").fill("zebra")
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Zebrafink Zoe").first).to_be_visible()
    page.get_by_role("link", name="Zebrafink Zoe").last.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Zebrafink Zoe")
    page.get_by_role("button", name="Sign out").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")  # nothing was kept


def test_the_addresses_of_version_0_1_lead_to_the_pages(clinic: Clinic) -> None:
    with visitor(clinic.edge.url(""), follow_redirects=False) as client:
        for old, new in (("/troubles", "/exceptions"), ("/troubles/7", "/exceptions/7"), ("/rehearsal", "/dry-run")):
            answer = client.get(old)
            assert (answer.status_code, answer.headers["location"]) == (308, new)
