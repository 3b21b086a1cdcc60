"""`edge console`: who may sign in at the console; and the way back in for those who have lost their password."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from edge import secret
from edge.cli.session import Session, config_option, json_option, login
from edge.cli.studies import local
from edge.cli.tables import print_json, print_table, say
from edge.console import accounts as store
from edge.errors import EdgeError
from edge.store.database import Connection
from edge.text import iso_or_none
from edge.web.accounts import Account, Role, checked_name, end_of_day, last_day
from edge.web.passwords import checked_password, hashed

_ROLES = click.Choice([role.name.lower() for role in Role])
password_option = click.option(
    "--password-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Read the password from a file that only its owner may read, instead of asking for it.",
)
expires_option = click.option(
    "--expires", metavar="DATE", help='The last day on which the account works, such as 2026-12-31, or "never".'
)


@click.group(short_help="The console's accounts, and its setup link.")
@config_option
def console() -> None:
    """Who may sign in at the console, and the setup link while nobody may."""


@console.command(short_help="Print a one-time setup link.")
@config_option
@click.pass_obj
def setup(session: Session) -> None:
    """Print the link by which the first account is made; there is one while there is no account. It works for an hour.

    \b
    Example:  edge console setup
    """
    link = session.ask("console-setup")["link"]
    if link is None:
        raise EdgeError("there are accounts already; `edge console accounts reset NAME` gives one a new password")
    say(link)


@console.group(short_help="List, add, change, remove accounts.")
@config_option
def accounts() -> None:
    """The accounts of the console: list, add, reset, disable, enable, remove."""


@accounts.command("list", short_help="List the accounts.")
@json_option
@config_option
@click.pass_obj
def list_accounts(session: Session, as_json: bool) -> None:
    """List the accounts.

    \b
    Example:  edge console accounts list
    """
    with session.catalog() as conn:
        found = store.every(conn)
    if as_json:
        print_json([_json(each) for each in found])
        return
    now = time.time()
    rows = [
        [
            each.name,
            each.role.name.lower(),
            "password" if each.password else "the site's proxy",
            each.state(now),
            last_day(each.expires_at),
            local(each.use.signed_in_at) if each.use.signed_in_at else "never",
        ]
        for each in found
    ]
    print_table(["name", "role", "signs in by", "state", "last day", "last sign-in"], rows)


def _json(account: Account) -> dict[str, Any]:
    signs_in = "password" if account.password else "proxy"
    return {
        "name": account.name,
        "role": account.role.name.lower(),
        "signs_in": signs_in,
        "state": account.state(time.time()),
        "expires": None if account.expires_at is None else last_day(account.expires_at),
        "last_sign_in": iso_or_none(account.use.signed_in_at),
        "failures": account.use.failures,
    }


@accounts.command("add", short_help="Add an account.")
@click.argument("name")
@click.option("--role", type=_ROLES, default="viewer", show_default=True, help="What the person may do.")
@click.option("--proxy", is_flag=True, help="The site's proxy vouches for the person: no password here.")
@expires_option
@password_option
@config_option
@click.pass_obj
def add(session: Session, name: str, role: str, proxy: bool, expires: str | None, password_file: Path | None) -> None:
    """Add an account; its password is asked for.

    \b
    Roles:    viewer sees how it goes, and no patients; operator sees patients and decides;
              admin manages accounts too
    Example:  edge console accounts add anna --role operator --expires 2026-12-31
    """
    name, expires_at = checked_name(name), end_of_day(expires or "")
    if _find(session, name):
        raise EdgeError(
            f"there is an account {name} already; `edge console accounts reset {name}` changes its password"
        )
    password = "" if proxy else _password(name, password_file)
    _put(session, Account(name, Role[role.upper()], password, time.time(), expires_at=expires_at))
    say(f"{name} may sign in as {role}.")


@accounts.command("reset", short_help="Give an account a new password, or another role.")
@click.argument("name")
@click.option("--role", type=_ROLES, help="Another role; without it the role stays.")
@expires_option
@password_option
@config_option
@click.pass_obj
def reset(session: Session, name: str, role: str | None, expires: str | None, password_file: Path | None) -> None:
    """Give an account a new password; its sessions end.

    \b
    Example:  edge console accounts reset anna
    """
    found = _known(session, name)
    chosen = Role[role.upper()] if role else found.role
    last = found.expires_at if expires is None else end_of_day(expires)
    password = _password(name, password_file)
    _put(session, replace(found, role=chosen, password=password, expires_at=last, changed_at=time.time()))
    say(f"{name} has a new password, and is signed out everywhere.")


@accounts.command("disable", short_help="Let somebody sign in no more.")
@click.argument("name")
@config_option
@click.pass_obj
def disable(session: Session, name: str) -> None:
    """Disable an account: its sessions end, and it cannot sign in until it is enabled.

    \b
    Example:  edge console accounts disable anna
    """
    _put(session, replace(_known(session, name), disabled=True, changed_at=time.time()))
    say(f"{name} is disabled, and signed out everywhere.")


@accounts.command("enable", short_help="Enable or unlock an account, or set its last day.")
@click.argument("name")
@expires_option
@config_option
@click.pass_obj
def enable(session: Session, name: str, expires: str | None) -> None:
    """Enable an account that was disabled, unlock one that failures have locked, and set its last day.

    \b
    Example:  edge console accounts enable anna --expires 2026-12-31
    """
    found = _known(session, name)
    changed = replace(found, disabled=False, expires_at=found.expires_at if expires is None else end_of_day(expires))
    _put(session, changed, f"enabled: {changed.described()}")
    say(f"{name} is enabled; last day: {last_day(changed.expires_at)}.")


@accounts.command("remove", short_help="Remove an account.")
@click.argument("name")
@config_option
@click.pass_obj
def remove(session: Session, name: str) -> None:
    """Remove an account; its sessions end.

    \b
    Example:  edge console accounts remove anna
    """
    _known(session, name)
    who = login()
    if session.daemon_runs:
        session.ask("account-remove", name=name, who=who)
    else:
        session.change(lambda conn: store.remove(conn, name, who, time.time()))
    say(f"{name} is removed.")


def _find(session: Session, name: str) -> Account | None:
    with session.quiet_catalog() as conn:
        return store.find(conn, name)


def _known(session: Session, name: str) -> Account:
    found = _find(session, name)
    if found is None:
        raise EdgeError(f'there is no account "{name}"; `edge console accounts list` names them')
    return found


def _password(name: str, file: Path | None) -> str:
    if file is not None:
        given = secret.read(file).decode("utf-8", "replace")
    else:
        given = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    return hashed(checked_password(given, name))


def _put(session: Session, account: Account, what: str = "") -> None:
    who = login()
    if session.daemon_runs:
        session.ask(
            "account-put",
            name=account.name,
            role=account.role.name.lower(),
            password=account.password,
            changed_at=account.changed_at,
            disabled=account.disabled,
            expires_at=account.expires_at,
            who=who,
            what=what,
        )
        return

    def work(conn: Connection) -> int:
        store.put(conn, account, who, time.time(), what)
        return 1

    session.change(work)
