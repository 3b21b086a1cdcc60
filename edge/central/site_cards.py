"""A site's tags, contact and link: of the configuration, or as people of the centre have noted them since."""

from __future__ import annotations

import time
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edge.central.access import CentralPage
from edge.central.config import CentralConfig, Site
from edge.config import kinds
from edge.errors import EdgeError
from edge.store.central.centre_state import journal
from edge.store.central.site_cards import SiteCard, put_card, read_cards
from edge.store.engine import EngineTransaction
from edge.web.guard import visitor_of

#: Of one site, and characters of each, of its contact and of its link.
MOST_TAGS, MOST_TAG, MOST_CARD_TEXT = 20, 40, 200


def described_sites(conn: EngineTransaction, config: CentralConfig) -> dict[str, Site]:
    """Return the configured sites, each with what was noted of it last."""
    cards = read_cards(conn)
    return {
        name: replace(site, tags=card.tags, contact=card.contact, link=card.link)
        if (card := cards.get(name)) is not None
        else site
        for name, site in config.sites.items()
    }


def parse_card(tags: str, contact: str, link: str, now: float, who: str) -> SiteCard:
    """Return what a person has typed. Raises EdgeError."""
    words = tuple(dict.fromkeys(each.strip()[:MOST_TAG] for each in tags.split(",") if each.strip()))
    if len(words) > MOST_TAGS:
        raise EdgeError(f"A site has at most {MOST_TAGS} tags.")
    address = link.strip()[:MOST_CARD_TEXT]
    if address:
        try:
            kinds.URL.parse(address)
        except ValueError:
            raise EdgeError("Link: write an address that begins with https://.") from None
    return SiteCard(words, " ".join(contact.split())[:MOST_CARD_TEXT], address, now, who)


class SiteCards(CentralPage):
    async def save(self, request: Request) -> Response:
        """POST /site/ID/card: note tags, contact and link of a site."""
        visitor, site = visitor_of(request), request.path_params["id"]
        if site not in self._config().sites:
            return self._pages.render_missing(request)
        given = (visitor.field("tags"), visitor.field("contact"), visitor.field("link"))
        try:
            card = parse_card(*given, time.time(), visitor.name)
        except EdgeError as error:
            visitor.leave_notice(f"Nothing was changed. {error}")
            return RedirectResponse(f"/site/{site}#card", 303)

        def work(conn: EngineTransaction) -> None:
            put_card(conn, site, card)
            journal(conn, visitor.name, f"tags, contact and link of site {site} changed")

        await self._store.write(work)
        visitor.leave_notice("Tags, contact and link are noted.")
        return RedirectResponse(f"/site/{site}", 303)
