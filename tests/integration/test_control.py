"""Control's HTTP API over its real unix socket, in this process: a tiny model, and a supervisor that starts nothing."""

import asyncio
import dataclasses
import json
import stat
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tokenworks.cluster.model import ProcessSpec, ProcessStatus
from tokenworks.kit.config import Settings
from tokenworks.kit.errors import StartError, UnavailableError
from tokenworks.kit.http1 import Response, fetch
from tokenworks.metering.journal import encode
from tokenworks.metering.model import Closed, Counts, Opened, Status
from tokenworks.region.model import Snapshot
from tokenworks.server.control import prepare, serve
from tokenworks.server.wiring import Control, build_control

REGION_KEY = "r" * 43


class NoProcesses:
    """A supervisor that starts nothing."""

    async def start(self, spec: ProcessSpec) -> ProcessStatus:
        raise UnavailableError(f"{spec.process_id} cannot be started here")

    async def stop(self, process_id: str) -> None:
        pass

    async def list(self) -> tuple[ProcessStatus, ...]:
        return ()


@dataclass
class Running:
    """A control that answers."""

    control: Control
    address: str
    admin: str
    stopping: asyncio.Event

    async def call(
        self, method: str, path: str, body: object = None, *, key: str | None = None, **headers: str
    ) -> Response:
        authorization = {"authorization": f"Bearer {self.admin if key is None else key}"}
        content = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        given = tuple({**authorization, **headers}.items())
        return await fetch(self.address, method, path, headers=given, body=content, timeout_ms=10_000)

    async def ask(self, method: str, path: str, body: object = None, **options: Any) -> Any:
        response = await self.call(method, path, body, **options)
        assert response.status in (200, 201), response
        return json.loads(response.body)


def make_settings(home: Path, **values: Any) -> Settings:
    serving = {"context_tokens": 128, "slots": 4, **values.pop("serving", {})}
    return Settings(home=home, serving=serving, **values)


def make_control(home: Path, model: Path, **values: Any) -> Control:
    control = build_control(make_settings(home, **values), REGION_KEY, NoProcesses())
    return dataclasses.replace(control, find_default_model=lambda: model)


@pytest.fixture
async def running(short_folder: Path, tiny_model: Path) -> AsyncIterator[Running]:
    control = make_control(short_folder, tiny_model, doors=2)
    await prepare(control)
    stopping = asyncio.Event()
    path = short_folder / "control.sock"
    path.touch()
    task = asyncio.create_task(serve(control, path, stopping))
    running = Running(control, f"unix:{path}", (short_folder / "admin.key").read_text().strip(), stopping)
    while (await knock(running)) is None:
        await asyncio.sleep(0.01)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    yield running
    stopping.set()
    async with asyncio.timeout(5):
        await task
    assert not path.exists()
    await control.database.close()


async def knock(running: Running) -> Response | None:
    try:
        return await running.call("GET", "/admin/v1/models")
    except Exception:
        return None


def error_of(response: Response) -> Mapping[str, Any]:
    content = json.loads(response.body)
    assert set(content) == {"error"}
    assert set(content["error"]) == {"message", "type", "param", "code"}
    assert content["error"]["message"]
    return {**content["error"], "status": response.status}


async def test_the_default_model_and_deployment_are_there(running: Running) -> None:
    models = (await running.ask("GET", "/admin/v1/models"))["data"]
    assert [(row["name"], row["context_tokens"]) for row in models] == [("default/SmolLM2-135M-Instruct", 256)]
    deployments = (await running.ask("GET", "/admin/v1/deployments"))["data"]
    assert deployments[0]["name"] == "smollm2-135m-instruct"
    assert deployments[0]["aliases"] == ["default/SmolLM2-135M-Instruct"]
    assert not deployments[0]["is_ready"]
    assert deployments[0]["reason"]
    status = await running.ask("GET", "/admin/v1/status")
    assert (status["is_ready"], status["doors"]) == (False, 2)
    assert isinstance((await running.ask("GET", "/admin/v1/replicas"))["data"], list)


async def test_organizations_projects_and_keys(running: Running) -> None:
    assert (await running.ask("POST", "/admin/v1/organizations", {"name": "team"}))["name"] == "team"
    names = [row["name"] for row in (await running.ask("GET", "/admin/v1/organizations"))["data"]]
    assert names == ["default", "team"]
    await running.ask("POST", "/admin/v1/projects", {"organization": "team", "name": "blue"})
    projects = (await running.ask("GET", "/admin/v1/projects?organization=team"))["data"]
    assert [row["name"] for row in projects] == ["blue", "default"]
    made = await running.ask("POST", "/admin/v1/keys", {"organization": "team", "project": "blue"})
    assert made["key"].startswith("tw-")
    assert made["scopes"] == ["inference", "hub:read", "hub:write"]
    (listed,) = (await running.ask("GET", "/admin/v1/keys?organization=team"))["data"]
    assert listed["id"] == made["id"]
    assert made["key"] not in json.dumps(listed)
    revoked = await running.ask("DELETE", f"/admin/v1/keys/{made['id']}")
    assert revoked["revoked_at_ms"] is not None


async def test_a_key_without_admin_sees_the_catalogue_and_its_usage_only(running: Running) -> None:
    key = (await running.ask("POST", "/admin/v1/keys", {}))["key"]
    assert (await running.call("GET", "/admin/v1/models", key=key)).status == 200
    assert (await running.call("GET", "/admin/v1/usage", key=key)).status == 200
    for path in ("keys", "organizations", "projects", "status", "deployments", "replicas"):
        error = error_of(await running.call("GET", f"/admin/v1/{path}", key=key))
        assert (error["status"], error["code"]) == (403, "insufficient_scope")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "param"),
    [
        ("GET", "/admin/v1/nothing", None, 404, "not_found", None),
        ("PUT", "/admin/v1/keys", None, 405, "method_not_allowed", None),
        ("POST", "/admin/v1/organizations", b"{", 400, "invalid_json", None),
        ("POST", "/admin/v1/organizations", b"\xff", 400, "invalid_json", None),
        ("POST", "/admin/v1/organizations", [], 400, "invalid_request", None),
        ("POST", "/admin/v1/organizations", {}, 400, "invalid_request", "name"),
        ("POST", "/admin/v1/organizations", {"name": 7}, 400, "invalid_request", "name"),
        ("POST", "/admin/v1/organizations", {"name": "a", "extra": 1}, 400, "invalid_request", "extra"),
        ("POST", "/admin/v1/organizations", {"name": "No"}, 400, "invalid_name", "name"),
        ("POST", "/admin/v1/organizations", {"name": "default"}, 409, "conflict", "name"),
        ("POST", "/admin/v1/organizations", b" " * 1_100_000, 413, "request_too_large", None),
        ("POST", "/admin/v1/keys", {"scopes": ["root"]}, 400, "invalid_scope", "scopes"),
        ("POST", "/admin/v1/keys", {"expires_at_ms": 1}, 400, "invalid_request", "expires_at_ms"),
        ("POST", "/admin/v1/keys", {"expires_at_ms": 2**63}, 400, "invalid_request", "expires_at_ms"),
        ("POST", "/admin/v1/keys", {"expires_at_ms": "1"}, 400, "invalid_request", "expires_at_ms"),
        ("POST", "/admin/v1/keys", {"organization": "none"}, 404, "not_found", "organization"),
        ("GET", "/admin/v1/keys?colour=red", None, 400, "invalid_request", "colour"),
        ("GET", "/admin/v1/projects?organization=none", None, 404, "not_found", "organization"),
        ("DELETE", "/admin/v1/keys/key_none", None, 404, "not_found", "key_id"),
    ],
)
async def test_bad_requests_have_one_shape(
    running: Running, method: str, path: str, body: object, status: int, code: str, param: str | None
) -> None:
    error = error_of(await running.call(method, path, body))
    assert (error["status"], error["code"], error["param"]) == (status, code, param)


async def test_missing_and_wrong_keys(running: Running) -> None:
    for key, code in (("", "missing_api_key"), ("tw-wrong", "invalid_api_key")):
        response = await running.call("GET", "/admin/v1/keys", key=key)
        error = error_of(response)
        assert (error["status"], error["code"]) == (401, code)
        assert response.headers["www-authenticate"] == "Bearer"


async def test_the_last_admin_key_cannot_be_revoked(running: Running) -> None:
    (key,) = (await running.ask("GET", "/admin/v1/keys"))["data"]
    error = error_of(await running.call("DELETE", f"/admin/v1/keys/{key['id']}"))
    assert (error["status"], error["code"]) == (409, "last_admin_key")


async def test_a_bug_is_answered_without_its_details(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_connection: object) -> None:
        raise RuntimeError("a secret of the house")

    monkeypatch.setattr(running.control.hub, "list", fail)
    response = await running.call("GET", "/admin/v1/models")
    assert error_of(response)["status"] == 500
    assert b"secret" not in response.body


async def test_only_the_regions_key_opens_the_region(running: Running) -> None:
    for key in (running.admin, "", "é"):
        error = error_of(await running.call("GET", "/region/v1/snapshot", key=key))
        assert (error["status"], error["code"]) == (401, "invalid_region_key")


async def test_a_revoked_key_reaches_a_waiting_door_in_milliseconds(running: Running) -> None:
    made = await running.ask("POST", "/admin/v1/keys", {})
    first = await running.call("GET", "/region/v1/snapshot", key=REGION_KEY)
    snapshot = msgspec.json.decode(first.body, type=Snapshot)
    assert made["key"] not in first.body.decode()
    path = f"/region/v1/snapshot?etag={snapshot.etag}&wait_ms=8000"
    waiting = asyncio.create_task(running.call("GET", path, key=REGION_KEY))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await running.ask("DELETE", f"/admin/v1/keys/{made['id']}")
    async with asyncio.timeout(0.5):
        second = msgspec.json.decode((await waiting).body, type=Snapshot)
    assert {key.key_id: key.is_revoked for key in second.keys}[made["id"]]
    assert second.etag != snapshot.etag


async def test_an_unchanged_snapshot_is_304(running: Running) -> None:
    for _ in range(50):
        first = await running.call("GET", "/region/v1/snapshot", key=REGION_KEY)
        etag = msgspec.json.decode(first.body, type=Snapshot).etag
        # The replica that cannot be started changes it now and then.
        second = await running.call("GET", f"/region/v1/snapshot?etag={etag}&wait_ms=1", key=REGION_KEY)
        if second.status == 304:
            break
    assert (second.status, second.body) == (304, b"")


async def test_a_journal_is_shipped(running: Running) -> None:
    now = running.control.clock.now_ms()
    opened = Opened("req_1", None, "default", "default", "key_1", "m", "replica_1", now)
    closed = Closed(
        *("req_1", None, "default", "default", "key_1", "m", "replica_1"),
        *(now, now + 5, Status.COMPLETED, "", Counts(3, 1, 2)),
    )
    data = encode(opened) + encode(closed)
    at = "/region/v1/journals/journal_a"
    assert await running.ask("GET", at, key=REGION_KEY) == {"segment": 0, "offset": 0}
    reached = await running.ask("POST", f"{at}/1?offset=0", data, key=REGION_KEY)
    assert reached == {"segment": 1, "next_offset": len(data)}
    again = await running.call("POST", f"{at}/1?offset=0", data, key=REGION_KEY)
    assert (again.status, json.loads(again.body)) == (409, reached)
    assert await running.ask("GET", at, key=REGION_KEY) == {"segment": 1, "offset": len(data)}
    (row,) = (await running.ask("GET", "/admin/v1/usage/requests"))["data"]
    assert (row["request_id"], row["input_tokens"], row["output_tokens"]) == ("req_1", 3, 2)
    (journal,) = (await running.ask("GET", "/admin/v1/status"))["journals"]
    assert (journal["id"], journal["segment"], journal["offset"]) == ("journal_a", 1, len(data))


async def test_long_sums_hold_up_nothing_else(running: Running) -> None:
    reports = running.control.database.for_reports()
    async with reports.read(), reports.read():
        asking = asyncio.create_task(running.ask("GET", "/admin/v1/usage"))
        async with asyncio.timeout(5):
            await running.ask("GET", "/admin/v1/status")
            await running.ask("GET", "/region/v1/journals/journal_a", key=REGION_KEY)
        assert not asking.done()
    assert await asking == {"data": []}


async def test_shipments_have_limits(running: Running) -> None:
    at = "/region/v1/journals/journal_a"
    error = error_of(await running.call("POST", f"{at}/1?offset=-1", b"", key=REGION_KEY))
    assert (error["status"], error["param"]) == (400, "offset")
    for number in (2**63, 2**64):
        error = error_of(await running.call("POST", f"{at}/{number}?offset=0", b"", key=REGION_KEY))
        assert (error["status"], error["param"]) == (400, "segment")
    error = error_of(await running.call("POST", f"{at}/x?offset=0", b"", key=REGION_KEY))
    assert (error["status"], error["param"]) == (400, "segment")
    too_much = bytes(running.control.settings.metering.ship_bytes_max + 200_000)
    error = error_of(await running.call("POST", f"{at}/1?offset=0", too_much, key=REGION_KEY))
    assert error["status"] == 413


async def test_a_waiting_door_does_not_hold_up_the_end(running: Running) -> None:
    for _ in range(2):
        etag = msgspec.json.decode(
            (await running.call("GET", "/region/v1/snapshot", key=REGION_KEY)).body, type=Snapshot
        ).etag
    waiting = asyncio.create_task(running.call("GET", f"/region/v1/snapshot?etag={etag}&wait_ms=60000", key=REGION_KEY))
    await asyncio.sleep(0.05)
    running.stopping.set()
    async with asyncio.timeout(3):
        assert (await waiting).status in (200, 304)


async def test_preparing_again_changes_nothing(short_folder: Path, tiny_model: Path) -> None:
    control = make_control(short_folder, tiny_model)
    await prepare(control)
    key = (short_folder / "admin.key").read_bytes()
    before = await control.region.snapshot(control.database)
    tiny_model.unlink()
    await prepare(control)
    control.region.changed()
    assert (await control.region.snapshot(control.database)).etag == before.etag
    assert (short_folder / "admin.key").read_bytes() == key
    await control.database.close()


async def test_a_read_only_home_is_one_sentence(tiny_model: Path, read_only_folder: Path) -> None:
    control = make_control(read_only_folder, tiny_model)
    with pytest.raises(StartError, match=r"cannot open the database .*/tokenworks\.db: .* not writable"):
        await prepare(control)
    await control.database.close()


async def test_a_setting_that_the_model_cannot_do_is_said(short_folder: Path, tiny_model: Path) -> None:
    control = make_control(short_folder, tiny_model, serving={"context_tokens": 257})
    with pytest.raises(StartError, match=r"'serving.context_tokens' is 257.*at most 256"):
        await prepare(control)
    await control.database.close()


async def test_a_lost_key_file_is_logged(
    short_folder: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    control = make_control(short_folder, tiny_model)
    await prepare(control)
    (short_folder / "admin.key").unlink()
    (short_folder / "blobs" / "tmp" / "left").touch()
    caplog.set_level("INFO")
    await prepare(control)
    assert "create an empty file" in caplog.text
    assert "removed 1 unfinished files" in caplog.text
    await control.database.close()


async def test_no_socket_is_said(short_folder: Path, tiny_model: Path) -> None:
    control = make_control(short_folder, tiny_model)
    with pytest.raises(StartError, match="missing"):
        await serve(control, short_folder / "none" / "control.sock", asyncio.Event())
    await control.database.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("database_url", "nonsense"),
        ("database_url", "sqlite:///x.db"),
        ("database_url", "oracle+x://h/d"),
        ("blob_url", "s3://b"),
    ],
)
def test_settings_that_name_nothing_are_said(short_folder: Path, name: str, value: str) -> None:
    with pytest.raises(StartError, match=name):
        build_control(make_settings(short_folder, **{name: value}), REGION_KEY, NoProcesses())


@pytest.mark.parametrize("file", ["usage.db", "./a/usage.db", ":memory:", ""])
def test_a_relative_database_is_refused_with_the_absolute_form(short_folder: Path, file: str) -> None:
    url = f"sqlite+aiosqlite:///{file}"
    absolute = short_folder / (file if file.endswith(".db") else "tokenworks.db")
    with pytest.raises(
        StartError, match=f"no absolute path; write sqlite\\+aiosqlite:///{absolute}, or leave it empty"
    ):
        build_control(make_settings(short_folder, database_url=url), REGION_KEY, NoProcesses())


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+asyncpg://user:SECRET@host:54x2/db",
        "postgresql+asyncpg://user:SECRET",
        "postgres://user:SECRET@host/db",
        "postgresql+none://user:SECRET@host/db",
        "mysql:user:SECRET",
    ],
)
def test_a_database_that_cannot_be_is_said_without_its_password(short_folder: Path, url: str) -> None:
    with pytest.raises(StartError, match="'database_url' cannot be used") as caught:
        build_control(make_settings(short_folder, database_url=url), REGION_KEY, NoProcesses())
    assert "SECRET" not in caught.value.message


async def test_another_database_may_be_named(short_folder: Path) -> None:
    url = f"sqlite+aiosqlite:///{short_folder / 'other.db'}"
    control = build_control(
        make_settings(short_folder, database_url=url, serving={"threads": 1}), REGION_KEY, NoProcesses()
    )
    async with control.database.write():
        pass
    assert (short_folder / "other.db").exists()
    await control.database.close()
