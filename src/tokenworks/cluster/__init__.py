"""cluster: where processes run, behind one port. Today: this machine. The supervisor (`server/supervisor.py`) owns the
real processes (`adapters/local.py`); control asks it to start and stop replicas over a unix socket
(`adapters/remote.py`, same port), so that replicas outlive a control that dies.
"""
