"""The IHE integration statement: only actors of which every transaction is covered by a test, named beside it.

To claim another actor, add it with the tests of each of its required transactions: a test of ours fails where one of
them does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge import __version__
from edge.config.sections import Config
from edge.console.statements.document import Document, Section, TableOf


@dataclass(frozen=True, slots=True)
class IheTransaction:
    """One required transaction of an actor, with the tests that cover it: file::name below tests/."""

    name: str
    tests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Actor:
    domain: str
    profile: str
    actor: str
    transactions: tuple[IheTransaction, ...]


#: The actors that Edge claims.
ACTORS = (
    Actor(
        "IT Infrastructure",
        "Audit Trail and Node Authentication (ATNA)",
        "Secure Application",
        (
            IheTransaction(
                "Authenticate Node [ITI-19]",
                (
                    "wire/test_tls.py::test_who_has_no_good_certificate_gets_no_association",
                    "wire/test_tls.py::test_everything_over_tls_with_a_reload_under_load",
                ),
            ),
            IheTransaction(
                "Record Audit Event [ITI-20]",
                ("monitor/test_audit_channel.py::test_an_outage_in_the_midst_of_many_loses_none",),
            ),
        ),
    ),
)
#: Transactions that are covered, without all that their actor must do: named for integrators, claimed for no actor.
COVERED = (
    IheTransaction("Modality Images Stored [RAD-8], receiving", ("wire/test_receive.py",)),
    IheTransaction(
        "Storage Commitment [RAD-10], both sides", ("system/test_commitments.py", "outbound/test_confirm.py")
    ),
)


def make_ihe_statement(config: Config) -> Document:
    """The statement of a gateway with this configuration."""
    rows = tuple(
        (each.domain, each.profile, each.actor, transaction.name, ", ".join(transaction.tests))
        for each in ACTORS
        if _is_configured(each, config)
        for transaction in each.transactions
    )
    headings = ("domain", "profile", "actor", "transaction", "covered by")
    claimed = TableOf("Integration profiles, actors and transactions", headings, rows)
    more = TableOf(
        "Transactions that are covered, without a claim of their actor",
        ("transaction", "covered by"),
        tuple((each.name, ", ".join(each.tests)) for each in COVERED),
    )
    text = (
        "This statement names an actor only where each of its required transactions is covered by an automated test of"
        " the product, and the configuration of this site uses it."
    )
    vendor = Section("1", "Product", (f"Edge {__version__}, at {config.site.name}.",))
    profiles = Section("2", "Integration profiles", (text,), (claimed, more))
    facts = {"actors": [f"{each.profile}: {each.actor}" for each in ACTORS if _is_configured(each, config)]}
    return Document("IHE integration statement", "Edge", __version__, config.site.name, (vendor, profiles), facts)


def _is_configured(actor: Actor, config: Config) -> bool:
    """ATNA needs mutual TLS and a repository."""
    return "ATNA" not in actor.profile or (config.tls.is_on and bool(config.audit.host))
