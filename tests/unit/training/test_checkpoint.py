"""Checkpoint folders: whole or refused with the reason."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from avs import storage
from avs.errors import AvsError, CheckpointError, ConfigError, DataError
from avs.media.logmel import Alignment
from avs.training.checkpoint import (
    CHECKPOINT_VERSION,
    Checkpoint,
    check_alignment,
    copy_checkpoint,
    load_checkpoint,
    load_trainer_state,
    resolve_checkpoint,
    save_checkpoint,
)

FILES = ("weights.safetensors", "config.yaml", "model_card.md", "trainer_state.pt", "metrics.json")


@pytest.fixture
def best(run_folder: Path, tmp_path: Path) -> Path:
    """A copy of the run's best checkpoint, free to be damaged."""
    source = resolve_checkpoint(str(run_folder))
    return Path(shutil.copytree(source, tmp_path / "a b=c"))


def _save(uri: str, found: Checkpoint) -> None:
    plain = yaml.safe_load(storage.read_bytes(storage.join(found.uri, "config.yaml")))
    save_checkpoint(
        uri,
        weights=found.weights,
        config={k: plain[k] for k in ("model", "inference")},
        clip=found.clip,
        metrics=found.metrics,
        card="# card",
        trainer_state={"optimizer": {"x": torch.ones(2)}, "history": [{"epoch": 1}]},
    )


def test_what_is_saved_is_what_is_loaded(run_folder: Path, place: str) -> None:
    original = load_checkpoint(str(run_folder))
    uri = storage.join(place, "epoch-0001")
    _save(uri, original)
    found = load_checkpoint(uri)
    assert found.uri == uri
    for name in ("model", "clip", "inference", "metrics"):
        assert getattr(found, name) == getattr(original, name)
    assert found.weights.keys() == original.weights.keys()
    assert all(torch.equal(found.weights[k], v) for k, v in original.weights.items())
    assert {f.path for f in storage.list_files(uri)} == set(FILES)


def test_the_alignment_of_the_sound_is_kept_and_is_the_official_one_in_older_checkpoints(
    run_folder: Path, tmp_path: Path
) -> None:
    found = load_checkpoint(str(run_folder))
    found.clip = replace(found.clip, audio_alignment=Alignment.EXACT)
    _save(str(tmp_path), found)
    assert load_checkpoint(str(tmp_path)).clip == found.clip
    plain = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert plain["clip"].pop("audio_alignment") == "exact"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain))
    assert load_checkpoint(str(tmp_path)).clip.audio_alignment is Alignment.AVSBENCH
    plain["clip"]["audio_alignment"] = "later"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain))
    with pytest.raises(ConfigError, match=r"config\.yaml: clip\.audio_alignment=later is not"):
        load_checkpoint(str(tmp_path))


@pytest.mark.parametrize("trained", Alignment)
def test_data_of_another_alignment_is_refused_where_log_mels_are_heard(
    run_folder: Path, trained: Alignment
) -> None:
    found = load_checkpoint(str(run_folder))
    found.clip = replace(found.clip, audio_alignment=trained)
    (other,) = set(Alignment) - {trained}
    check_alignment(found, trained, prepared="data")
    told = rf"alignment={other.value}, but .* {trained.value}: .*alignment={trained.value} into"
    with pytest.raises(DataError, match=rf"data was prepared with data\.audio\.{told}"):
        check_alignment(found, other, prepared="data")
    found.model = replace(found.model, audio_network="panns")
    check_alignment(found, other, prepared="data")


def test_the_trainer_state_is_read_without_running_code(run_folder: Path, best: Path) -> None:
    state = load_trainer_state(resolve_checkpoint(str(run_folder)))
    assert state["history"][0]["epoch"] == 1
    assert state["optimizer"]["state"]
    torch.save({"optimizer": Path("x")}, best / "trainer_state.pt")
    with pytest.raises(CheckpointError, match=r"trainer_state\.pt cannot be read"):
        load_trainer_state(str(best))


def test_a_run_folder_means_its_best_checkpoint(run_folder: Path, best: Path) -> None:
    pointed = storage.read_json(str(run_folder / "best.json"))["checkpoint"]
    assert resolve_checkpoint(str(run_folder)) == str(run_folder / pointed)
    assert resolve_checkpoint(str(best)) == str(best)
    assert load_checkpoint(str(run_folder)).metrics["epoch"] == int(pointed[-4:])


@pytest.mark.parametrize("name", ["weights.safetensors", "config.yaml", "metrics.json"])
def test_a_missing_file_is_named(best: Path, name: str) -> None:
    (best / name).unlink()
    with pytest.raises(CheckpointError, match=rf"has no {name}: .*run that job .*train.* again"):
        load_checkpoint(str(best))


def test_a_missing_trainer_state_hinders_resuming_only(best: Path) -> None:
    (best / "trainer_state.pt").unlink()
    load_checkpoint(str(best))
    with pytest.raises(CheckpointError, match=r"trainer_state\.pt does not exist"):
        load_trainer_state(str(best))


@pytest.mark.parametrize("uri", ["nowhere", "empty"])
def test_a_folder_that_is_none_is_named(tmp_path: Path, uri: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=rf"checkpoint=.*{uri} (does not exist|has no)"):
        load_checkpoint(str(tmp_path / uri))


def test_a_pointer_to_a_checkpoint_that_is_gone_is_named(tmp_path: Path) -> None:
    storage.write_json(str(tmp_path / "best.json"), {"checkpoint": "checkpoints/epoch-0003"})
    with pytest.raises(CheckpointError, match=r"epoch-0003 does not exist"):
        load_checkpoint(str(tmp_path))


@pytest.mark.parametrize("version", [CHECKPOINT_VERSION + 1, None])
def test_another_version_is_refused_with_the_way_out(best: Path, version: int | None) -> None:
    plain = yaml.safe_load((best / "config.yaml").read_text())
    plain["checkpoint_version"] = version
    (best / "config.yaml").write_text(yaml.safe_dump(plain))
    with pytest.raises(CheckpointError, match=rf"checkpoint_version {version}, .*train again"):
        load_checkpoint(str(best))


@pytest.mark.parametrize("name", ["weights.safetensors", "config.yaml", "metrics.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_a_damaged_file_is_named(best: Path, name: str, damage: str) -> None:
    path = best / name
    data = path.read_bytes()
    cut = data[: len(data) // 3]
    path.write_bytes({"cut": cut, "empty": b"", "noise": b"\x00{: [\xff\xfe" * 9}[damage])
    with pytest.raises(AvsError, match=name):
        load_checkpoint(str(best))


def test_a_copy_is_complete_only_at_its_end(
    best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "copy"
    copy_checkpoint(str(best), str(target))
    assert {p.name: p.read_bytes() for p in target.iterdir()} == {
        p.name: p.read_bytes() for p in best.iterdir()
    }
    written: list[str] = []
    write = storage.write_bytes

    def note(uri: str, data: bytes) -> None:
        written.append(uri.rpartition("/")[2])
        write(uri, data)

    monkeypatch.setattr(storage, "write_bytes", note)
    copy_checkpoint(str(best), str(target))
    assert sorted(written) == sorted([*FILES, "lineage.json"])
    assert written[-1] == "metrics.json"


def test_the_file_that_makes_a_checkpoint_whole_is_written_last(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load_checkpoint(str(run_folder))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            _save(str(tmp_path / "part"), found)
    with pytest.raises(CheckpointError, match=r"has no metrics\.json"):
        load_checkpoint(str(tmp_path / "part"))
    _save(str(tmp_path / "part"), found)
    load_checkpoint(str(tmp_path / "part"))


def test_the_card_says_what_the_model_is_and_what_it_reached(run_folder: Path) -> None:
    card = Path(resolve_checkpoint(str(run_folder)), "model_card.md").read_text()
    assert "tpavi (test_resnet, small)" in card
    assert "background, sounding" in card
    assert "validation | J " in card
