"""The shipped similarity matrix ties sounds to what makes them; a user's own takes its place."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from avs import storage
from avs.errors import WeightsError
from avs.models.audioset import audioset_classes
from avs.models.imagenet import imagenet_classes
from avs.models.similarity import load_similarity

DOG_BREEDS = set(range(151, 269))
DOMESTIC_CATS = set(range(281, 286))
CATS = set(range(281, 294))  # and cougar, lynx, leopards, lion, tiger, cheetah


def nearest(sound: str, *, count: int) -> list[int]:
    """ImageNet classes, nearest first, to an AudioSet class."""
    column = [entry.name for entry in audioset_classes()].index(sound)
    found: list[int] = load_similarity()[:, column].topk(count).indices.tolist()
    return found


def named(*words: str) -> set[int]:
    """ImageNet classes with one of the words among their names."""
    names = enumerate(imagenet_classes())
    return {index for index, name in names if any(word in name for word in words)}


def matrix(**changes: Any) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, changes.get("shape", (1000, 527))).astype(np.float32)


def test_the_shipped_matrix_is_whole() -> None:
    similarity = load_similarity()
    assert similarity.shape == (1000, 527)
    assert similarity.dtype == torch.float32
    assert similarity.isfinite().all()
    assert similarity.min() >= 0
    assert 0.5 < similarity.max() <= 1
    assert (similarity > 0).any(dim=0).all()
    assert (similarity > 0).any(dim=1).all()
    assert torch.equal(similarity, load_similarity())


def test_dog_sounds_are_nearest_to_dog_breeds() -> None:
    assert set(nearest("Dog", count=10)) <= DOG_BREEDS
    barkers = nearest("Bark", count=10)
    assert set(barkers[:2]) <= DOG_BREEDS
    assert len(set(barkers) & DOG_BREEDS) >= 6  # the others call, too: wolf, dhole, howler monkey
    similarity, columns = load_similarity(), [entry.name for entry in audioset_classes()]
    for sound in ("Dog", "Bark", "Whimper (dog)", "Canidae, dogs, wolves"):
        breeds = similarity[sorted(DOG_BREEDS), columns.index(sound)].mean()
        assert breeds > 1.5 * similarity[:, columns.index(sound)].mean()


def test_cat_sounds_are_nearest_to_cats() -> None:
    assert set(nearest("Cat", count=10)) <= CATS
    # The encoder hardly knows the word: hens are as near, but cats are among the nearest.
    assert len(set(nearest("Meow", count=10)) & DOMESTIC_CATS) >= 3


@pytest.mark.parametrize(
    ("sound", "words"),
    [
        ("Guitar", ("guitar",)),
        ("Piano", ("piano",)),
        ("Train", ("bullet train",)),
        ("Fire engine, fire truck (siren)", ("fire engine",)),
        ("Helicopter", ("warplane", "airliner")),
        ("Chainsaw", ("chain saw",)),
        ("Car passing by", ("car", "cab", "racer")),
    ],
)
def test_a_sound_is_nearest_to_what_makes_it(sound: str, words: tuple[str, ...]) -> None:
    assert nearest(sound, count=1)[0] in named(*words)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_file_of_the_user_takes_its_place(place: str, suffix: str) -> None:
    wanted = matrix()
    buffer = io.BytesIO()
    if suffix == ".npy":
        np.save(buffer, wanted.astype(np.float64))
    else:
        np.savez(buffer, similarity_matrix=wanted, names=np.array(["a"]))
    uri = storage.join(place, f"own{suffix}")
    storage.write_bytes(uri, buffer.getvalue())
    loaded = load_similarity(uri)
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, torch.from_numpy(wanted))


def test_an_hdf5_file_is_read_or_the_missing_package_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own.h5"
    try:
        import h5py
    except ImportError:
        path.write_bytes(b"\x89HDF\r\n\x1a\n")
        with pytest.raises(WeightsError, match=r"own\.h5.*h5py is not installed.*\.npy"):
            load_similarity(str(path))
        return
    with h5py.File(path, "w") as file:
        file["similarity_matrix"] = matrix()
    assert torch.equal(load_similarity(str(path)), torch.from_numpy(matrix()))


def broken(**cells: float) -> NDArray[np.float32]:
    values = matrix()
    values[3, 5] = cells["cell"]
    return values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (matrix(shape=(527, 1000)), r"has the shape \[527, 1000\] \(transpose it\)"),
        (matrix(shape=(1000, 521)), r"has the shape \[1000, 521\]\. Wanted"),
        (broken(cell=np.nan), "1 values that are not finite"),
        (broken(cell=np.inf), "1 values that are not finite"),
        (broken(cell=7.0), "values from -1 to 7"),
        (np.zeros((1000, 527)), "no value above 0"),
        (matrix() > 0, "holds bool values"),
    ],
)
def test_a_matrix_that_cannot_be_used_is_told(
    values: NDArray[Any], message: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "own.npy", values)
    with pytest.raises(WeightsError, match=rf"similarity='.*own\.npy' .*{message}"):
        load_similarity(str(tmp_path / "own.npy"))


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", something=matrix())
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object))
    (tmp_path / "text.npy").write_text("no numbers")
    for name, why in (
        ("other.npz", "it holds something, not similarity_matrix"),
        ("pickled.npy", "allow_pickle"),
        ("text.npy", "cannot read"),
        ("absent.npy", "does not exist"),
    ):
        with pytest.raises(WeightsError, match=rf"similarity='.*{name}'.*{why}|{why}.*{name}"):
            load_similarity(str(tmp_path / name))
