"""The gateway's report of itself: one reading of everything, and what is made of it. It writes alerts and samples.

health            `snapshot`: the one reading (`snapshot_model`), with what only the daemon knows (`live`)
status_document, metrics, heartbeat   the same for programs, Prometheus and the central office
notice_document   what is sent of one alert, incident or announcement
alerts/, engine   rules over the snapshot; when an alert is noticed, escalated and over
sampler, host     what is measured now and then, of the machine too
custody           the evidence of one study, for `edge prove`
figures, monthly  quality and volumes, for site and centre
config_warnings   what `edge check` warns of
"""
