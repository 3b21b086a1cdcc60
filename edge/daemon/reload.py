"""A new configuration for a running gateway, and what only a restart changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from edge import config
from edge.config.sections import Config
from edge.daemon.configuring import BY_HAND, record_state
from edge.daemon.gateway import Gateway
from edge.daemon.outbound import note_coercions
from edge.errors import CatalogError, ConfigError, Hindered, StorageUnhealthy, place_of
from edge.intake.policy import Policy
from edge.messaging.audit import begin_audit
from edge.storage.retention import apply_holds
from edge.store import destinations, ledger
from edge.store.database import Transaction
from edge.store.destinations import DestinationCounts

log = logging.getLogger(__name__)

#: Keys that changed in a configuration, in one row of the ledger; the tables that they are in are all there.
MAX_CHANGES = 50


def reload(gateway: Gateway) -> list[str]:
    """Read the configuration again, and use it from the next association on.

    Returns its faults: with any, the running configuration stays active. Type=notify of systemd: no READY before the
    reload is done, and none is missed whatever happens. Raises what hinders the gateway: then nothing of the new one is
    used, and it may be tried again (edge.daemon.lifecycle).
    """
    gateway.notify("RELOADING=1")
    try:
        return _reload(gateway)
    except ConfigError as error:
        log.error("the configuration is bad, the running one stays active:\n%s", error)
        return _reject(gateway, error.problems)
    except (Hindered, StorageUnhealthy, CatalogError, OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - a fault of ours must not end what receives
        log.critical("the configuration could not be read again, by a fault of the gateway: %s", place_of(error))
        return _reject(gateway, ["the gateway failed on it, see its log"])
    finally:
        gateway.notify("READY=1")


def _reject(gateway: Gateway, problems: list[str]) -> list[str]:
    gateway.rejected_at = time.time()
    rejected = {"action": ledger.REJECT, "faults": len(problems)}
    gateway.db.write(lambda conn: _record_configured(conn, rejected))
    return problems


def _reload(gateway: Gateway) -> list[str]:
    """What may fail comes first, then one transaction, then the use: behind the transaction nothing may fail."""
    files = gateway.configuring.files()
    new = config.load_config(gateway.directory)
    policy = Policy.from_config(new)
    gateway.outbound.use_certificates(new)
    if fixed := need_restart(gateway.config, new):
        log.warning("%s changed: restart to use it", ", ".join(fixed))
    new = keep_bound(gateway.config, new)
    changed, author = config.changes(gateway.config, new), gateway.configuring.author_of(files)

    def apply(conn: Transaction) -> tuple[Mapping[str, float], list[DestinationCounts]]:
        begin_audit(conn, new.audit)
        apply_holds(conn, new)
        _record_configured(conn, change_payload(changed, author.reason), author.who)
        record_state(conn, files, author)
        gateway.intake.policy = policy  # here: what is entered behind these holds is held by the same rules
        return note_coercions(conn, new), destinations.list_removed_destinations(conn, list(new.destinations))

    before = gateway.intake.policy
    try:
        since, removed = gateway.db.write(apply)
    except BaseException:
        gateway.intake.policy = before
        raise
    _use(gateway, new, since)
    gateway.configuring.note_read(files)
    _warn_of_removed(removed)
    log.info("the configuration has been read again")
    return []


def _use(gateway: Gateway, new: Config, since: Mapping[str, float]) -> None:
    """Have every part use it. What fails nevertheless, by a fault of ours, keeps no other part from it."""
    # Who acts by the new configuration (the review of retention) has its policy.
    gateway.config, gateway.rejected_at = new, None
    gateway.importer.recorder.search = gateway.fetched.recorder.search = gateway.intake.policy.header
    uses: dict[str, Callable[[], None]] = {
        "what answers queries": gateway.answerer.configure,
        "the doors": gateway.doors.configure,
        "the audit trail": gateway.audit.join,
        "destinations": partial(gateway.outbound.join_destinations, new, since),
        "channels": partial(gateway.notifications.join_channels, new),
        "relays": partial(gateway.relays.join, new),
    }
    for name, use in uses.items():
        try:
            use()
        except Exception as error:  # noqa: BLE001 - see above
            log.critical("%s cannot use the new configuration, restart the gateway: %s", name, place_of(error))


def change_payload(changed: Sequence[str], reason: str = "") -> ledger.Payload:
    """What the ledger says of keys that changed: of very many only some, but each table that has one."""
    return {
        "action": ledger.CHANGE,
        "sections": sorted({key.partition(".")[0] for key in changed}),
        "keys": list(changed[:MAX_CHANGES]),
        "left_out": max(0, len(changed) - MAX_CHANGES),
        **({"reason": reason} if reason else {}),
    }


def _record_configured(conn: Transaction, payload: ledger.Payload, who: str = BY_HAND) -> None:
    by = ledger.EDGE if who == BY_HAND else who
    ledger.append(conn, time.time(), ledger.CONFIGURED, by, [], payload=payload)


def _warn_of_removed(removed: Sequence[DestinationCounts]) -> None:
    """Log what can be done about a destination whose table is gone, and that has work left."""
    for each in removed:
        log.warning(
            "%d deliveries are left for destination %s, which is not configured: put its table back, or type"
            " `edge destination rename` or `retire`",
            each.left,
            each.name,
        )


def keep_bound(old: Config, new: Config) -> Config:
    """The new configuration, with what only a restart changes as it was."""
    return replace(
        new,
        site=replace(new.site, data_dir=old.site.data_dir),
        listen=replace(new.listen, host=old.listen.host, port=old.listen.port, plain=old.listen.plain),
        console=old.console,
        hl7=old.hl7,
        dicomweb=replace(new.dicomweb, host=old.dicomweb.host, port=old.dicomweb.port),
    )


def need_restart(old: Config, new: Config) -> list[str]:
    """Keys that a running gateway cannot change."""
    pairs = {
        "site.data_dir": (old.site.data_dir, new.site.data_dir),
        "listen.host": (old.listen.host, new.listen.host),
        "listen.port": (old.listen.port, new.listen.port),
        "listen.plain": (old.listen.plain, new.listen.plain),
        "tls.port": (old.tls.is_on and old.tls.port, new.tls.is_on and new.tls.port),
        "console": (old.console, new.console),
        "hl7": (old.hl7, new.hl7),
        "dicomweb.host": (old.dicomweb.host, new.dicomweb.host),
        "dicomweb.port": (old.dicomweb.port, new.dicomweb.port),
    }
    return [key for key, (before, after) in pairs.items() if before != after]
