"""Every list of the console sorts, filters by state, pages and remembers, in one way; its command lists the same parts.

One catalog with a hundred rows and more in each list, one Chromium.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from click.testing import CliRunner
from lxml import html
from playwright.sync_api import Browser, expect

from edge.cli import cli
from edge.console import queue
from edge.console.accounts import record_in_ledger
from edge.store import ledger, worklist
from edge.store.database import Transaction
from edge.web.accounts import Account, Accounts, UserRole
from tests.monitor.test_advice import receive_hl7
from tests.support.browser import chromium
from tests.support.clinic import csrf
from tests.support.console_site import HASH, PASSWORD, ConsoleSite, appointment, fill, list_pages
from tests.support.hl7 import order
from tests.support.visitor import visitor

#: Copies of a row, which become rows of a list.
COPIES = 120
COPY = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {COPIES}) INSERT INTO"


@dataclass(frozen=True)
class ListCase:
    """A list: its page, its rows, a value of its filter, columns for all, and those for who sees patient data."""

    path: str
    thing: str
    narrowed: str
    columns: str
    of_patients: str = ""
    name: str = ""

    def address(self, query: str) -> str:
        return f"{self.path}?{f'list={self.name}&' if self.name else ''}{query}"


LISTS = [
    ListCase("/orders", "order", "status=completed", "status procedure scheduled modality", "accession patient"),
    ListCase("/orders", "study", "", "received images", "accession patient", "missing"),
    ListCase("/hl7", "message", "state=applied", "received feed event control state"),
    ListCase("/hl7", "message", "", "received feed event", name="parked"),
    ListCase("/hl7", "message", "", "received relay event state tries", name="relays"),
    ListCase("/worklist", "item", "status=SCHEDULED", "scheduled status modality", "accession patient procedure"),
    ListCase("/worklist", "study", "", "state from images fetched", name="earlier"),
    ListCase("/steps", "step", "state=COMPLETED", "equipment state begun missing", "accession"),
    ListCase("/commitments", "request", "state=reported", "equipment state images failed asked reported"),
    ListCase("/equipment", "device", "state=known", "name title address equipment images last state"),
    ListCase("/asked", "question", "", "caller asked"),
    ListCase("/import", "import", "state=waiting", "source read who state"),
    ListCase("/studies", "study", "", "modality images received", "patient description date accession"),
]
NAMED = [pytest.param(each, id=f"{each.path[1:]}-{each.name}".strip("-")) for each in LISTS]


def multiply(site: ConsoleSite, table: str, where: str = "true", **changed: str) -> None:
    """Copy a row of a table; `changed`: column -> SQL, in which `n.i` is the number of the copy."""
    with site.db.reading() as conn:
        columns = [row[1] for row in conn.execute(f"PRAGMA table_info({table})")]
    values = ", ".join(changed.get(each, "NULL" if each == "id" else f"t.{each}") for each in columns)
    site.execute(f"{COPY} {table} SELECT {values} FROM n, (SELECT * FROM {table} WHERE {where} LIMIT 1) AS t")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleSite]:
    with ConsoleSite(tmp_path_factory.mktemp("site")) as made:
        fill(made)
        crowd(made)
        yield made


def crowd(site: ConsoleSite) -> None:
    """A hundred rows and more in every list."""
    receive_hl7(site, order("M8", "NW", "1003", "T1002"))
    status = "CASE n.i % 2 WHEN 0 THEN 'open' ELSE 'completed' END"
    number = "printf('%04d', (n.i * 37) % 1000)"
    multiply(site, "imaging_order", accession=f"'B' || {number}", status=status, changed_at="t.changed_at - n.i")
    message = {"control_id": f"'C' || {number}", "digest": "randomblob(32)", "received_at": "t.received_at - n.i"}
    multiply(site, "hl7_message", "state = 'applied'", **message)
    multiply(site, "hl7_message", "state = 'parked'", **message)
    held = "CASE n.i % 2 WHEN 0 THEN 'held' ELSE 'waiting' END"
    multiply(site, "hl7_relay", message_id="20 + n.i", tries="n.i % 7", state=held)
    site.execute(f"{COPY} study_facts SELECT 5000 + n.i, t.study_id, t.patient_key, 'E' || n.i, t.study_date,"
                 " t.study_time, t.study_number, t.description, t.referring_physician"
                 " FROM n, (SELECT * FROM study_facts LIMIT 1) AS t")  # fmt: skip
    missing = {"study_facts_id": "5000 + n.i", "result": "'no-order'", "images": "n.i", "settled_at": "NULL"}
    multiply(site, "identity_check", **missing, first_at="t.first_at - n.i")
    items = [appointment(n) for n in range(COPIES)]
    site.db.write(lambda conn: worklist.replace_items(conn, "", items, time.time()))
    site.db.write(_ask)
    multiply(site, "prefetch_study", study_uid="'1.2.9.' || n.i", state="'fetched'", fetched="n.i")
    multiply(site, "performed_step", "state = 'COMPLETED'", sop_instance_uid="'1.2.8.' || n.i", missing="n.i % 9")
    request = {"transaction_uid": "'1.2.7.' || n.i", "state": "'reported'", "reported_at": "t.requested_at + n.i"}
    multiply(site, "commitment_request", **request, failed="n.i % 3", digest="randomblob(32)")
    multiply(site, "peer", "modality = 'ct1'", ae_title="'CT1' || n.i", stored="n.i")
    multiply(site, "import_batch", source="'/media/' || n.i")
    multiply(site, "import_study", batch_id="n.i + 1")
    multiply(site, "study", study_uid="'1.2.6.' || n.i", patient_name=f"'Crowd^' || {number}")


def _ask(conn: Transaction) -> None:
    for n in range(COPIES):
        ledger.append(conn, time.time(), ledger.QUERIED, f"WS{n * 37 % 100}", [], payload={"what": "find"})


@pytest.fixture(scope="module")
def operator(site: ConsoleSite) -> httpx.Client:
    return site.person("operator")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@dataclass(frozen=True)
class SeenList:
    """A list as a page shows it."""

    rows: list[str]
    first: int
    last: int
    total: int
    sorts: set[str]  # the columns by which it may be sorted
    sorted_by: dict[str, str]  # column -> "ascending" or "descending"
    links: dict[str, str]  # "prev" and "next"


def look(client: httpx.Client, case: ListCase, address: str) -> SeenList:
    """Read a list from its page; of several on a page that whose pager bears its name."""
    answer = client.get(address)
    assert answer.status_code == 200, address
    label = f"Pages of the list {case.name}".strip()
    document = html.fromstring(answer.text)
    (pager,) = document.xpath(f"//nav[@aria-label='{label}']")
    (table,) = pager.xpath("preceding-sibling::div[1]/table")
    counts = re.search(rf"([\d,]+) to ([\d,]+) of ([\d,]+) {case.thing[:-1]}", pager.text_content())
    assert counts, pager.text_content()
    first, last, total = (int(each.replace(",", "")) for each in counts.groups())
    heads = {
        parse_qs(urlsplit(link.get("href")).query)["sort"][0]: link.getparent().get("aria-sort")
        for link in table.xpath("thead//a[@class='sort']")
    }
    return SeenList(
        [" ".join(each.text_content().split()) for each in table.xpath("tbody/tr")],
        first,
        last,
        total,
        set(heads),
        {name: how for name, how in heads.items() if how != "none"},
        {each.get("rel"): each.get("href") for each in pager.xpath("a[@rel]")},
    )


@pytest.mark.parametrize("case", NAMED)
def test_a_list_is_paged_to_its_end(operator: httpx.Client, case: ListCase) -> None:
    """Each row is on one page, and the pages are as long as they say."""
    seen = look(operator, case, case.address("page=1"))
    assert seen.total >= COPIES
    rows = seen.rows
    while "next" in seen.links:
        assert seen.last - seen.first + 1 == len(seen.rows)
        after = look(operator, case, seen.links["next"])
        assert after.first == seen.last + 1
        rows, seen = rows + after.rows, after
    assert seen.last == seen.total == len(rows)
    assert look(operator, case, case.address("page=999")).last == seen.total


@pytest.mark.parametrize("case", NAMED)
def test_a_list_is_sorted_by_each_column(operator: httpx.Client, case: ListCase) -> None:
    plain = look(operator, case, case.address("page=1"))
    for column in f"{case.columns} {case.of_patients}".split():
        assert column in plain.sorts
        seen = look(operator, case, case.address(f"sort={column}&down=1"))
        assert (seen.sorted_by, seen.total) == ({column: "descending"}, plain.total)
    look(operator, case, case.address("page=1"))


@pytest.mark.parametrize("case", [each for each in NAMED if each.values[0].narrowed])
def test_a_list_is_narrowed_to_a_state(operator: httpx.Client, case: ListCase) -> None:
    every, some = (look(operator, case, case.address(each)) for each in ("page=1", case.narrowed))
    assert 0 < some.total <= every.total
    word = case.narrowed.partition("=")[2].lower()
    assert word == "waiting" or all(word in row.lower() for row in some.rows)
    assert look(operator, case, case.address("page=1")).total == every.total


@pytest.mark.parametrize("case", NAMED)
def test_a_list_is_remembered(operator: httpx.Client, case: ListCase) -> None:
    """Whoever comes back by the navigation finds the list as it was, whatever else was looked at."""
    column = case.columns.split()[-1]
    left = look(operator, case, case.address(f"sort={column}&down=1&page=2"))
    operator.get("/orders?list=missing&page=1")
    operator.get("/queue?page=1")
    if case.name != "missing":
        assert look(operator, case, case.path) == left
    look(operator, case, case.address("page=1"))


@pytest.mark.parametrize("case", [each for each in NAMED if each.values[0].of_patients])
def test_a_viewer_learns_no_order_of_what_is_masked(site: ConsoleSite, case: ListCase) -> None:
    viewer = site.person("viewer")
    seen = look(viewer, case, case.address("page=1"))
    for column in case.of_patients.split():
        assert column not in seen.sorts
        assert look(viewer, case, case.address(f"sort={column}")).rows == seen.rows


def test_rows_are_in_the_order_that_was_asked_for(operator: httpx.Client) -> None:
    case = LISTS[0]
    numbers = [each.split()[0] for each in look(operator, case, "/orders?sort=accession&down=1").rows]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0].startswith("B")
    numbers = [each.split()[0] for each in look(operator, case, "/orders?sort=accession").rows]
    assert numbers == sorted(numbers)
    look(operator, case, case.address("page=1"))


def test_a_queue_that_is_too_long_says_what_it_has_read(
    operator: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held() -> tuple[int, bool]:
        text = html.fromstring(operator.get("/queue?state=held").text).text_content()
        said = "The list has the studies of the first 2 images of each state" in text
        return sum(map(int, re.findall(r"(\d+) images?, ", text))), said

    count, said = held()
    assert (count > 2, said) == (True, False)
    monkeypatch.setattr(queue, "MOST_READ", 2)
    assert held() == (2, True)
    operator.get("/queue?state=")


def test_the_figures_name_each_sender_and_no_patient(site: ConsoleSite) -> None:
    page = html.fromstring(site.person("viewer").get("/figures").text)
    (main,) = page.xpath("//main")
    text = main.text_content()
    assert "CT1" in text
    assert "100" in text
    assert "Alice" not in text
    assert len(main.xpath("//section[@aria-label='Trend']//svg")) == 6


def test_a_client_of_dicomweb_is_no_equipment(operator: httpx.Client) -> None:
    """It has called, and has the page of the clients."""
    assert "VIEWER" not in operator.get("/equipment?sort=title&down=1").text
    assert "viewer" in operator.get("/clients").text
    operator.get("/equipment?page=1")


def test_a_decision_comes_back_to_the_list_as_it_was(operator: httpx.Client) -> None:
    page = operator.get("/steps?state=open&sort=begun")
    document = html.fromstring(page.text)
    given = {each.get("name"): each.get("value") for each in document.xpath("//form[@action='/steps/decide']//input")}
    given |= {"pick": document.xpath("//input[@name='pick']/@value")[0], "action": "retry", "reason": "it is up again"}
    assert operator.post("/steps/decide", data=given).url.query == b"sort=begun&state=open"
    operator.get("/steps?page=1")


@pytest.mark.parametrize(
    "command",
    ["orders list", "orders missing", "hl7 list", "hl7 list --relay", "mpps list", "commitments list", "worklist list",
     "prefetch list", "queries list", "import list", "studies list"],
)  # fmt: skip
def test_a_command_lists_the_part_that_is_asked_for(site: ConsoleSite, command: str) -> None:
    def run(*more: str) -> str:
        done = CliRunner().invoke(cli, ["--config", str(site.directory), *command.split(), *more])
        assert done.exit_code == 0, done.output
        return done.output

    said = re.search(
        r"^2 to 3 of (\d+) are listed; --skip 3 lists the next ones\.$", run("--limit=2", "--skip=1"), re.M
    )
    assert said
    assert int(said[1]) >= COPIES
    assert "are listed" not in run("--limit=1000")
    assert f"There are {said[1]}; --skip 9999 leaves out all of them." in run("--skip=9999")
    whole, part = (
        json.loads(CliRunner().invoke(cli, ["--config", str(site.directory), *command.split(), *more, "--json"]).stdout)
        for more in (["--limit=3"], ["--limit=2", "--skip=1"])
    )
    rows = (lambda found: found["items"]) if command == "worklist list" else (lambda found: found)
    assert rows(part) == rows(whole)[1:]


def test_a_list_is_used_by_keyboard_alone(site: ConsoleSite, browser: Browser) -> None:
    page = site.open(browser, "operator", "/commitments")
    page.get_by_role("link", name="Reported", exact=True).first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("nav[aria-label=States] [aria-current]")).to_have_text("Reported")
    page.get_by_role("columnheader", name="Asked").get_by_role("link").focus()
    page.keyboard.press("Enter")
    expect(page.locator("th[aria-sort=ascending]")).to_contain_text("Asked")
    page.get_by_role("link", name="Next").focus()
    page.keyboard.press("Enter")
    expect(page.locator("nav.pager")).to_contain_text("51 to 100 of")
    page.goto(site.url + "/commitments")
    expect(page.locator("nav.pager")).to_contain_text("51 to 100 of")
    page.context.close()


#: What names a patient of `fill`, or an examination.
OF_PATIENTS = re.compile(r"Alice|Alicia|Bruno|Clara|David|Foreign|T100\d|A100\d|A200\d")


def test_no_page_names_a_patient_without_a_record_of_who_has_seen_it(site: ConsoleSite) -> None:
    """Each page is the first that a person opens: what another page has recorded does not count."""
    accounts = Accounts(site.db, record_in_ledger)
    shown, unrecorded = set[str](), set[str]()
    pages = [each for each in list_pages(site) if not each.startswith("/help")]
    for number, page in enumerate([*pages, "dry run"]):
        name = f"reader{number}"
        accounts.put(Account(name, UserRole.OPERATOR, HASH, time.time() - 1), "test")
        with visitor(site.url) as client:
            given = {"csrf": csrf(client, "/sign-in"), "name": name, "password": PASSWORD, "to": "/help"}
            assert client.post("/sign-in", data=given).url.path == "/help"
            if page == "dry run":
                form = {"csrf": csrf(client, "/dry-run"), "text": '[route.all]\nto = ["archive"]\n'}
                text = client.post("/dry-run", data=form).text
            else:
                text = client.get(page).text
        if OF_PATIENTS.search(text):
            shown.add(page)
            seen = [study for who, study, *_ in site.ledger(ledger.VIEWED) if who == name]
            if not seen or (page == "/orders" and None not in seen):  # most orders have no study yet
                unrecorded.add(page)
    assert shown >= {"/", "/queue", "/orders", "/steps", "/worklist", "/studies", "dry run"}
    assert unrecorded == set()
