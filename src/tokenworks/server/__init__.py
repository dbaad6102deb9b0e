"""server: the composition root: mains of supervisor, control, door and replica; `wiring.py` joins ports and adapters."""
