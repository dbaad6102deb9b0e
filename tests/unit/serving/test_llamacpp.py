"""How the engine is run, and what its counters say; the engine itself is tested in tests/integration/serving."""

from pathlib import Path

from tokenworks.serving.adapters.llamacpp import LlamaCpp
from tokenworks.serving.model import Deployment
from tokenworks.serving.ports import ReplicaWanted


def test_the_key_travels_in_the_configuration_only() -> None:
    deployment = Deployment("small", "default/small", (), "llamacpp", 1, 4, 2048, 2048, 1)
    wanted = ReplicaWanted("replica_1", deployment, Path("/a folder/m.gguf"), "secret", {"deployment": "small"})
    spec = LlamaCpp("/usr/bin/python", 3).make_process(wanted)
    assert spec.argv == ("/usr/bin/python", "-m", "tokenworks.server.replica")
    assert spec.config["key"] == "secret"
    assert spec.config["model_path"] == "/a folder/m.gguf"
    assert (spec.config["slots"], spec.config["context_tokens"], spec.config["threads"]) == (4, 2048, 3)
    assert "secret" not in f"{spec.argv}{spec.environment}{spec.log_name}"
    # Without these, idle threads spin and take the cores from everybody else.
    assert (spec.environment["GOMP_SPINCOUNT"], spec.environment["OMP_WAIT_POLICY"]) == ("0", "passive")
