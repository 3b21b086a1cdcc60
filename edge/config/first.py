"""The first configuration of a site, from a few answers. Pure: answers become the texts of files."""

from __future__ import annotations

from dataclasses import dataclass

from edge.config.edit import name_from, table_text, toml_of
from edge.config.sections import Listen


@dataclass(frozen=True, slots=True)
class FirstPeer:
    """A scanner or an archive; `port` of a scanner: where it is called back, 0 where it is not."""

    ae_title: str
    host: str
    port: int = 0


@dataclass(frozen=True, slots=True)
class FirstAnswers:
    """What a site answers first. Without `archive` the images are kept and held; without scanners nobody may send."""

    site_id: str
    site_name: str
    data_dir: str
    ae_title: str
    port: int
    archive: FirstPeer | None
    confirm: str
    scanners: tuple[FirstPeer, ...] = ()
    mail_to: str = ""
    mail_server: str = ""


def first_files(answers: FirstAnswers) -> dict[str, str]:
    """The files of the first configuration."""
    files = {"10-site.toml": _site(answers), "20-equipment.toml": _equipment(answers)}
    if answers.archive is not None:
        files["30-routes.toml"] = _routes(answers, answers.archive)
    if answers.mail_to:
        files["40-notices.toml"] = _notices(answers)
    return files


_HEAD = """\
# The configuration of this gateway. `edge check` reports every mistake, `systemctl reload edge` applies a change.
# Every key with its default: `man edge.toml`, and the commented samples in /usr/share/doc/edge-gateway/examples.
"""


def _site(answers: FirstAnswers) -> str:
    name = "" if answers.site_name == answers.site_id else answers.site_name
    site = table_text(("site",), {"id": answers.site_id, "name": name, "data_dir": answers.data_dir})
    usual = Listen()
    values = {"ae_title": answers.ae_title, "port": answers.port}
    given = {key: value for key, value in values.items() if value != getattr(usual, key)}
    listen = table_text(("listen",), given)
    listen += "".join(f"# {key} = {toml_of(value)}\n" for key, value in values.items() if key not in given)
    return f"{_HEAD}\n{site}\n{listen}"


def _equipment(answers: FirstAnswers) -> str:
    parts = ["# Who may send. A scanner that was refused: `edge modality list`, then `edge modality add AE_TITLE`.\n"]
    names: dict[str, object] = {}
    for each in answers.scanners:
        name = name_from(each.ae_title, names)
        names[name] = each
        values = {"ae_title": each.ae_title, "hosts": [each.host], "port": each.port or None}
        values["services"] = ["echo", "store", "commit"] if each.port else None
        parts.append(table_text(("modality", name), values))
    return "\n".join(parts)


def _routes(answers: FirstAnswers, archive: FirstPeer) -> str:
    values = {"ae_title": archive.ae_title, "host": archive.host, "port": archive.port, "confirm": answers.confirm}
    destination = table_text(("destination", "archive"), values, "Where images go, and how it proves that it has them.")
    route = table_text(
        ("route", "everything"), {"to": ["archive"]}, "Everything goes there; `edge route explain` tests it."
    )
    return f"{destination}\n{route}"


def _notices(answers: FirstAnswers) -> str:
    values = {
        "host": answers.mail_server,
        "sender": f"edge@{answers.mail_to.rpartition('@')[2]}",
        "to": [answers.mail_to],
        "security": "starttls",
    }
    return table_text(("email", "admin"), values, "Who is notified of alerts; `edge notify test email.admin` tests it.")
