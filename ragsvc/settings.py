"""Every setting, and the only reader of the environment. `RAGSVC_<NAME>` sets what `--<name>` sets."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from indexes.model import Quantization
from ingest.duration import seconds_of


class Settings(BaseSettings):
    """Settings of one process. An unknown RAGSVC_ variable is refused by `ragsvc doctor`, not ignored."""

    model_config = SettingsConfigDict(env_prefix="RAGSVC_", frozen=True, extra="forbid")

    data: Path = Field(default=Path("ragsvc-data"), description="Folder of the catalogue, indexes, model and blobs.")
    host: str = Field(default="127.0.0.1", description="Bind address. Any but the loopback needs an API key.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(default=8080, description="Bind port.")
    embedder: str = Field(
        default="all-MiniLM-L6-v2",
        description="Model of new collections: all-MiniLM-L6-v2, st:NAME_OR_FOLDER (extra models) or hash:DIMENSIONS.",
    )
    database: str | None = Field(default=None, description="Catalogue URL; default: SQLite in the data folder.")
    chunk_target: Annotated[int, Field(ge=100, le=1000)] = Field(
        default=700, description="Characters that a chunk of new collections aims at."
    )
    quantization: Quantization = Field(
        default="sq8", description="Vectors of large segments in memory: none, sq8 or pq."
    )
    recall_target: Annotated[float, Field(ge=0.5, le=0.999)] = Field(
        default=0.98, description="Recall@10 that large segments are tuned for."
    )
    threads: Annotated[int, Field(ge=0, le=256)] = Field(default=0, description="Threads of the model; 0: one a core.")
    workers: Annotated[int, Field(ge=1, le=64)] = Field(default=2, description="Jobs that run at once.")
    serve_workers: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="Processes that answer; 1: the one that was started."
    )
    searches: Annotated[int, Field(ge=1, le=256)] = Field(
        default=8, description="Requests that are worked on at once; more wait, then get 503."
    )
    max_body_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=64 * 1024 * 1024, description="Largest request body, pushed documents included."
    )
    max_document_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=256 * 1024 * 1024, description="Largest document that is parsed."
    )
    parse_timeout_s: Annotated[float, Field(gt=0)] = Field(default=30.0, description="Seconds for one document.")
    parse_memory_mb: Annotated[int, Field(ge=64)] = Field(default=1024, description="Memory for one document.")
    freshness_sla: str = Field(default="24h", description="Freshness SLA of sources that name none.")
    scan_interval: str = Field(default="60s", description="Schedule of sources that `ragsvc add` makes.")
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$", description="Least level logged.")

    @field_validator("freshness_sla", "scan_interval")
    @classmethod
    def _duration(cls, value: str) -> str:
        seconds_of(value)
        return value

    @property
    def database_url(self) -> str:
        """The catalogue's URL."""
        return self.database or f"sqlite:///{(self.data / 'catalog.db').absolute()}"

    @property
    def models_dir(self) -> Path:
        """Where installed models lie."""
        return self.data / "models"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def load(**overrides: Any) -> Settings:
    """Settings from the environment; `overrides` that are not None win. Raises pydantic.ValidationError."""
    return Settings(**{name: value for name, value in overrides.items() if value is not None})


def unknown_variables() -> tuple[str, ...]:
    """Variables that begin with RAGSVC_ and mean nothing: probably misspelt."""
    import os

    from ragsvc.options import OPTION_VARIABLES

    known = {f"RAGSVC_{name.upper()}" for name in Settings.model_fields} | OPTION_VARIABLES
    return tuple(sorted(name for name in os.environ if name.startswith("RAGSVC_") and name not in known))
