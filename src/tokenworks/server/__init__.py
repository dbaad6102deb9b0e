"""server: the composition root: mains of supervisor, control, door, replica; `wiring.py` joins ports and adapters."""
