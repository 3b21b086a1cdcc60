"""`edge console`: the accounts of the console, and its setup link."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from edge.cli.session import CommandSession, json_option
from edge.cli.tables import Columns, local_time, print_list, say
from edge.config import secret
from edge.errors import EdgeError
from edge.text import iso_or_none
from edge.web import accounts as kept
from edge.web.accounts import Account, UserRole, end_of_day, last_day, parse_name
from edge.web.passwords import hash_password, require_strong

_ROLES = click.Choice([role.name.lower() for role in UserRole])
password_option = click.option(
    "--password-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Read the password from a file that only its owner may read, instead of asking for it.",
)
expires_option = click.option(
    "--expires", metavar="DATE", help='The last day on which the account works, such as 2026-12-31, or "never".'
)

_COLUMNS: Columns[Account] = {
    "name": lambda each: each.name,
    "role": lambda each: each.role.name.lower(),
    "signs in by": lambda each: "password" if each.password else "the site's proxy",
    "state": lambda each: each.state(time.time()),
    "last day": lambda each: last_day(each.expires_at),
    "last sign-in": lambda each: local_time(each.use.signed_in_at) or "never",
}


@click.group(short_help="Manage console accounts and print the setup link.")
def console() -> None:
    """Manage console accounts and print the first-time setup link."""


@console.command(short_help="Print a one-time setup link.")
@click.pass_obj
def setup(session: CommandSession) -> None:
    """Print the link to create the first account, while there is no account. It is valid for an hour.

    \b
    Example:  edge console setup
    """
    link = session.ask("console-setup")["link"]
    if link is None:
        raise EdgeError("accounts exist already; `edge console accounts reset NAME` sets a new password")
    say(link)


@console.group(short_help="List, add, change, remove accounts.")
def accounts() -> None:
    """Manage the console's accounts: list, add, reset, disable, enable, remove."""


@accounts.command("list", short_help="List the accounts.")
@json_option
@click.pass_obj
def list_accounts(session: CommandSession, as_json: bool) -> None:
    """List the accounts.

    \b
    Example:  edge console accounts list
    """
    with session.catalog() as conn:
        found = kept.every(conn)
    print_list(found, _COLUMNS, "There is no account; see `edge console setup`.", as_json=as_json, json_of=_json)


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
@click.option("--role", type=_ROLES, default="viewer", show_default=True, help="The role.")
@click.option(
    "--proxy", is_flag=True, help="The site's proxy or a client certificate authenticates the user; no password."
)
@expires_option
@password_option
@click.pass_obj
def add(
    session: CommandSession, name: str, role: str, proxy: bool, expires: str | None, password_file: Path | None
) -> None:
    """Add an account. Asks for its password.

    \b
    Roles:    viewer: status without patient data
              operator: patient data and decisions, too
              admin: accounts, too
    Example:  edge console accounts add anna --role operator --expires 2026-12-31
    """
    name, expires_at = parse_name(name), end_of_day(expires or "")
    if _find(session, name):
        raise EdgeError(f"account {name} exists already; `edge console accounts reset {name}` changes its password")
    password = "" if proxy else _password(name, password_file)
    _put(session, Account(name, UserRole[role.upper()], password, time.time(), expires_at=expires_at))
    say(f"{name} may sign in as {role}.")


@accounts.command("reset", short_help="Give an account a new password, or another role.")
@click.argument("name")
@click.option("--role", type=_ROLES, help="A new role.  [default: unchanged]")
@expires_option
@password_option
@click.pass_obj
def reset(
    session: CommandSession, name: str, role: str | None, expires: str | None, password_file: Path | None
) -> None:
    """Give an account a new password; its sessions end.

    \b
    Example:  edge console accounts reset anna
    """
    found = _require_account(session, name)
    chosen = UserRole[role.upper()] if role else found.role
    last = found.expires_at if expires is None else end_of_day(expires)
    password = _password(name, password_file)
    _put(session, replace(found, role=chosen, password=password, expires_at=last, changed_at=time.time()))
    say(f"{name} has a new password, and is signed out everywhere.")


@accounts.command("disable", short_help="Disable an account.")
@click.argument("name")
@click.pass_obj
def disable(session: CommandSession, name: str) -> None:
    """Disable an account: its sessions end, and it cannot sign in until it is enabled.

    \b
    Example:  edge console accounts disable anna
    """
    _put(session, replace(_require_account(session, name), disabled=True, changed_at=time.time()))
    say(f"{name} is disabled, and signed out everywhere.")


@accounts.command("enable", short_help="Enable or unlock an account, or set its last day.")
@click.argument("name")
@expires_option
@click.pass_obj
def enable(session: CommandSession, name: str, expires: str | None) -> None:
    """Enable an account that was disabled, unlock one that failures have locked, and set its last day.

    \b
    Example:  edge console accounts enable anna --expires 2026-12-31
    """
    found = _require_account(session, name)
    changed = replace(found, disabled=False, expires_at=found.expires_at if expires is None else end_of_day(expires))
    _put(session, changed, f"enabled: {changed.summary()}")
    say(f"{name} is enabled; last day: {last_day(changed.expires_at)}.")


@accounts.command("remove", short_help="Remove an account.")
@click.argument("name")
@click.pass_obj
def remove(session: CommandSession, name: str) -> None:
    """Remove an account; its sessions end.

    \b
    Example:  edge console accounts remove anna
    """
    _require_account(session, name)
    session.change("account-remove", name=name)
    say(f"{name} is removed.")


def _find(session: CommandSession, name: str) -> Account | None:
    with session.quiet_catalog() as conn:
        return kept.find(conn, name)


def _require_account(session: CommandSession, name: str) -> Account:
    found = _find(session, name)
    if found is None:
        raise EdgeError(f'there is no account "{name}"; `edge console accounts list` names them')
    return found


def _password(name: str, file: Path | None) -> str:
    if file is not None:
        given = secret.read_secret(file).decode("utf-8", "replace")
    else:
        given = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    return hash_password(require_strong(given, name))


def _put(session: CommandSession, account: Account, what: str = "") -> None:
    stored = ("name", "password", "changed_at", "disabled", "expires_at")
    fields = {key: getattr(account, key) for key in stored}
    session.change("account-put", **fields, role=account.role.name.lower(), what=what)
