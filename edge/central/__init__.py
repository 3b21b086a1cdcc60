"""The central office: one service that hears the heartbeats of all sites, and answers questions about them.

It keeps a store of its own (edge.central.store), never a site's catalog. What comes in is judged by pure functions
(edge.central.judge), written by edge.central.intake; what does not come is noticed by edge.central.watch.
"""
