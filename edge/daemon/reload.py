"""A new configuration for a running gateway, and what only a restart changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from edge import config
from edge.config.sections import Config
from edge.daemon.configuring import BY_HAND, record_state
from edge.daemon.gateway import Gateway
from edge.errors import CatalogError, ConfigError, Hindered, StorageUnhealthy, place_of
from edge.intake.policy import Policy
from edge.storage.retention import apply_holds
from edge.store import destinations, ledger
from edge.store.database import Transaction

log = logging.getLogger(__name__)

#: Keys that changed in a configuration, in one row of the ledger; the tables that they are in are all there.
MAX_CHANGES = 50


def reload(gateway: Gateway) -> list[str]:
    """Read the configuration again, and use it from the next association on.

    Returns its faults: with any, the running configuration stays active. Type=notify of systemd: no READY before the
    reload is done, and none is missed whatever happens. Raises what hinders the gateway (edge.daemon.lifecycle).
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
    files = gateway.configuring.files()
    new = config.load_config(gateway.directory)
    policy = Policy.from_config(new)
    gateway.outbound.use_certificates(new)
    gateway.rejected_at = None
    if fixed := need_restart(gateway.config, new):
        log.warning("%s changed: restart to use it", ", ".join(fixed))
    new = keep_bound(gateway.config, new)
    changed = config.changes(gateway.config, new)
    # In this order: who acts by the new configuration (the review of retention) has its policy.
    gateway.intake.policy, gateway.config = policy, new
    gateway.answerer.configure()
    gateway.importer.recorder.search = gateway.fetched.recorder.search = policy.header
    gateway.doors.configure()
    gateway.audit.begin()

    author = gateway.configuring.author_of(files)

    def apply(conn: Transaction) -> None:
        apply_holds(conn, new)
        _record_configured(conn, change_payload(changed, author.reason), author.who)
        record_state(conn, files, author)

    gateway.db.write(apply)
    gateway.configuring.note_read(files)
    gateway.audit.join()
    gateway.outbound.join_destinations(new)
    gateway.notifications.join_channels(new)
    gateway.relays.join(new)
    _warn_of_unconfigured(gateway)
    log.info("the configuration has been read again")
    return []


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


def _warn_of_unconfigured(gateway: Gateway) -> None:
    """Log what can be done about a destination whose table is gone, and that has work left."""
    with gateway.db.reading() as conn:
        for each in destinations.list_removed_destinations(conn, list(gateway.config.destinations)):
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
