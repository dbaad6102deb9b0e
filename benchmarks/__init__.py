"""Measurements: what the door costs beside nginx (`door`), what it takes from an engine (`engine`), what it leaves
behind (`leak`). Each is one command that ends by itself and talks to loopback only; `docs/benchmarks.md` says what is
measured and how. `mock_upstream.c` (an engine that costs nothing) and `load.c` (a client that checks every answer) are
compiled by `build`.
"""
