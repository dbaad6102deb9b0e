"""testing: what we ship for the tests of our users, and use in our own. `running.py` starts a real tokenworks in a home
of its own and stops it in the end; `builders.py` makes records of metering with the fields that a test cares about.
"""
