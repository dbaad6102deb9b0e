"""metering: what was used, accepted exactly once, then summed.

A door writes each request's life as records (`model.py`: opened, progress, closed) into a journal on its own disk
(`journal.py` is the byte format, `adapters/disk_journal.py` the group-committed file). `policy.py` holds the request's
state machine and what recovery makes of a request that never closed. The shipper sends the journal's bytes to control,
where `service.py` turns each closed record into one usage row under its unique id (`store.py`); a replay changes
nothing. `api.py` and `wire.py` show the rows.
"""
