"""cli: the `tokenworks` command, one file per noun. `main.py` joins them and turns every failure into one sentence on
stderr; `connection.py` finds the running tokenworks; `output.py` prints tables for people and JSON for programs.
Commands speak only through `client`; `up` and `down` alone know `server`, because before `up` there is nobody to speak
to. What a command needs is imported when it runs, so that `tokenworks --help` appears at once.
"""
