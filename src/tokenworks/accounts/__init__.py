"""accounts: who may do what. Organizations own projects, projects own API keys.

`model.py` has the three nouns, `policy.py` the rules (names, scopes, what a key looks like, when it is good),
`store.py` the tables, `service.py` the use cases, `adapters/key_file.py` the administrator's key on disk, `wire.py` and
`api.py` the routes under `/admin/v1`. A key's text is shown once; only its SHA-256 is kept.
"""
