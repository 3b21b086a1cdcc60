"""The console as the daemon has it: its address and TLS, and the pages, which are loaded when somebody asks for one."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edge.config import secret
from edge.console.access import Access
from edge.console.server import Console
from edge.console.tls import RevocationLists, console_files
from edge.daemon.start import StartError, bind
from edge.network.tls import TlsError
from edge.web.accounts import UserRole
from edge.web.client_certificates import ask_for_certificates, page_context
from edge.web.setup import Setup

if TYPE_CHECKING:
    from edge.daemon.state import State
    from edge.web.guard import Guard


class ConsoleDoor:
    """See the module's docstring."""

    def __init__(self, access: Access, setup: Setup, metrics: Callable[[], str], state: State) -> None:
        """Bind the address. Raises StartError."""
        self._access, self._setup = access, setup
        self._guard: Guard | None = None  # once the pages are loaded
        self.revocation = RevocationLists(None, None)
        console = access.config().console
        self._console = bind(
            "console",
            lambda: Console(
                console.host,
                console.port,
                access.status,
                metrics,
                state.ready,
                self._pages,
                frozenset(name.lower() for name in (*console.names, console.host)),
                console.proxies,
                self._own_tls(),
            ),
        )
        self.start, self.stop = self._console.start, self._console.stop

    def _own_tls(self) -> ssl.SSLContext | None:
        """The console's own TLS. Raises StartError."""
        try:
            found = console_files(self._access.config(), self._access.directory)
            if found is None:
                return None
            context = page_context(found.certificate, found.key)
            if found.client_ca is not None:
                ask_for_certificates(context, found.client_ca, found.client_crl)
        except (TlsError, secret.SecretError) as error:
            raise StartError(f"console: {error}") from None
        self.revocation = RevocationLists(context, found.client_crl)
        return context

    def _pages(self) -> Any:
        """The pages for people, loaded when they are first asked for."""
        from edge.console import application  # noqa: PLC0415  # a site where nobody does need not pay for them

        self._guard = application.build_console(self._access, self._setup, self._console.known)
        return self._guard

    def find_person(self, cookies: str) -> dict[str, Any]:
        """Who has signed in at the console, of those who may see patients; empty: nobody."""
        account = self._guard.find_person(cookies) if self._guard is not None else None
        return {"name": account.name} if account is not None and account.role >= UserRole.OPERATOR else {}

    def setup_link(self) -> str | None:
        """Where the first account is made; None: there is one."""
        console = self._access.config().console
        host = "127.0.0.1" if console.host in ("0.0.0.0", "::") else console.host
        return self._setup.link(f"http://{f'[{host}]' if ':' in host else host}:{console.port}")
