"""hub: open models. Today the catalogue: which models are here, and what their files say about themselves.

`model.py` is one model, `policy.py` the rules for names, `store.py` the table, `service.py` imports a file (bytes into
`blobs`, then the row), `adapters/gguf_header.py` reads a file's header, `adapters/packaged.py` finds the model that
came in a Python package. `wire.py` and `api.py`: `/admin/v1/models`.
"""
