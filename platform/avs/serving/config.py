"""Configuration of ``jobs/serve.py``.

Tokens are no key of it: they would end in shell histories and in printed configurations. They come
from the environment variable AVS_API_TOKENS or from ``access.tokens_file``, which holds hashes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from avs.errors import ConfigError
from avs.scale import ScaleConfig
from avs.serving.live import LiveLimits

__all__ = [
    "AccessConfig",
    "BatchesConfig",
    "ExtraModel",
    "FetchConfig",
    "LimitsConfig",
    "ServeConfig",
    "ServingConfig",
]


def _check_positive(section: str, config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ConfigError(f"{section}{name}={getattr(config, name)} must be positive.")


def _check_prefixes(key: str, prefixes: Sequence[str]) -> None:
    for prefix in prefixes:
        if not prefix.startswith("s3://") or not prefix[5:].strip("/"):
            raise ConfigError(f"{key} has {prefix}: write s3://BUCKET/PREFIX.")


@dataclass(kw_only=True, slots=True)
class ExtraModel:
    """A further checkpoint, asked for by ``model=NAME``.

    ``share`` of the requests that name no model go to it as well (0..1), as a canary does.
    """

    checkpoint: str
    share: float = 0.0


@dataclass(kw_only=True, slots=True)
class LimitsConfig:
    """What one request may cost.

    ``max_body_bytes``: the whole upload with its form. ``max_pixels``: of a frame as it is coded.
    ``max_duration_s``, ``max_frames``: of the video, as its header tells them before anything is
    decoded. ``upload_timeout_s`` runs while the body arrives, ``request_timeout_s`` from then to
    the end of the answer, ``decode_timeout_s`` in one call of the decoder. ``max_queued_requests``
    may wait beside those that are worked on.
    """

    max_body_bytes: int
    max_duration_s: float
    max_pixels: int
    max_frames: int
    upload_timeout_s: float
    request_timeout_s: float
    decode_timeout_s: float
    max_queued_requests: int

    def __post_init__(self) -> None:
        _check_positive("limits.", self, *self.__slots__)


@dataclass(kw_only=True, slots=True)
class AccessConfig:
    """Who may call.

    ``tokens_file``: YAML list of ``{name, sha256, scopes, per_minute, concurrent}``.
    ``per_minute``, ``concurrent``: requests of one token, where the file does not say.
    ``allowed_hosts``: names under which the service is reached, beside addresses and this
    machine's own name. ``allowed_origins``: web sites, as https://app.example.org, whose pages may
    call it; its own page always may.
    """

    tokens_file: str | None
    per_minute: int
    concurrent: int
    allowed_hosts: list[str]
    allowed_origins: list[str]

    def __post_init__(self) -> None:
        _check_positive("access.", self, "per_minute", "concurrent")
        for host in self.allowed_hosts:
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", host):
                raise ConfigError(
                    f"access.allowed_hosts has {host}: write the name alone, as avs.example.org."
                )
        for origin in self.allowed_origins:
            scheme, _, rest = origin.partition("://")
            if scheme not in ("http", "https") or not rest or "/" in rest or "*" in rest:
                raise ConfigError(
                    f"access.allowed_origins has {origin}: write scheme and host alone, as "
                    "https://app.example.org."
                )


@dataclass(kw_only=True, slots=True)
class FetchConfig:
    """Videos that are given by their address: ``{"url": "https://..."}``.

    ``https``: whether public addresses are fetched. ``s3_prefixes``: what of S3 may be read, as
    s3://bucket/uploads. ``timeout_s``: for one video.
    """

    https: bool
    s3_prefixes: list[str]
    timeout_s: float

    def __post_init__(self) -> None:
        _check_positive("fetch.", self, "timeout_s")
        _check_prefixes("fetch.s3_prefixes", self.s3_prefixes)


@dataclass(kw_only=True, slots=True)
class BatchesConfig:
    """Whole prefixes of S3, segmented by ``jobs/segment.py`` as a job of the same cluster.

    ``input_prefixes``, ``output_prefixes``: what clients may name, as s3://bucket/videos; both
    empty: the service takes no batches. All tokens with the scope batch share them.
    ``max_running``: batches at a time, of which ``scale`` is the size of each; ``max_per_token`` of
    them of one token. ``driver_cpus``: what a batch takes beside ``scale``. ``program``: where the
    nodes find jobs/segment.py (null: beside jobs/serve.py). ``job_address``: of Ray's job server,
    as http://HEAD:8265 (null: that of this cluster). ``timeout_s``: for its answers and for
    counting what is done.
    """

    input_prefixes: list[str]
    output_prefixes: list[str]
    max_running: int
    max_per_token: int
    driver_cpus: float
    scale: ScaleConfig
    program: str | None
    job_address: str | None
    timeout_s: float

    def __post_init__(self) -> None:
        names = ("max_running", "max_per_token", "driver_cpus", "timeout_s")
        _check_positive("batches.", self, *names)
        for name in ("input_prefixes", "output_prefixes"):
            _check_prefixes(f"batches.{name}", getattr(self, name))
        if bool(self.input_prefixes) != bool(self.output_prefixes):
            lacking = "output" if self.input_prefixes else "input"
            raise ConfigError(
                f"batches.{lacking}_prefixes=[]: a batch needs both: give s3://BUCKET/PREFIX, or "
                "leave both empty."
            )

    @property
    def is_on(self) -> bool:
        """Whether the service takes batches."""
        return bool(self.input_prefixes)

    @property
    def cpus(self) -> float:
        """What all that run together may take of the cluster; 0 without batches."""
        each = self.driver_cpus + self.scale.num_workers * self.scale.cpus_per_worker
        return self.max_running * each if self.is_on else 0.0

    @property
    def gpus(self) -> float:
        """Likewise."""
        each = self.scale.num_workers * self.scale.gpus_per_worker
        return self.max_running * each if self.is_on else 0.0


@dataclass(kw_only=True, slots=True)
class ServingConfig:
    """How videos are taken in and worked on, whatever is served.

    ``scratch``: a folder or an ``s3://`` prefix of this service alone that all decoders reach, for
    uploads above ``spool_above_bytes`` (null: this machine's temporary folder). ``decoders``:
    processes that decode and draw, of ``decoder_cpus`` each. ``start_timeout_s``: how long the
    replicas may take to come up.
    """

    limits: LimitsConfig
    access: AccessConfig
    fetch: FetchConfig
    batches: BatchesConfig
    live: LiveLimits
    decoders: int
    decoder_cpus: float
    start_timeout_s: float
    spool_above_bytes: int
    scratch: str | None

    def __post_init__(self) -> None:
        _check_positive("", self, "decoders", "decoder_cpus", "start_timeout_s")
        if self.spool_above_bytes < 0:
            raise ConfigError(f"spool_above_bytes={self.spool_above_bytes} must not be negative.")


@dataclass(kw_only=True, slots=True)
class ServeConfig(ServingConfig):
    """Checkpoints behind one address.

    ``checkpoint`` answers where a request names no model; ``models`` are further ones,
    ``models={canary: {checkpoint: RUN, share: 0.05}}``. ``reload_s``: look that often for a better
    checkpoint in the same place and take it over while serving (null: never). ``min_segmenters``:
    replicas of each model that stay when there is nothing to do, up to ``scale.num_workers`` as
    load grows (null: always all).
    """

    checkpoint: str
    host: str
    port: int
    scale: ScaleConfig
    models: dict[str, ExtraModel] = field(default_factory=dict)
    min_segmenters: int | None = None
    reload_s: float | None = None

    def __post_init__(self) -> None:
        ServingConfig.__post_init__(self)
        if not self.host:
            raise ConfigError("host= is empty: give an address, as host=127.0.0.1.")
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"port={self.port} must lie between 1 and 65535.")
        if self.reload_s is not None:
            _check_positive("", self, "reload_s")
        if self.min_segmenters is not None and not (
            1 <= self.min_segmenters <= self.scale.num_workers
        ):
            raise ConfigError(
                f"min_segmenters={self.min_segmenters}: between 1 and scale.num_workers="
                f"{self.scale.num_workers}, or null."
            )
        self._check_models()

    def _check_models(self) -> None:
        for name, extra in self.models.items():
            if name == "default" or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
                raise ConfigError(
                    f"models.{name}: a name is letters, digits and _, and not 'default', which is "
                    "the one of checkpoint=."
                )
            if not 0 <= extra.share <= 1:
                raise ConfigError(f"models.{name}.share={extra.share} must lie between 0 and 1.")
        if sum(extra.share for extra in self.models.values()) > 1 + 1e-9:  # of rounding
            raise ConfigError("models: the shares add up to more than 1.")
