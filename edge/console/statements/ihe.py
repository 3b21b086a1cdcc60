"""The IHE integration statement: only actors of which every transaction is covered by a test, named beside it.

To claim another actor, add it with the tests of each of its required transactions: a test of ours fails where one of
them does not exist.
"""

from __future__ import annotations

from collections.abc import Callable
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
    """An actor of a profile with its required transactions; `is_used`: does a configuration use it?"""

    domain: str
    profile: str
    actor: str
    transactions: tuple[IheTransaction, ...]
    is_used: Callable[[Config], bool]


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
        lambda config: config.tls.is_on and bool(config.audit.host),
    ),
    Actor(
        "Radiology",
        "Imaging Object Change Management (IOCM)",
        "Image Manager/Archive",
        (
            IheTransaction(
                "Rejection Note Stored [RAD-66]",
                (
                    "wire/test_iocm.py::test_what_is_rejected_is_not_found_any_more",
                    "wire/test_iocm.py::test_quality_may_stay_in_use",
                    "wire/test_iocm.py::test_a_note_before_its_images_applies_when_they_come",
                    "wire/test_iocm.py::test_what_comes_again_is_kept_out_or_let_in_by_its_code",
                    "wire/test_iocm.py::test_a_note_is_sent_behind_all_that_it_names",
                ),
            ),
        ),
        lambda config: bool(config.iocm.senders) and config.serves_queries,
    ),
)
#: Transactions that are covered, without all that their actor must do: named for integrators, claimed for no actor.
COVERED = (
    IheTransaction(
        "Patient Registration [RAD-1], Patient Update [RAD-12], receiving; queries answer the patient of today",
        (
            "wire/test_hl7_messages.py::test_message_comes_to_what_it_must",
            "query/test_merged_patients.py::"
            "test_a_query_finds_all_studies_by_each_number_and_answers_the_patient_of_today",
            "wire/dicomweb/test_wado_today.py::test_a_merged_patients_images_are_given_away_as_today",
        ),
    ),
    IheTransaction(
        "Procedure Scheduled [RAD-4], Procedure Update [RAD-13], receiving",
        (
            "wire/test_hl7_messages.py::test_message_comes_to_what_it_must",
            "store/test_identity_checks.py::test_matched_by_accession",
        ),
    ),
    IheTransaction(
        "Query Modality Worklist [RAD-5], answering",
        (
            "wire/test_worklist.py::test_the_thirteen_queries_of_dcmtk",
            "wire/test_worklist.py::test_the_list_is_served_with_all_that_is_asked_and_no_more",
        ),
    ),
    IheTransaction(
        "Modality and Creator Procedure Step in Progress, Completed [RAD-6, RAD-7, RAD-20, RAD-21], both sides",
        (
            "wire/test_mpps.py::test_a_step_from_its_beginning_to_its_end",
            "acceptance/test_mpps.py::test_steps_reach_the_ris_in_order_after_an_outage_and_a_kill",
        ),
    ),
    IheTransaction(
        "Modality and Creator Images Stored [RAD-8, RAD-18], receiving",
        ("wire/test_receive.py::test_every_storage_class_and_syntax_is_taken_and_other_services_are_not",),
    ),
    IheTransaction(
        "Storage Commitment [RAD-10], both sides",
        (
            "system/test_commitments.py::test_a_scanner_that_is_off_has_its_report_in_the_morning",
            "outbound/test_confirm.py",
        ),
    ),
    IheTransaction(
        "Images Availability Query [RAD-11], answering", ("wire/test_find.py::test_all_levels_with_counts",)
    ),
    IheTransaction(
        "Query Images [RAD-14], answering",
        (
            "wire/test_find.py::test_the_table_of_what_real_peers_disagree_on",
            "system/test_query.py::test_orthanc_asks_and_has_a_study_moved_to_it",
        ),
    ),
    IheTransaction(
        "Retrieve Images [RAD-16], answering",
        ("wire/test_retrieve.py::test_movescu_has_a_study_sent_to_a_destination",),
    ),
    IheTransaction(
        "Instance Availability Notification [RAD-49], sending",
        ("acceptance/test_mpps.py::test_what_was_performed_and_what_arrived",),
    ),
    IheTransaction(
        "Store Dose Information [RAD-62], receiving",
        ("monitor/test_figures.py::test_a_missing_dose_report_is_an_alert_until_it_comes",),
    ),
    IheTransaction(
        "Retrieve via WADO-RS [RAD-107], Store and Query by DICOMweb [RAD-108, RAD-129], answering",
        (
            "wire/dicomweb/test_wado_rs.py::test_a_study_comes_bit_for_bit",
            "wire/dicomweb/test_stow_rs.py::test_all_stored_is_200_with_every_instance_named",
            "wire/dicomweb/test_viewers.py::test_dicomweb_client_of_python_in_full",
        ),
    ),
)
#: Actors that readers may look for, and why they are not claimed.
NOT_CLAIMED = (
    (
        "Scheduled Workflow (SWF, SWF.b): Image Manager/Archive",
        "RAD-13: a changed order is checked against its images, and changes no answer to a query",
    ),
    ("Scheduled Workflow (SWF, SWF.b): Order Filler", "Edge serves the worklist of one, and schedules nothing"),
    (
        "Radiation Exposure Monitoring (REM): Image Manager/Archive",
        "RAD-64: keys of structured reports are not matched",
    ),
    ("Cross-Enterprise Document Sharing for Imaging (XDS-I.b)", "the archive shares documents; Edge feeds it"),
    ("Patient Information Reconciliation (PIR)", "as Scheduled Workflow"),
    ("Consistent Time (CT)", "the time client is the system's"),
)


def make_ihe_statement(config: Config) -> Document:
    """The statement of a gateway with this configuration."""
    rows = tuple(
        (each.domain, each.profile, each.actor, transaction.name, ", ".join(transaction.tests))
        for each in ACTORS
        if each.is_used(config)
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
    profiles = Section(
        "2",
        "Integration profiles",
        (text,),
        (claimed, more, TableOf("Not claimed", ("profile and actor", "why"), NOT_CLAIMED)),
    )
    facts = {"actors": [f"{each.profile}: {each.actor}" for each in ACTORS if each.is_used(config)]}
    return Document("IHE integration statement", "Edge", __version__, config.site.name, (vendor, profiles), facts)
