"""The report of a month by mail: to each [email.NAME] with `monthly = true`, once the month is over.

The mails and the name of the month are written in one transaction, so that a month is mailed once. Limit: where no
report was ever mailed, the first is that of the month in which somebody asked for it.
"""

from __future__ import annotations

import json

from edge.config.channels import monthly_channels
from edge.config.sections import Config
from edge.messaging.notice import LETTER
from edge.monitor.monthly import mail_is_due, month_of, monthly_report
from edge.monitor.monthly_text import report_letter
from edge.spool.room import disk_of
from edge.store import gateway_values, outbox
from edge.store.database import Store, Transaction

#: The month whose report was mailed last.
MAILED = "month_mailed"


def post_due_report(db: Store, config: Config, now: float) -> bool:
    """Post the report of the last month where it is due. Returns whether there is something to send."""
    queues = monthly_channels(config)
    if not queues:
        return False
    month = month_of("", config.calendar, now)
    with db.reading() as conn:
        last = gateway_values.recall(conn, MAILED)
        if last is not None and not mail_is_due(last, config.calendar, now):
            return False
        report = monthly_report(conn, config, disk_of(config.site.data_dir), month, now)
    subject, text = report_letter(report)
    body = json.dumps({"subject": subject, "text": text})

    def work(conn: Transaction) -> None:
        for queue in queues if last is not None else ():
            outbox.post(conn, queue, LETTER, now, body)
        gateway_values.remember(conn, MAILED, month.name)

    db.write(work)
    return last is not None
