"""The central office: one service that receives the heartbeats of all sites, and answers questions about them.

It keeps a database of its own (edge.store.engine), never a site's catalog. A heartbeat is classified by pure functions
(edge.central.sequence), written by edge.central.intake; what does not come is noticed by edge.central.watch.
"""
