"""keys, orgs, models, deployments, status: what they ask, what they print."""

from typing import Any

import pytest

from tests.unit.cli.conftest import Cardboard, Run

KEY = {
    "id": "key_1",
    "organization": "acme",
    "project": "default",
    "scopes": ["inference", "hub:read"],
    "created_at_ms": 1_767_225_600_000,
    "expires_at_ms": None,
    "revoked_at_ms": None,
}
DEPLOYMENT = {
    "name": "smollm2",
    "model": "default/SmolLM2",
    "aliases": [],
    "engine": "llamacpp",
    "replicas": 2,
    "replicas_ready": 1,
    "slots": 16,
    "context_tokens": 2048,
    "output_tokens_max": 2048,
    "created_at_ms": 1,
    "is_ready": True,
    "reason": "",
}
MODEL = {
    "name": "default/SmolLM2",
    "digest": "ab",
    "format": "gguf",
    "size_bytes": 144,
    "architecture": "llama",
    "context_tokens": 8192,
    "parameters": 134_515_008,
    "quantisation": "Q8_0",
    "licence": None,
    "created_at_ms": 1,
}
STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "is_ready": True,
    "started_at_ms": 1_767_225_600_000,
    "now_ms": 1_767_225_600_000,
    "doors": 1,
    "deployments": [
        {
            "name": "smollm2",
            "model": "default/SmolLM2",
            "engine": "llamacpp",
            "is_ready": True,
            "reason": "",
            "replicas_wanted": 1,
            "replicas_ready": 1,
        }
    ],
    "replicas": [],
    "processes": [
        {"id": "door-0", "pid": 7, "started_at_ms": 1, "exit_code": None},
        {"id": "old", "pid": 6, "started_at_ms": 1, "exit_code": -9},
    ],
    "journals": [],
}


def test_keys_create_shows_id_and_text_as_json(board: Cardboard, run: Run) -> None:
    made = {**KEY, "key": "tw-new"}
    board.answers["POST /admin/v1/keys"] = made
    result = run("keys", "create", "--organization", "acme", "--scopes", "inference, hub:read", "--json")
    assert (result.code, result.json["id"], result.json["key"]) == (0, "key_1", "tw-new")
    assert board.keys == {"Bearer tw-test"}
    assert board.asked[0][2]["scopes"] == ["inference", "hub:read"]
    assert board.asked[0][2]["organization"] == "acme"


def test_keys_create_shows_the_text_last_for_people(board: Cardboard, run: Run) -> None:
    board.answers["POST /admin/v1/keys"] = {**KEY, "key": "tw-new"}
    assert run("keys", "create", "--expires", "2030-01-31").out.splitlines()[-1] == "tw-new"
    assert board.asked[0][2]["expires_at_ms"] == 1_896_048_000_000


def test_keys_list_filters(board: Cardboard, run: Run) -> None:
    board.answers["GET /admin/v1/keys"] = {"data": [KEY]}
    result = run("keys", "list", "--organization", "acme")
    assert board.asked[0][1] == "/admin/v1/keys?organization=acme"
    assert "inference, hub:read" in result.out
    assert "2026-01-01 00:00:00Z" in result.out


def test_keys_revoke_names_the_key_in_the_path(board: Cardboard, run: Run) -> None:
    board.answers["DELETE /admin/v1/keys/key_1"] = {**KEY, "revoked_at_ms": 5}
    assert run("keys", "revoke", "key_1").out == "key key_1 is revoked\n"


def test_orgs(board: Cardboard, run: Run) -> None:
    row = {"name": "acme", "created_at_ms": 0}
    board.answers["POST /admin/v1/organizations"] = row
    board.answers["GET /admin/v1/organizations"] = {"data": [row]}
    assert "keys create --organization acme" in run("orgs", "create", "acme").out
    assert run("orgs", "list", "--json").json == [row]


@pytest.mark.parametrize(
    ("noun", "path", "row", "word"),
    [
        ("models", "/admin/v1/models", MODEL, "134515008"),
        ("deployments", "/admin/v1/deployments", DEPLOYMENT, "1 of 2"),
        ("keys", "/admin/v1/keys", KEY, "key_1"),
        ("orgs", "/admin/v1/organizations", {"name": "acme", "created_at_ms": 0}, "acme"),
    ],
)
def test_lists(board: Cardboard, run: Run, noun: str, path: str, row: dict[str, Any], word: str) -> None:
    board.answers[f"GET {path}"] = [{"data": [row]}, {"data": [row]}, {"data": []}, {"data": []}]
    assert run(noun, "list", "--json").json == [row]
    assert word in run(noun, "list").out
    assert run(noun, "list", "--json").json == []
    assert len(run(noun, "list").out.splitlines()) == 1


def test_a_wide_table_is_never_cut(board: Cardboard, run: Run) -> None:
    board.answers["GET /admin/v1/organizations"] = {"data": [{"name": "x" * 300, "created_at_ms": 0}]}
    assert "x" * 300 in run("orgs", "list").out


def test_a_cell_cannot_steer_the_terminal(board: Cardboard, run: Run) -> None:
    board.answers["GET /admin/v1/organizations"] = {"data": [{"name": "\x1b[2J[red]", "created_at_ms": 0}]}
    out = run("orgs", "list").out
    assert "\x1b[2J" not in out
    assert "[red]" in out


def test_status_ready(board: Cardboard, run: Run) -> None:
    board.answers["GET /admin/v1/status"] = [STATUS, STATUS]
    result = run("status")
    assert result.code == 0
    assert "is ready" in result.out
    assert "ended: -9" in result.out
    assert run("status", "--json").json == STATUS


def test_status_not_ready_fails(board: Cardboard, run: Run) -> None:
    board.answers["GET /admin/v1/status"] = {**STATUS, "is_ready": False}
    result = run("status")
    assert result.code == 1
    assert "not ready" in result.out


def test_a_refusal_is_one_sentence(board: Cardboard, run: Run) -> None:
    board.answers["POST /admin/v1/organizations"] = {"error": {"message": "acme exists already", "status": 409}}
    result = run("orgs", "create", "acme", "--json")
    assert (result.code, result.out, result.err) == (1, "", "tokenworks: acme exists already\n")
