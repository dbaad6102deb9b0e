"""serving: any model of the catalogue behind one API. Deployments are rows (`model.py`, `store.py`); a reconcile loop
(`tasks.py`) decides by `policy.py` which replicas to start and stop and asks `cluster` to do it. A replica is ready
when a token came out of it. `dialect.py` knows how each engine speaks: what to send, where its counts stand.
"""
