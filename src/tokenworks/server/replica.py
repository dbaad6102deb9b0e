"""The main of a replica: llama.cpp's server in a process of its own, with a key of its own.

It announces its address when the model is loaded, and ends when it is told to (SIGTERM), or when its parent is gone. It
has nothing to save, so both end it at once; who runs it drains it first. A model that cannot be loaded ends it with a
sentence as the last line of its log, which becomes the replica's reason.

Invariants: it listens on loopback only, on a port that the system chooses, and answers nothing of worth without the
key; what could read or change the engine over HTTP (slots, properties, tools, web page) is off.
"""

import os
import threading
from typing import Any

import msgspec
import xllamacpp

from tokenworks.cluster.child import announce, read_config
from tokenworks.kit.errors import StartError

CANNOT_START = 2
"""Exit code after a sentence about what is missing."""

_BATCH_TOKENS = 128
"""Prompt tokens per step. A client's leaving is noticed between two steps: with 128 a long prompt is given up within a
second on two cores (with the engine's default it is read to its end, 6 s and more), for about 4 % of the throughput of
prompts."""
_CACHE_MIB_MAX = 256
"""Prompts kept outside the slots; the default would be 8192."""
_READ_WAIT_S = 60
_WRITE_WAIT_S = 180
"""Longer than a door lets a slow client stall, so that it is the door that gives up."""
_LOG_LEVEL = 1
"""Errors. Warnings come with ordinary requests, one whose prompt is cached for example."""
_LOG_WAIT_S = 0.2


class ReplicaConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the engine's adapter (`serving/adapters/llamacpp.py`) puts on stdin."""

    model_path: str
    model_name: str
    slots: int
    context_tokens: int
    """Per slot."""
    threads: int
    key: str


def main() -> None:
    """Run until the end of the process."""
    try:
        config = parse_config(read_config())
        server = load(config)
    except StartError as error:
        # The engine writes its log in a thread of its own; the reason must be the last line.
        threading.Event().wait(_LOG_WAIT_S)
        os.write(2, f"{error.message}\n".encode())
        os._exit(CANNOT_START)
    announce(server.listening_address.rpartition("/")[2])
    threading.Event().wait()


def parse_config(content: dict[str, Any]) -> ReplicaConfig:
    """Read the configuration.

    Raises:
        StartError: it is not that of a replica.
    """
    try:
        return msgspec.convert(content, ReplicaConfig)
    except msgspec.ValidationError as error:
        raise StartError(f"the configuration of a replica is not valid: {error}") from error


def load(config: ReplicaConfig) -> xllamacpp.Server:
    """Load the model and listen.

    Raises:
        StartError: the model cannot be loaded.
    """
    if not os.access(config.model_path, os.R_OK):
        raise StartError(f"the model's file {config.model_path} is missing or cannot be read")
    try:
        return xllamacpp.Server(make_params(config))
    except RuntimeError as error:
        raise StartError(
            f"the model {config.model_name} cannot be loaded: {config.model_path} is not a model that this engine"
            f" reads, or memory is short ({error})"
        ) from error


def make_params(config: ReplicaConfig) -> xllamacpp.CommonParams:
    """The engine's parameters."""
    params = xllamacpp.CommonParams()
    params.model.path = config.model_path
    params.model_alias = {config.model_name}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [config.key]
    params.n_parallel = config.slots
    params.n_ctx = config.slots * config.context_tokens
    params.fit_params = False
    params.ctx_shift = False
    params.cpuparams.n_threads = config.threads
    params.cpuparams_batch.n_threads = config.threads
    params.n_batch = params.n_ubatch = _BATCH_TOKENS
    params.cache_ram_mib = _CACHE_MIB_MAX
    # A connection takes a thread for as long as it is open, also while it is idle.
    params.n_threads_http = 2 * config.slots + 16
    params.timeout_read = _READ_WAIT_S
    params.timeout_write = _WRITE_WAIT_S
    params.endpoint_metrics = True
    params.endpoint_slots = False
    params.endpoint_props = False
    params.ui = False
    params.cors_origins = "null"
    params.verbosity = _LOG_LEVEL
    return params


if __name__ == "__main__":
    main()
