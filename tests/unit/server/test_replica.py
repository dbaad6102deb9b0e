"""What a replica makes of its configuration."""

from typing import Any

import pytest

from tokenworks.kit.errors import StartError
from tokenworks.server import replica

CONFIG: dict[str, Any] = {
    "model_path": "/models/a.gguf",
    "model_name": "small",
    "slots": 4,
    "context_tokens": 512,
    "threads": 2,
    "key": "secret",
}


def test_the_engine_is_closed_to_others_and_bounded() -> None:
    params = replica.make_params(replica.parse_config(CONFIG))
    assert (params.hostnames, params.port, params.api_keys) == (["127.0.0.1"], 0, ["secret"])
    assert (params.n_parallel, params.n_ctx, params.ctx_shift) == (4, 2048, False)
    # Each keep-alive connection takes a thread: two per slot, and some for probes.
    assert params.n_threads_http >= 2 * 4 + 8
    assert (params.n_batch, params.n_ubatch) == (128, 128)
    assert 0 < params.cache_ram_mib <= 1024
    assert (params.endpoint_metrics, params.endpoint_slots, params.endpoint_props, params.ui) == (
        True,
        False,
        False,
        False,
    )
    assert params.cors_origins != "*"
    assert params.slot_save_path == ""
    assert list(params.server_tools) == []


@pytest.mark.parametrize("change", [{"slots": "4"}, {"key": None}, {"other": 1}])
def test_a_wrong_configuration_is_a_sentence(change: dict[str, Any]) -> None:
    with pytest.raises(StartError, match="configuration of a replica is not valid"):
        replica.parse_config({**CONFIG, **change})


def test_a_missing_model_is_a_sentence() -> None:
    with pytest.raises(StartError, match=r"/models/a\.gguf is missing"):
        replica.load(replica.parse_config(CONFIG))
