"""What a running gateway keeps from its start, whatever a new configuration says: its directory and its addresses."""

from __future__ import annotations

from dataclasses import replace

from edge.config.sections import Config


def keep_bound(old: Config, new: Config) -> Config:
    """The new configuration, with what only a restart changes as it was."""
    return replace(
        new,
        site=replace(new.site, data_dir=old.site.data_dir),
        listen=replace(new.listen, host=old.listen.host, port=old.listen.port, plain=old.listen.plain),
        console=old.console,
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
    }
    return [key for key, (before, after) in pairs.items() if before != after]
