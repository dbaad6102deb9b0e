"""The journal on a local disk: `disk_journal.py` is the journal, on `segments.py` (files) and `worker.py` (threads)."""
