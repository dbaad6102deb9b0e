"""gateway: the door. One process, one event loop, no framework on the way of a token.

`protocol.py` is the client's HTTP connection; it hands whole requests to `door.py`, the table of routes. That answers
at once or makes an `exchange.py` (a chat request's life: parameters, slot, opened, relay, closed, end) or a `relay.py`
(everything that is control's). They share `state.py`: the snapshot (`directory.py` is its look-up), slots, connections
to replicas. `parameters.py` checks a body; `answers.py` writes bytes. `tasks.py` are the loops: follow the snapshot,
watch times, journal progress, drain.
"""
