"""`edge central site add`, `edge central maintenance`: new sites and planned work, without a restart."""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path

import click

from edge.central import config as configuration
from edge.central import planning
from edge.central.site_cards import described_sites
from edge.cli.central_session import CentralGroup, CentralSession
from edge.cli.session import login
from edge.cli.tables import print_table, say
from edge.config import edit
from edge.config.edit import table_text
from edge.config.maintenance import fault_of_window
from edge.daemon.configuring import write_files
from edge.errors import EdgeError
from edge.store.central import maintenance as plans
from edge.text import amount, moment_text

_SITES_FILE = "50-sites.toml"
_KEY_BYTES = 32
#: The service runs under a dynamic user, which is in no group; secrets are in files of their own.
_FOR_ALL = 0o644


@click.group(cls=CentralGroup, short_help="Add a site.")
def site() -> None:
    """Add a site to the configuration; the running centre takes its heartbeats within seconds."""


@site.command("add", short_help="Add a site and make its key.")
@click.argument("number", metavar="ID")
@click.option("--name", default="", help="For people.")
@click.option("--provider", default="", help="Its network provider: who falls silent together is one incident.")
@click.option("--region", default="", help="By which sites are grouped.")
@click.option("--tag", "tags", multiple=True, help="A word by which it is found; repeat it.")
@click.option("--contact", default="", help="Who is called.")
@click.option("--link", default="", help="The address of its console.")
@click.pass_obj
def add_site(
    session: CentralSession,
    number: str,
    name: str,
    provider: str,
    region: str,
    tags: tuple[str, ...],
    contact: str,
    link: str,
) -> None:
    """Write a [site.ID], make its key, and print what its gateway needs.

    \b
    Example:  edge central site add 0068 --name "Example Clinic" --region North
    """
    config = session.config
    if number in config.sites:
        raise EdgeError(f"site {number} is in the configuration already")
    path = config.central.data_dir / "keys" / f"{number}.key"
    values = {"key": str(path), "name": name, "provider": provider, "region": region, "tags": list(tags)}
    values |= {"contact": contact, "link": link}
    before = edit.read_files(session.directory)
    block = table_text(("site", number), values)
    after = edit.put_table(before, ("site", number), block, _SITES_FILE)
    configuration.load(session.directory, after)
    key = _make_key(path)
    write_files(session.directory, before, after, mode=_FOR_ALL)
    base = f"https://{next(iter(config.central.names), 'THIS-HOST')}:{config.central.port}"
    say(f"Site {number} is added; a running centre takes its heartbeats within seconds.", "green")
    say("At the site, put this line into the file heartbeat.key (chmod 600):")
    say(f"  {key}")
    say("and this into its configuration:")
    for line in table_text(("heartbeat",), {"url": f"{base}/heartbeat", "key": "heartbeat.key"}).splitlines():
        say(f"  {line}")
    if config.central.certificate:
        say('  # ca = "ca.pem"  # the authority of the centre, where the system there does not trust it')


def _make_key(path: Path) -> str:
    """A key in the directory of the centre's data, for its user alone: a restart is not needed to hand it in.

    One that is there is of no site: an earlier try has left it, or a site that was removed.
    """
    key, folder = base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode(), path.parent
    try:
        owner = folder.parent.stat()
        folder.mkdir(mode=0o700, exist_ok=True)
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as out:
            out.write(f"{key}\n")
        if os.geteuid() == 0:
            for each in (folder, path):
                os.chown(each, owner.st_uid, owner.st_gid)
    except OSError as error:
        raise EdgeError(f"the key {path} cannot be made: {error.strerror}; has the centre been started once?") from None
    return key


@click.group(cls=CentralGroup, short_help="Plan maintenance at sites.")
def maintenance() -> None:
    """Plan work at sites: who is silent meanwhile raises no incident."""


@maintenance.command("add", short_help="Plan work at sites.")
@click.argument("from_", metavar="FROM")
@click.argument("to", metavar="TO")
@click.argument("sites", nargs=-1)
@click.option("--tag", default="", help="All sites with this tag.")
@click.option("--reason", required=True, metavar="TEXT", help="Why; it is shown with the sites.")
@click.pass_obj
def add_maintenance(
    session: CentralSession, from_: str, to: str, sites: tuple[str, ...], tag: str, reason: str
) -> None:
    """Plan work between two times of the centre's calendar, at SITES or "all".

    \b
    Example:  edge central maintenance add "2026-12-05 22:00" "2026-12-06 02:00" \\
                0067 0068 --reason "new firewall"
    """
    described = session.change(lambda conn: described_sites(conn, session.config))
    chosen = planning.choose_sites(described, " ".join(sites), tag)
    begin, end = (planning.parse_moment(session.config, each) for each in (from_, to))
    if fault := fault_of_window(begin, end):
        raise EdgeError(f"to: {fault}")
    who = login()
    session.change(lambda conn: plans.plan_work(conn, chosen, begin.timestamp(), end.timestamp(), reason, who))
    say(f"Maintenance of {amount(len(chosen), 'site')} is planned.")


@maintenance.command("list", short_help="List planned work.")
@click.pass_obj
def list_maintenance(session: CentralSession) -> None:
    """List planned work that is not over.

    \b
    Example:  edge central maintenance list
    """
    found = session.read(lambda conn, _config, now: plans.list_windows(conn, now))
    rows = [
        [each["site"], moment_text(each["begins_at"]), moment_text(each["ends_at"]), each["who"], each["reason"]]
        for each in found
    ]
    if rows:
        print_table(["site", "from", "to", "by", "reason"], rows)
    else:
        say("Nothing is planned.")
