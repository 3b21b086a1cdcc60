"""The workers of each destination: a forwarder, and a confirmer where it proves. Both change with the configuration."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from edge.config import secret
from edge.config.sections import Config, Destination
from edge.daemon.start import keyring
from edge.errors import ReportRefused
from edge.model import Lease
from edge.network.tls import TlsClient, TlsError
from edge.outbound import Forwarder
from edge.outbound.confirm import Confirmer
from edge.outbound.confirm.status import accept_status
from edge.outbound.copies import CopySteps
from edge.outbound.job import Health
from edge.scp.admission import Caller as ReportCaller
from edge.scp.admission import Resolver, reporter_fault
from edge.spool import Spool
from edge.store import commitments, sent_copies
from edge.store.database import Store, Transaction
from edge.store.returned import StudyIdentity, read_identity
from edge.store.todays_facts import read_today
from edge.transform import Transcoder
from edge.transform.confidentiality import Deidentification, read_project
from edge.transform.corrections import TodayFacts, modifying_system, rules_for
from edge.transform.demographics import facts_from
from edge.transform.masking import compile_masks
from edge.worker.roster import Roster, Wish, run_side_by_side

log = logging.getLogger(__name__)


#: By destination the project whose copies it gets, and why its key cannot be read.
_Projects = dict[str, tuple[Deidentification | None, str]]


def _read_projects(config: Config) -> _Projects:
    found: _Projects = {}
    for name, destination in config.destinations.items():
        try:
            found[name] = read_project(destination), ""
        except secret.SecretError as error:
            log.error("%s gets nothing: its copies cannot be de-identified: %s", name, error)
            found[name] = None, str(error)
    return found


#: Senders may go on for this time at the end; with the door's own time below TimeoutStopSec of the unit.
SENDERS_SECONDS = 20.0


class _Station:
    """What serves one destination: a forwarder, and a confirmer where the destination proves."""

    def __init__(self, forwarder: Forwarder, confirmer: Confirmer | None, begin: Callable[[], object]) -> None:
        self.forwarder, self.confirmer, self._begin = forwarder, confirmer, begin

    def start(self) -> None:
        self._begin()
        if self.confirmer is not None:
            self.confirmer.start()
        self.forwarder.start()

    def stop(self) -> None:
        """What is under way may end, within SENDERS_SECONDS."""
        stops: list[Callable[[], None]] = [partial(self.forwarder.stop, SENDERS_SECONDS)]
        if self.confirmer is not None:
            stops.append(self.confirmer.stop)
        run_side_by_side(stops)


def _made_of(config: Config, destination: Destination, projects: _Projects) -> tuple[object, ...]:
    """What serves a destination is made of this: where it changes, another takes its place."""
    callers = config.list_anonymous_callers()
    masks = config.masks if destination.deidentify != "none" else {}
    known = {name: each for name, each in projects.items() if any(each)}
    return destination, bool(config.feeds), callers, config.coercions_for(destination.name), masks, known


def note_coercions(conn: Transaction, new: Config) -> dict[str, float]:
    """Since when each [coerce] rule is what it is."""
    digests = {name: hashlib.sha256(repr(rule).encode()).hexdigest() for name, rule in new.coercions.items()}
    return sent_copies.note_rules(conn, digests, time.time()) if digests else {}


class Outbound:
    """See the module's docstring. The gateway's thread joins and stops; any thread may wake."""

    def __init__(self, db: Store, spool: Spool, config: Config) -> None:
        """Raises ConfigError for bad certificates."""
        self._db, self._spool = db, spool
        self.tls = keyring(config)
        self._addresses_of = Resolver()
        self.transcoder = Transcoder()
        self.stations: Roster[_Station] = Roster()
        self._callers: dict[str, TlsClient] = {}
        self._copy_steps: dict[str, CopySteps] = {}

    def stop(self) -> None:
        """What is under way may end, then it is cut off."""
        self.stations.close()
        self.transcoder.close()

    # -- destinations -------------------------------------------------------------------------------------------------

    def join_destinations(self, new: Config, since: Mapping[str, float]) -> None:
        """Have a station for each destination, with its configuration of now. Waits for no destination.

        `since`: of `note_coercions`.
        """
        title, self._site = new.listen.ae_title, new.site.id
        projects = _read_projects(new)
        for name in self._callers.keys() - new.destinations.keys():
            self._callers.pop(name, None)
        self._copy_steps = {name: self._steps(new, name, since, projects) for name in new.destinations}
        self.stations.want(
            {
                name: Wish(
                    (title, _made_of(new, destination, projects)),
                    partial(self._station, destination, title, self._copy_steps[name]),
                )
                for name, destination in new.destinations.items()
            }
        )

    def _steps(self, new: Config, name: str, since: Mapping[str, float], projects: _Projects) -> CopySteps:
        """What is done to the copies for one destination."""
        project, fault = projects[name]
        rules = rules_for(new.coercions_for(name), lambda rule: since.get(rule, 0.0))
        return CopySteps(
            rules,
            self._facts_of if new.feeds else None,
            modifying_system(new.site.id),
            project,
            fault,
            is_approved=lambda instance: self._is_approved(instance, name),
            identity_of=self._identities(new, projects),
            masks=compile_masks(new.masks, name),
        )

    def _identities(self, new: Config, projects: _Projects) -> Callable[[Lease], StudyIdentity | None] | None:
        """Whose a result is that came back from a destination of de-identified copies."""
        callers = new.list_anonymous_callers()
        map_uids = {name: project.map_uid if project else None for name, (project, _) in projects.items()}

        def find(lease: Lease) -> StudyIdentity | None:
            if not (origins := callers.get(lease.calling_ae)):
                return None
            with self._db.reading() as conn:
                return read_identity(conn, {name: map_uids[name] for name in origins}, lease.study_uid)

        return find if callers else None

    def retrieval_steps(self, new: Config, destination: str) -> CopySteps:
        """What is done to the copies for those who retrieve: they get the patient of today.

        A destination to which they are moved gets what it gets by a route.
        """
        if (steps := self._copy_steps.get(destination)) is not None:
            return steps
        if destination:
            return CopySteps(fault="it is no destination any more")
        return CopySteps(facts=self._facts_of if new.feeds else None, system=modifying_system(new.site.id))

    def _facts_of(self, instance: int) -> TodayFacts:
        with self._db.reading() as conn:
            return facts_from(read_today(conn, instance))

    def _is_approved(self, instance: int, destination: str) -> bool:
        with self._db.reading() as conn:
            return sent_copies.is_approved(conn, instance, destination)

    def _station(self, destination: Destination, calling_ae: str, steps: CopySteps) -> _Station:
        secure, name = self._secure(destination), destination.name
        forwarder = Forwarder(
            self._db,
            self._spool,
            self.transcoder,
            destination,
            calling_ae,
            on_sent=lambda: self._prove(name),
            secure=secure,
            steps=steps,
            site=self._site,
        )
        if destination.confirm == "status":
            return _Station(forwarder, None, lambda: accept_status(self._db, name, time.time()))
        confirmer = Confirmer(self._db, destination, calling_ae, denied=forwarder.wake, secure=secure)
        return _Station(forwarder, confirmer, lambda: None)

    def wake(self, destinations: Iterable[str]) -> None:
        """New or due work: wake what sends it."""
        for name in destinations:
            station = self.stations.get(name)
            if station is not None:
                station.forwarder.wake()

    def wake_all(self) -> None:
        """Work may have come for any destination."""
        self.wake(self.stations.all())

    def try_now(self, name: str) -> None:
        """Find out at once whether a destination that is down is back."""
        if (station := self.stations.get(name)) is not None:
            station.forwarder.try_now()

    def _prove(self, name: str) -> None:
        """Instances have been sent: their proof may be asked for."""
        confirmer = self._confirmer(name)
        if confirmer is not None:
            confirmer.wake()

    def _confirmer(self, name: str) -> Confirmer | None:
        station = self.stations.get(name)
        return station.confirmer if station else None

    def report(
        self, transaction_uid: str, committed: Sequence[str], failed: Mapping[str, int], caller: ReportCaller
    ) -> bool:
        """Take an archive's storage commitment report. False: the transaction is not ours.

        Raises ReportRefused where the caller is not the archive that was asked in that transaction.
        """
        with self._db.reading() as conn:
            asked = commitments.find_request(conn, transaction_uid)
        confirmer = self._confirmer(asked[0]) if asked else None
        if confirmer is None:
            return False
        if why := reporter_fault(confirmer.destination, caller, self._addresses_of):
            raise ReportRefused(f"a report of storage commitment is not accepted: {why}")
        return confirmer.report(transaction_uid, committed, failed)

    def describe(self) -> dict[str, Health]:
        """The state of each destination."""
        return {name: station.forwarder.describe() for name, station in self.stations.all().items()}

    @property
    def is_busy(self) -> bool:
        """Is anything being sent?"""
        return any(health.associations for health in self.describe().values())

    # -- certificates -------------------------------------------------------------------------------------------------

    def use_certificates(self, new: Config) -> None:
        """Read the certificates again. Raises ConfigError; then those before stay active."""
        if self.tls is None or not new.tls.is_on:
            self.tls = keyring(new)  # the port needs a restart, calling out does not
            return
        try:
            self.tls.use(new.tls)
        except TlsError as error:
            raise error.as_config_error(new) from None

    def refresh_certificates(self) -> None:
        """Use certificates whose files have changed."""
        if self.tls is not None:
            self.tls.refresh()

    @property
    def unusable_certificates(self) -> tuple[float, str] | None:
        """Since when new files are not used, and why."""
        return (self.tls.trouble_at, self.tls.trouble) if self.tls is not None and self.tls.trouble else None

    @property
    def revocation_ends(self) -> float | None:
        """When our revocation list expires: from then on nobody is admitted over TLS."""
        return self.tls.revocation_expires if self.tls is not None else None

    def _secure(self, destination: Destination) -> TlsClient | None:
        """What begins TLS with a destination, where it wants that."""
        if not destination.tls or self.tls is None:
            return None
        caller = self._callers[destination.name] = self.tls.client_for(destination.tls_name or destination.host)
        return caller

    def secure_for_destination(self, destination: Destination) -> TlsClient | None:
        """What begins TLS with a destination beside its own station; None where it wants none."""
        if not destination.tls or self.tls is None:
            return None
        return self.tls.client_for(destination.tls_name or destination.host)

    def secure_for(self, host: str) -> TlsClient | None:
        """What begins TLS with a modality; None where there is no [tls]."""
        return self.tls.client_for(host) if self.tls is not None else None

    def certificates(self) -> dict[str, float]:
        """When each certificate ends that a connection needs: by destination, "listen" for our own."""
        found = {name: caller.expires for name, caller in self._callers.items()}
        for name, station in self.stations.all().items():
            found.setdefault(name, station.forwarder.certificate_expires)
        found["listen"] = self.tls.expires if self.tls else None
        return {name: expires for name, expires in found.items() if expires is not None}
