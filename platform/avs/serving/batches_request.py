"""What a client asks of a batch, checked before anything of it reaches a command line.

The only places that a batch may name are S3 prefixes below those of the configuration. Everything
else is a number, a flag or a word of a list, so a request is wrong or harmless.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from avs.config import build
from avs.errors import ConfigError
from avs.inference.config import SegmentConfig
from avs.inference.outputs import OutputKind, parse_masks_per_s
from avs.serving.addresses import check_object_uri
from avs.serving.choice import DEFAULT_MODEL
from avs.serving.config import BatchesConfig
from avs.serving.messages import ApiError
from avs.serving.tokens import Token

__all__ = ["BatchRequest", "batch_id", "check_key", "is_batch_id", "owner_of", "parse_batch"]

_USUAL_OUTPUTS = (OutputKind.RLE_JSON, OutputKind.PNG, OutputKind.OVERLAY)
_KEY = re.compile(r"[ -~]{1,200}")
_ID = re.compile(r"batch-[0-9a-f]{32}-[1-9][0-9]{0,2}")
_MAX_SHOWN = 300
_ANY_SCALE = {"num_workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0}
_NOBODY = "no token"  # of a service without any, on a loopback address


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRequest:
    """``input`` and ``output``: s3:// prefixes without a slash at the end. The rest as in
    :class:`avs.inference.config.SegmentConfig`."""

    input: str
    output: str
    model: str = DEFAULT_MODEL
    outputs: list[str] = field(default_factory=lambda: [kind.value for kind in _USUAL_OUTPUTS])
    threshold: float = 0.5
    masks_per_s: int | str = 1
    objects: bool = False
    max_failed_ratio: float | None = None

    def to_text(self) -> str:
        """JSON that is the same for the same request."""
        return json.dumps(asdict(self), sort_keys=True)


def parse_batch(
    plain: Any, *, config: BatchesConfig, choose_model: Callable[[str | None], str]
) -> BatchRequest:
    """A request from the JSON of its body.

    Raises:
        ApiError: 422, a key or value is wrong; 403, a place is not below a configured prefix.
    """
    if not isinstance(plain, Mapping):
        raise _bad('send JSON {"input": "s3://...", "output": "s3://..."}')
    try:
        given: BatchRequest = build(BatchRequest, plain, path="")
        _check_options(given)
    except ConfigError as error:
        raise _bad(_plain(str(error))) from None
    choose_model(given.model)
    source = _place(given.input, "input", config.input_prefixes)
    target = _place(given.output, "output", config.output_prefixes)
    if f"{source}/".startswith(f"{target}/") or f"{target}/".startswith(f"{source}/"):
        raise _bad("input and output lie in each other: give prefixes beside each other")
    # One text for one request, however it was written.
    rate = parse_masks_per_s(str(given.masks_per_s)) or "native"
    outputs = sorted(set(given.outputs))
    return replace(given, input=source, output=target, outputs=outputs, masks_per_s=rate)


def _check_options(given: BatchRequest) -> None:
    """The job's own rules, told now and not in a log; raises ConfigError."""
    options = asdict(given)
    del options["model"]
    options["out"] = options.pop("output")
    build(SegmentConfig, {**options, "checkpoint": "", "scale": _ANY_SCALE}, path="")


def _place(uri: str, name: str, prefixes: Sequence[str]) -> str:
    """An s3:// prefix without its last slash; raises ApiError where it is none or not allowed."""
    bare = uri.removesuffix("/")
    try:
        # Of an object below it, so that the prefix itself counts and its neighbours do not.
        check_object_uri(f"{bare}/x", prefixes=tuple(f"{p.rstrip('/')}/" for p in prefixes))
    except ApiError as error:
        if error.status == 403:
            text = f"{name}: this part of S3 is not open to batches; the owner of the service sets "
            raise ApiError(403, error.code, f"{text}batches.{name}_prefixes") from None
        raise ApiError(error.status, error.code, f"{name}: {error.message}") from None
    return bare


def check_key(values: Sequence[str]) -> str:
    """The Idempotency-Key among the headers of that name.

    Raises:
        ApiError: 400, there is none, several, or one of other characters.
    """
    if len(values) != 1 or not _KEY.fullmatch(values[0]):
        raise ApiError(
            400,
            "no_idempotency_key",
            "give one header Idempotency-Key of 1 to 200 printable ASCII characters, the same when "
            "a request is sent again",
        )
    return values[0]


def owner_of(token: Token | None) -> str:
    """What stands for a token beside a batch, where people who may not know it can read."""
    text = _NOBODY if token is None else token.sha256
    return hashlib.sha256(f"owner of batches: {text}".encode()).hexdigest()[:32]


def batch_id(owner: str, key: str, attempt: int) -> str:
    """The submission id of an attempt (from 1) at what ``owner`` calls ``key``."""
    digest = hashlib.sha256(json.dumps([owner, key]).encode()).hexdigest()[:32]
    return f"batch-{digest}-{attempt}"


def is_batch_id(text: str) -> bool:
    """Whether it looks like one: nothing else is asked of the job server."""
    return _ID.fullmatch(text) is not None


def _bad(message: str) -> ApiError:
    return ApiError(422, "invalid_field", message)


def _plain(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:_MAX_SHOWN]
