"""Stored log-mels: the official form gives its numbers, anything else is refused, none is run."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avs.errors import MediaError
from avs.media.logmel_pickle import MAX_LOG_MEL_BYTES, read_log_mel_pickle

SHAPE = (3, 1, 96, 64)


class _Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> Any:
        return Path.mkdir, (self._folder,)


class _FakeTensor:
    """Pickles as a call of torch's function with any arguments."""

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, self._arguments  # type: ignore[attr-defined]


def _tensor(**changes: Any) -> torch.Tensor:
    values = torch.arange(3 * 96 * 64, dtype=changes.pop("dtype", torch.float32)).reshape(SHAPE)
    return values.clone().requires_grad_(changes.pop("grad", False))


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("grad", [False, True])
def test_a_pickled_tensor_gives_its_numbers(protocol: int, dtype: torch.dtype, grad: bool) -> None:
    tensor = _tensor(dtype=dtype, grad=grad)
    found = read_log_mel_pickle(pickle.dumps(tensor, protocol=protocol))
    assert found.dtype == np.float32
    assert np.array_equal(found, tensor.detach().numpy())


def test_a_view_into_a_larger_storage_is_followed() -> None:
    whole = torch.randn(5, 1, 64, 96)
    view = whole[1:4].transpose(2, 3)
    assert np.array_equal(read_log_mel_pickle(pickle.dumps(view)), view.numpy())


def test_nothing_that_a_file_names_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    inside = pickle.dumps((_tensor(), _Runs(folder)))
    for data in (pickle.dumps(_Runs(folder)), inside):
        with pytest.raises(MediaError, match=r"x\.pkl: .*not opened"):
            read_log_mel_pickle(data, "x.pkl")
    assert not folder.exists()


def test_a_storage_that_hides_another_pickle_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    good = pickle.dumps(_tensor())
    storage = io.BytesIO()
    torch.save(_Runs(folder), storage, _use_new_zipfile_serialization=False)
    start = good.index(b"\x80\x02\x8a\n")
    length = int.from_bytes(good[start - 4 : start], "little")
    hidden = storage.getvalue()
    swapped = (
        good[: start - 4] + len(hidden).to_bytes(4, "little") + hidden + good[start + length :]
    )
    with pytest.raises(MediaError):
        read_log_mel_pickle(swapped)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.zeros(SHAPE, np.float32), r"asks for numpy.*_reconstruct"),
        (torch.zeros(3, 1, 96, 63), r"shape \[3, 1, 96, 63\], not \[n, 1, 96, 64\]"),
        (torch.zeros(0, 1, 96, 64), r"shape \[0, 1, 96, 64\]"),
        (torch.zeros(96, 64), r"shape \[96, 64\]"),
        (torch.zeros(SHAPE, dtype=torch.int32), r"asks for torch\.IntStorage"),
        (torch.zeros(SHAPE, dtype=torch.float16), r"asks for torch\.HalfStorage"),
        (torch.full(SHAPE, torch.nan), "not finite"),
        (torch.zeros(1).expand(SHAPE), "does not fit its 1 values"),
        ([1, 2], "holds a list, not a torch tensor"),
        ({"a": "b"}, "holds a dict"),
        ([1.5], "operation BINFLOAT"),
        (torch.nn.Parameter(torch.zeros(SHAPE)), "_rebuild_parameter"),
    ],
)
def test_other_values_are_refused_with_the_reason(value: Any, reason: str) -> None:
    with pytest.raises(MediaError, match=reason):
        read_log_mel_pickle(pickle.dumps(value))


@pytest.mark.parametrize("offset", [-1, 1, 10**30])
def test_a_tensor_outside_of_its_storage_is_refused(offset: int) -> None:
    good = _tensor()
    storage = torch.storage.TypedStorage(
        wrap_storage=good.untyped_storage(), dtype=torch.float32, _internal=True
    )
    fake = _FakeTensor(storage, offset, SHAPE, good.stride(), False, {})
    with pytest.raises(MediaError):
        read_log_mel_pickle(pickle.dumps(fake))


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.999])
def test_a_cut_off_file_is_refused(part: float) -> None:
    data = pickle.dumps(_tensor())
    with pytest.raises(MediaError, match=r"^a\.pkl: "):
        read_log_mel_pickle(data[: int(part * len(data))], "a.pkl")


def test_damage_anywhere_is_refused_or_changes_numbers_only() -> None:
    data = pickle.dumps(_tensor())
    rng = np.random.default_rng(0)
    heads = [*range(300), *range(len(data) - 90, len(data))]
    for position in heads:
        damaged = bytearray(data)
        damaged[position] = (damaged[position] + rng.integers(1, 256)) % 256
        try:
            assert read_log_mel_pickle(bytes(damaged)).shape[1:] == SHAPE[1:]
        except MediaError:
            continue


def test_a_file_that_is_too_large_is_not_looked_at() -> None:
    with pytest.raises(MediaError, match="too many"):
        read_log_mel_pickle(b"\x80" * (MAX_LOG_MEL_BYTES + 1))


def test_values_that_multiply_on_paper_cost_nothing() -> None:
    """Twenty tuples of ten times the one before: printing or comparing them would never end."""
    steps = [b"(" + 10 * (b"h" + bytes([k])) + b"tq" + bytes([k + 1]) for k in range(20)]
    data = b"\x80\x02)q\x00" + b"".join(steps) + b"."
    with pytest.raises(MediaError, match="holds a tuple"):
        read_log_mel_pickle(data)


def test_real_pairs_are_read_and_the_hostile_one_is_not(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = real_data / "logmel-pairs"
    with pytest.raises(MediaError, match=r"asks for posix\.mkdir, which no log-mel needs"):
        read_log_mel_pickle((folder / "hostile.pkl").read_bytes())
    paths = [p for p in folder.glob("*.pkl") if p.name != "hostile.pkl"]
    assert len(paths) == 8
    assert {read_log_mel_pickle(p.read_bytes()).shape for p in paths} == {(5, 1, 96, 64)}
    silence = read_log_mel_pickle((folder / "slience.pkl").read_bytes())
    assert not silence.any()
    assert list(tmp_path.iterdir()) == []
