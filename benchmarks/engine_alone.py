"""llama.cpp by itself, as its own documentation would run it; the yardstick of `engine`.

Started with one JSON line on stdin (`model_path`, `slots`, `context_tokens`, `threads`); it announces its address and
ends with its parent.
"""

import json
import os
import sys

import xllamacpp


def main() -> None:
    """Serve until stdin ends."""
    config = json.loads(sys.stdin.readline())
    params = xllamacpp.CommonParams()
    params.model.path = config["model_path"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = config["slots"]
    params.n_ctx = config["slots"] * config["context_tokens"]
    params.cpuparams.n_threads = config["threads"]
    params.model_alias = {config["model_name"]}
    server = xllamacpp.Server(params)
    address = server.listening_address.removeprefix("http://")
    print(f"TOKENWORKS_ADDRESS {address}", flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
