"""Read pre-trained weights from a path, a bucket or the hub; never fall back to a random start.

Only tensors and plain arrays are read: torch files with ``weights_only=True`` and numpy's numeric
arrays allowed (published files hold some), or safetensors, so a downloaded file cannot run code.
"random" is the caller's explicit choice and never reaches this module. Trade-off: a file in a
bucket is read into memory whole (at most a few hundred MB here) instead of being cached on disk;
what the hub gives lies in the hub's own cache and is taken from there without asking again.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from avs import storage
from avs.errors import DataError, WeightsError

__all__ = [
    "decode_weights",
    "fetch_from_hub",
    "hash_weights",
    "load_weights",
    "name_some",
    "not_finite",
    "read_weights_bytes",
    "read_weights_file",
    "rename_all",
    "skip_random_init",
    "tensors_of",
]

Value = TypeVar("Value")
WRAPPER_KEYS = ("state_dict", "model", "model_state_dict")
ARRAY_TYPES = ("float16", "float32", "float64", "int32", "int64", "uint8", "bool")
HUB_PREFIX = "hf-hub:"  # timm's own
HUB_NAME = re.compile(r"hf-hub:(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?/(?P<file>.+)")
HUB_TIMEOUT_S = 5.0
# A file that is no pickle may make torch's reader of pickles stumble over anything.
DECODE_ERRORS: tuple[type[Exception], ...] = (
    *(pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError, LookupError),
    *(AttributeError, TypeError, AssertionError, OverflowError, struct.error, OSError),
)
RANDOM_FILLS = (
    *(Tensor.uniform_, Tensor.normal_),
    *(nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_),
)


def load_weights(spec: str, *, wanted: str, where: str) -> dict[str, Tensor]:
    """Read a state dict, floating-point tensors as float32.

    spec: local path, s3://BUCKET/KEY, or hf-hub:OWNER/REPO/FILE with OWNER/REPO@REVISION where one
    is meant; .safetensors, else a torch file.
    wanted: what the file should be, for the message ("ImageNet weights of pvt_v2_b5").
    where: where its authors publish it, for the message.
    Raises WeightsError when the file is missing, unreadable or holds no tensors.
    """
    return tensors_of(read_weights_file(spec, wanted=wanted, where=where))


def read_weights_file(spec: str, *, wanted: str, where: str) -> dict[str, Any]:
    """Read a checkpoint as it was saved: a state dict, or a dict that holds one and more.

    Arguments and errors as for :func:`load_weights`.
    """
    way_out = (
        f"Wanted: {wanted}, published at {where}. Give a local path, s3:// or "
        f"{HUB_PREFIX}OWNER/REPO/FILE; to start without it, say 'random' explicitly."
    )
    data = read_weights_bytes(spec, way_out=way_out)
    return decode_weights(data, spec=spec, way_out=way_out)


def read_weights_bytes(spec: str, *, way_out: str) -> bytes:
    """The file itself, from wherever ``spec`` (see :func:`load_weights`) says.

    way_out: what is wanted, and the cure, at the end of a message. Raises WeightsError.
    """
    if not spec:
        raise WeightsError(f"no weights file given. {way_out}")
    try:
        return storage.read_bytes(_fetched(spec) if spec.startswith(HUB_PREFIX) else spec)
    except _read_errors() as error:
        raise _unreadable(spec, error, way_out) from error


def fetch_from_hub(spec: str, *, way_out: str) -> str:
    """Local path of ``hf-hub:OWNER/REPO/FILE``, which then lies in the hub's cache.

    Offline, this is told in seconds. Raises WeightsError.
    """
    try:
        return _fetched(spec)
    except _read_errors() as error:
        raise _unreadable(spec, error, way_out) from error


def decode_weights(data: bytes, *, spec: str, way_out: str) -> dict[str, Any]:
    """What :func:`read_weights_bytes` gave, as it was saved. Raises WeightsError."""
    try:
        content = _decode(data, suffix=Path(spec).suffix)
    except DECODE_ERRORS as error:
        # Only the kind: torch's text advises to load the file without the protection.
        raise WeightsError(
            f"{spec!r} is not a torch or safetensors file of tensors ({type(error).__name__}). "
            f"{way_out}"
        ) from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise WeightsError(f"weights {spec!r} are a {kind} instead of a state dict. {way_out}")
    if not tensors_of(content):
        raise WeightsError(f"weights {spec!r} hold no tensors. {way_out}")
    return content


def tensors_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict itself or the one inside a training checkpoint, without ``module.``.

    Raises WeightsError for a name that is there with and without it.
    """
    for key in WRAPPER_KEYS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {
        name: torch.as_tensor(value)
        for name, value in content.items()
        if isinstance(value, Tensor | np.ndarray)
    }
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in rename_all(tensors, _without_module).items()
    }


def rename_all(named: Mapping[str, Value], translate: Callable[[str], str]) -> dict[str, Value]:
    """Translate every name. Raises WeightsError naming those that become one and the same."""
    origins: dict[str, list[str]] = {}
    for name in named:
        origins.setdefault(translate(name), []).append(name)
    clashes = [" beside ".join(names) for names in origins.values() if len(names) > 1]
    if clashes:
        raise WeightsError(f"the checkpoint names one tensor twice: {name_some(clashes)}")
    return {translated: named[names[0]] for translated, names in origins.items()}


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors with NaN or infinite values."""
    return [
        name
        for name, value in tensors.items()
        if value.is_floating_point() and not bool(value.isfinite().all())
    ]


def hash_weights(state: Mapping[str, Tensor]) -> str:
    """What tells these weights from others, whatever file they came from: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        array = value.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def name_some(names: list[str], *, limit: int = 5) -> str:
    """The first names and the count, for messages."""
    more = f", ... ({len(names)} in all)" if len(names) > limit else f" ({len(names)})"
    return ", ".join(names[:limit]) + more


class skip_random_init(TorchFunctionMode):  # noqa: N801 (a context manager, like a function)
    """Networks made inside leave out random values: every weight must be loaded from a file next.

    Unlike the meta device, everything else is computed: constants that no file holds stay right.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in RANDOM_FILLS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _without_module(name: str) -> str:
    return name.removeprefix("module.")


def _read_errors() -> tuple[type[Exception], ...]:
    """Among them what the hub's HTTP client raises when nobody answers, whichever that is."""
    from huggingface_hub.errors import HfHubHTTPError  # late as in _fetched

    return OSError, ValueError, DataError, *HfHubHTTPError.__bases__


def _unreadable(spec: str, error: Exception, way_out: str) -> WeightsError:
    reason = str(error).partition("\n")[0].rstrip(".")
    return WeightsError(f"cannot read weights {spec!r}: {reason}. {way_out}")


def _fetched(spec: str) -> str:
    """Local path of a file of the hub, which is fetched unless it is in the cache.

    Asked first is whether the hub answers: its own download needs half a minute to find out.
    """
    # Here, because few runs read from the hub, and its client takes a while.
    from huggingface_hub import (
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
        try_to_load_from_cache,
    )

    match = HUB_NAME.fullmatch(spec)
    if match is None:
        raise ValueError(f"a hub name is {HUB_PREFIX}OWNER/REPO/FILE, or OWNER/REPO@REVISION/FILE")
    repo, revision, file = match["repo"], match["revision"], match["file"]
    cached = try_to_load_from_cache(repo, file, revision=revision)
    if isinstance(cached, str):
        return cached
    get_hf_file_metadata(hf_hub_url(repo, file, revision=revision), timeout=HUB_TIMEOUT_S)
    return hf_hub_download(repo, file, revision=revision)


def _decode(data: bytes, *, suffix: str) -> Any:
    if suffix == ".safetensors":
        return load_safetensors(data)
    with torch.serialization.safe_globals(_array_globals()):
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _array_globals() -> list[Any]:
    """What numpy pickles numeric arrays with; object arrays are not among them."""
    rebuild: Any = np.zeros(0).__reduce__()[0]
    scalar: Any = np.float64(0).__reduce__()[0]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")  # before and since numpy 2
    named = [(f, f"{module}.{f.__name__}") for f in (rebuild, scalar) for module in modules]
    return [*named, np.ndarray, np.dtype, *(type(np.dtype(name)) for name in ARRAY_TYPES)]
