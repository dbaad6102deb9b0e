"""The rules of accounts."""

import pytest

from tokenworks.accounts import policy
from tokenworks.accounts.model import ApiKey, KeyRequest, Scope
from tokenworks.kit.errors import AuthenticationError, ConflictError, InvalidRequestError, PermissionDeniedError

TEXT = "tw-" + "a" * 43


def make_key(
    key_id: str = "key_1",
    scopes: tuple[Scope, ...] = (Scope.ADMIN,),
    expires_at_ms: int | None = None,
    revoked_at_ms: int | None = None,
) -> ApiKey:
    return ApiKey(key_id, "0" * 64, "default", "default", scopes, 1, expires_at_ms, revoked_at_ms)


@pytest.mark.parametrize("name", ["a", "default", "team-7", "a.b_c-d", "0" * 64])
def test_good_names(name: str) -> None:
    assert policy.check_name(name, "name") == name


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a b", "a/b", "é", "a..b", "x" * 65, "a\n", "٣"])
def test_bad_names_name_the_field(name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        policy.check_name(name, "organization")
    assert (caught.value.code, caught.value.param) == ("invalid_name", "organization")


def test_our_own_paths_are_reserved() -> None:
    for name in ("v1", "admin", "api", "console", "docs", "xet", "metrics", "region", "healthz", "readyz"):
        with pytest.raises(InvalidRequestError) as caught:
            policy.check_name(name, "name")
        assert caught.value.code == "reserved_name"


def test_scopes_come_out_in_order_and_once() -> None:
    assert policy.parse_scopes(["hub:read", "admin", "hub:read"]) == (Scope.ADMIN, Scope.HUB_READ)


@pytest.mark.parametrize("names", [[], ["everything"], ["admin", ""]])
def test_unknown_or_no_scopes_are_refused(names: list[str]) -> None:
    with pytest.raises(InvalidRequestError, match="choose from admin, inference, hub:read, hub:write"):
        policy.parse_scopes(names)


def test_a_key_has_its_form() -> None:
    assert policy.make_key("a" * 43) == TEXT
    assert policy.is_key(TEXT)
    assert not policy.is_key(TEXT + "a")
    assert not policy.is_key("sk-" + "a" * 43)
    with pytest.raises(AssertionError):
        policy.make_key("short")


def test_the_hash_is_sha256() -> None:
    assert policy.hash_key("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert len(policy.hash_key("\udcff")) == 64


@pytest.mark.parametrize("header", ["Bearer tw-x", "bearer  tw-x ", "BEARER tw-x"])
def test_the_key_is_read_from_the_header(header: str) -> None:
    assert policy.parse_authorization(header) == "tw-x"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer  ", "Basic tw-x", "tw-x"])
def test_no_key_in_the_header(header: str | None) -> None:
    with pytest.raises(AuthenticationError) as caught:
        policy.parse_authorization(header)
    assert caught.value.code == "missing_api_key"


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (None, "invalid_api_key"),
        (make_key(revoked_at_ms=5), "revoked_api_key"),
        (make_key(expires_at_ms=10), "expired_api_key"),
        (make_key(expires_at_ms=5, revoked_at_ms=5), "revoked_api_key"),
    ],
)
def test_keys_that_cannot_be_used(key: ApiKey | None, code: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        policy.check_good(key, now_ms=10)
    assert caught.value.code == code


def test_a_key_is_good_up_to_its_end() -> None:
    key = make_key(expires_at_ms=11)
    assert policy.check_good(key, now_ms=10) is key


def test_admin_covers_every_scope() -> None:
    assert policy.check_scope(make_key(), Scope.HUB_WRITE)
    assert policy.check_scope(make_key(scopes=(Scope.INFERENCE,)), Scope.INFERENCE)
    with pytest.raises(PermissionDeniedError, match="admin"):
        policy.check_scope(make_key(scopes=(Scope.INFERENCE,)), Scope.ADMIN)


def test_a_key_that_could_never_be_used_is_refused() -> None:
    policy.check_key_request(KeyRequest("default", expires_at_ms=11, scopes=(Scope.ADMIN,)), now_ms=10)
    with pytest.raises(InvalidRequestError) as caught:
        policy.check_key_request(KeyRequest("default", expires_at_ms=10), now_ms=10)
    assert caught.value.param == "expires_at_ms"
    for at_ms in (253_402_300_800_000, 2**63, 2**70):
        with pytest.raises(InvalidRequestError, match="after the year 9999"):
            policy.check_key_request(KeyRequest("default", expires_at_ms=at_ms), now_ms=10)


def test_only_the_default_organization_administers() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        policy.check_key_request(KeyRequest("team", scopes=(Scope.ADMIN,)), now_ms=10)
    assert caught.value.param == "scopes"


def test_the_last_admin_key_stays() -> None:
    last = make_key("key_1")
    others = [make_key("key_2", expires_at_ms=5), make_key("key_3", revoked_at_ms=5), make_key("key_4", scopes=())]
    with pytest.raises(ConflictError) as caught:
        policy.check_may_revoke(last, [last, *others], now_ms=10)
    assert caught.value.code == "last_admin_key"
    policy.check_may_revoke(last, [last, make_key("key_5")], now_ms=10)
    policy.check_may_revoke(others[2], [last, *others], now_ms=10)
