"""Settings: one frozen tree, read once where a program starts, passed down in parts.

Order of precedence: environment (`TOKENWORKS_PORT`, `TOKENWORKS_GATEWAY__QUEUE_WAIT_MS_MAX`), the TOML file of
`--config`, the defaults below. Each setting has its unit in its name. `docs/reference/settings.md` is made from here.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from tokenworks.kit.errors import StartError


def default_home() -> Path:
    """The platform's user data folder for tokenworks."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "tokenworks"
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "tokenworks"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GatewaySettings(_Part):
    """Limits and times of the doors."""

    connections_max: int = Field(4096, ge=1, description="Client connections per door; more are refused with 503.")
    header_bytes_max: int = Field(32_768, ge=1024, description="Request line and headers; more is 431.")
    body_bytes_max: int = Field(16_777_216, ge=1024, description="Request body; more is 413.")
    bodies_bytes_max: int = Field(
        536_870_912, ge=65_536, description="Request bodies that one door holds at once; more is 503."
    )
    head_wait_ms_max: int = Field(10_000, ge=10, description="Time a client has to send its headers; then 408.")
    body_wait_ms_max: int = Field(60_000, ge=10, description="Time a client has to send its body; then 408.")
    idle_ms_max: int = Field(75_000, ge=10, description="A connection without a request is closed after this.")
    write_stall_ms_max: int = Field(
        60_000, ge=10, description="A client that reads nothing for this long is taken as gone."
    )
    write_buffer_bytes: int = Field(
        262_144, ge=1024, description="Unsent bytes per client before its replica's stream is paused."
    )
    relays_max: int = Field(256, ge=1, description="Requests that one door relays to control at once; more is 503.")
    queue_requests_max: int = Field(1024, ge=0, description="Requests of one deployment that may wait for a slot.")
    queue_wait_ms_max: int = Field(60_000, ge=1, description="Wait for a slot; then 503 no_capacity.")
    first_token_ms_max: int = Field(
        600_000, ge=10, description="From sending to a replica to its first byte; then 504."
    )
    stall_ms_max: int = Field(120_000, ge=10, description="Silence of a replica inside an answer; then it has failed.")
    connect_ms_max: int = Field(2_000, ge=10, description="Connecting to a replica or to control.")
    answer_bytes_max: int = Field(67_108_864, ge=1024, description="An unstreamed answer while it is assembled.")
    progress_ms: int = Field(500, ge=10, description="How often a running stream's counts are journalled.")
    snapshot_age_ms_max: int = Field(7_200_000, ge=1000, description="A door whose snapshot is older refuses new work.")
    drain_ms_max: int = Field(30_000, ge=0, description="At a clean stop, answers in flight have this long to finish.")


class MeteringSettings(_Part):
    """The journal and its shipping."""

    segment_bytes: int = Field(8_388_608, ge=65_536, description="Size of a journal file, reserved before it is used.")
    reserve_bytes: int = Field(
        4_194_304, ge=65_536, description="Room kept for closing what runs when the disk is full."
    )
    ship_interval_ms: int = Field(200, ge=10, description="How often a door ships what became durable.")
    ship_bytes_max: int = Field(1_048_576, ge=65_536, description="Journal bytes per shipment.")
    archive_days: int = Field(7, ge=0, description="Shipped journal files are kept this long.")


class ServingSettings(_Part):
    """Replicas and the loop that keeps them."""

    slots: int = Field(16, ge=1, le=256, description="Requests that one replica of the default model runs at once.")
    context_tokens: int = Field(2048, ge=64, description="Context of the default deployment, per slot.")
    threads: int = Field(0, ge=0, description="Threads of an engine; 0 takes the machine's cores.")
    start_ms_max: int = Field(
        120_000, ge=100, description="From starting a replica to its first token; then it failed."
    )
    probe_interval_ms: int = Field(1_000, ge=10, description="How often the loop looks at replicas.")
    probe_ms_max: int = Field(30_000, ge=10, description="A replica's probe must answer within this.")
    restart_wait_ms_min: int = Field(500, ge=1, description="First wait before a dead replica is started again.")
    restart_wait_ms_max: int = Field(30_000, ge=1, description="The wait doubles up to this.")
    stop_ms_max: int = Field(10_000, ge=0, description="A stopped process that is still there is killed after this.")


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(env_prefix="TOKENWORKS_", env_nested_delimiter="__", frozen=True, extra="ignore")

    home: Path = Field(default_factory=default_home, description="Where all state lives; may hold spaces.")
    host: str = Field("127.0.0.1", description="Address that the doors listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port of the doors; 0 lets the system choose.")
    doors: int = Field(1, ge=1, le=64, description="Door processes that share the port.")
    database_url: str = Field("", description="SQLAlchemy URL; empty is SQLite in the home.")
    blob_url: str = Field("", description="Where blobs are kept; empty is the home's disk.")
    log_level: str = Field("info", description="debug, info, warning or error.")
    gateway: GatewaySettings = Field(default_factory=GatewaySettings, description="The doors.")
    metering: MeteringSettings = Field(default_factory=MeteringSettings, description="Journals and shipping.")
    serving: ServingSettings = Field(default_factory=ServingSettings, description="Replicas.")

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def run_dir(self) -> Path:
        """Sockets and addresses of the running processes. They use paths relative to it (socket paths are short)."""
        return self.home / "run"

    @property
    def journal_dir(self) -> Path:
        """One folder per door."""
        return self.home / "journal"

    @property
    def log_dir(self) -> Path:
        """One file per process."""
        return self.home / "logs"


class ClientSettings(BaseSettings):
    """Where the CLI finds a running tokenworks."""

    model_config = SettingsConfigDict(env_prefix="TOKENWORKS_", frozen=True, extra="ignore")

    url: str = Field("", description="Address of a tokenworks; empty is the one of the local home.")
    api_key: str = Field("", description="Key to use; empty is the local home's administrator key.")


def read_settings(config: Path | None = None, **overrides: Any) -> Settings:
    """Read the settings tree once; `overrides` win over everything.

    Raises:
        StartError: a setting is malformed or the file cannot be read; the message names it.
    """
    try:
        return _with_file(config)(**overrides)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise StartError(f"setting {name!r} is not valid: {first['msg']}") from error
    except (OSError, ValueError) as error:
        raise StartError(f"cannot read the settings file {config}: {error}") from error


def inherited_environment() -> dict[str, str]:
    """What a child process gets of this one's environment: all but our own variables, which may hold keys."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TOKENWORKS_")}


def _with_file(config: Path | None) -> Callable[..., Settings]:
    if config is None:
        return Settings
    config.stat()

    class FileSettings(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config)

    return FileSettings
