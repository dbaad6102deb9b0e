"""The snapshot as a door uses it: keys by digest, deployments by any of their names. Pure; made anew for each."""

import hashlib

from tokenworks.kit.errors import AuthenticationError, NotFoundError, PermissionDeniedError
from tokenworks.region.model import Snapshot, SnapshotDeployment, SnapshotKey


class Directory:
    """Look-ups over one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._keys = {key.key_sha256: key for key in snapshot.keys}
        self._known: dict[bytes, SnapshotKey] = {}
        self._deployments: dict[str, SnapshotDeployment] = {}
        for deployment in snapshot.deployments:
            for name in (*deployment.aliases, deployment.name):
                self._deployments[name] = deployment

    def authenticate(self, authorization: bytes | None, scope: str, now_ms: int) -> SnapshotKey:
        """Return the key that an `authorization` header carries.

        Raises:
            AuthenticationError: `missing_api_key`, `invalid_api_key`, `revoked_api_key` or `expired_api_key`.
            PermissionDeniedError: the key does not have `scope`.
        """
        key = self._known.get(authorization) if authorization is not None else None
        if key is None:
            key = self._find(authorization)
        if key.is_revoked:
            raise AuthenticationError(f"the API key {key.key_id} was revoked", code="revoked_api_key")
        if key.expires_at_ms is not None and key.expires_at_ms <= now_ms:
            raise AuthenticationError(f"the API key {key.key_id} has expired", code="expired_api_key")
        if scope not in key.scopes:
            raise PermissionDeniedError(f"the API key {key.key_id} does not have the scope {scope!r}")
        return key

    def _find(self, authorization: bytes | None) -> SnapshotKey:
        """The key by its digest; headers of good keys are remembered, one per key at most on average."""
        if authorization is None:
            raise AuthenticationError(
                "no API key was sent; send it as 'Authorization: Bearer KEY'", code="missing_api_key"
            )
        kind, _, text = authorization.partition(b" ")
        if kind.lower() != b"bearer" or not text.strip():
            raise AuthenticationError(
                "the Authorization header is not of the form 'Bearer KEY'", code="missing_api_key"
            )
        key = self._keys.get(hashlib.sha256(text.strip()).hexdigest())
        if key is None:
            raise AuthenticationError("this API key is not known here; check it or make a new one")
        if len(self._known) < len(self._keys):
            self._known[authorization] = key
        return key

    def resolve(self, model: str) -> SnapshotDeployment:
        """Return the deployment that answers to a model name.

        Raises:
            NotFoundError: `model_not_found`.
        """
        deployment = self._deployments.get(model)
        if deployment is None:
            names = ", ".join(sorted(entry.name for entry in self.snapshot.deployments)) or "none"
            raise NotFoundError(
                f"the model {model[:200]!r} does not exist here; there is: {names}",
                code="model_not_found",
                param="model",
            )
        return deployment

    @property
    def is_ready(self) -> bool:
        """True when every deployment has produced an answer and can produce another."""
        return bool(self.snapshot.deployments) and all(entry.is_ready for entry in self.snapshot.deployments)
