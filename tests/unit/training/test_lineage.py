"""What a checkpoint says that it has seen, over fine-tuning too; what an evaluation warns of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_clips import data_config, prepare
from small_configs import AVSC_OPTIONS, ONE_WORKER, model_config, train_config

from avs.errors import CheckpointError, ConfigError
from avs.inference import evaluation
from avs.inference.config import EvaluateConfig
from avs.models import build_system
from avs.prepare.manifest import read_manifest
from avs.training.checkpoint import load_checkpoint
from avs.training.config import PreparedConfig, TrainConfig
from avs.training.feed import ClipReader
from avs.training.init_from import start_from
from avs.training.lineage import clip_ids, content_hash, overlap_warnings, read_lineage
from avs.training.loop import train
from avs.training.run import Run
from avs.training.state import TrainingState, Worker


@pytest.fixture(scope="module")
def single(s4_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("single") / "prepared"
    prepare(data_config("s4", s4_root), out)
    return out


def finetuned(prepared: Path, out: Path, start: Path, **changes: object) -> TrainConfig:
    return train_config(prepared, out, epochs=1, init_from=str(start), **changes)


def test_a_run_tells_the_shards_and_clips_that_it_was_trained_on(
    run_folder: Path, prepared: Path
) -> None:
    uri = load_checkpoint(str(run_folder)).uri
    lineage = read_lineage(uri)
    assert lineage is not None
    manifest = read_manifest(str(prepared))
    (folder,) = lineage.folders
    assert (folder.prepared, folder.dataset, folder.num_clips) == (str(prepared), "ms3", 8)
    assert folder.sha256 == content_hash(manifest)
    reader = ClipReader(str(prepared), split="train")
    ids = clip_ids(str(prepared), manifest, split="train")
    assert ids == reader.read(range(len(reader))).clip_ids
    assert len(lineage.clips) == 8
    assert overlap_warnings(lineage, ids)[0].startswith("8 of 8 clips were trained on (")
    tested = clip_ids(str(prepared), manifest, split="test")
    assert overlap_warnings(lineage, tested) == []
    assert content_hash(manifest)[:12] in Path(uri, "model_card.md").read_text()


def test_other_shards_have_another_hash(prepared: Path) -> None:
    manifest = read_manifest(str(prepared))
    changed = [replace(manifest.shards[0], sha256="0" * 64), *manifest.shards[1:]]
    assert content_hash(replace(manifest, shards=changed)) != content_hash(manifest)
    assert content_hash(replace(manifest, shards=manifest.shards[::-1])) == content_hash(manifest)


def test_clips_of_a_source_video_that_was_trained_on_are_warned_of(
    run_folder: Path, prepared: Path
) -> None:
    lineage = read_lineage(load_checkpoint(str(run_folder)).uri)
    assert lineage is not None
    seen = clip_ids(str(prepared), read_manifest(str(prepared)), split="train")[0]
    other = f"folder/x/{seen.rpartition('/')[2]}@5000"
    assert overlap_warnings(lineage, [other]) == []
    # Windows of one file are of one video, whichever of them was trained on.
    own = replace(lineage, clips=frozenset(), videos=lineage.videos)
    (line,) = overlap_warnings(own, [seen, other])
    assert line.startswith(f"1 of 2 clips are of source videos that were trained on ({seen})")
    assert overlap_warnings(None, [seen]) == []


def test_an_evaluation_on_clips_that_were_trained_on_says_so_before_it_begins(
    run_folder: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Begun(Exception):  # noqa: N818  (no error)
        """Raised in the place of the scoring."""

    def begin(*_: object) -> None:
        raise Begun

    monkeypatch.setattr(evaluation, "_score", begin)
    for split, warned in (("train", 1), ("test", 0)):
        config = EvaluateConfig(
            checkpoint=str(run_folder),
            data=PreparedConfig(prepared=str(prepared)),
            split=split,
            out=str(tmp_path / "out"),
            batch_size=1,
            num_pictures=0,
            scale=ONE_WORKER,
        )
        said: list[str] = []
        with pytest.raises(Begun):
            evaluation.evaluate(config, say=said.append)
        warnings = [line for line in said if "warning: 8 of 8 clips were trained on" in line]
        assert len(warnings) == warned


def test_fine_tuning_begins_with_the_best_weights_of_a_run_and_tells_it(
    run_folder: Path, single: Path, prepared: Path, tmp_path: Path
) -> None:
    config = finetuned(single, tmp_path / "run", run_folder, learning_rate=1e-12)
    train(config, Worker())
    best, uri = load_checkpoint(str(run_folder)), Run(config.out).epoch_uri(1)
    found = load_checkpoint(uri).weights
    for name, value in best.weights.items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert (found[name] - value).abs().max() < 1e-6, name
    lineage = read_lineage(uri)
    assert lineage is not None
    assert lineage.started_from is not None
    assert (lineage.started_from.checkpoint, lineage.started_from.anew) == (best.uri, ())
    assert [folder.prepared for folder in lineage.folders] == [str(prepared), str(single)]
    assert len(lineage.clips) == 8 + len(ClipReader(str(single), split="train"))
    card = Path(uri, "model_card.md").read_text()
    assert f"weights of {best.uri} (all of them); before that, backbone: random" in card
    assert f"starting from weights of {best.uri}" in str(Run(config.out).read_progress())


def test_a_fine_tuned_run_that_goes_on_does_not_begin_anew(
    run_folder: Path, prepared: Path, tmp_path: Path
) -> None:
    def stop(metrics: dict[str, object]) -> None:
        if metrics["epoch"] == 1:
            raise KeyboardInterrupt

    start = tmp_path / "start"
    start.symlink_to(run_folder)
    whole = finetuned(prepared, tmp_path / "whole", start, ema_decay=0.9)
    whole = replace(whole, train=replace(whole.train, epochs=2))
    history = train(whole, Worker())
    stopped = replace(whole, out=str(tmp_path / "stopped"))
    with pytest.raises(KeyboardInterrupt):
        train(stopped, Worker(after_epoch=stop))
    start.unlink()  # what it began with may be gone by now
    resumed = train(stopped, Worker())
    assert [m["loss"] for m in resumed] == [m["loss"] for m in history]
    lineage = read_lineage(Run(stopped.out).epoch_uri(2))
    assert lineage is not None
    assert lineage.started_from is not None


def test_what_does_not_fit_starts_anew_and_is_named(
    run_folder: Path, prepared: Path, tmp_path: Path
) -> None:
    config = finetuned(prepared, tmp_path / "run", run_folder)
    state = TrainingState(config, Worker())
    model = replace(state.model_config, num_classes=3)
    system = build_system(model)
    before = {name: value.clone() for name, value in system.state_dict().items()}
    started = start_from(system, config)
    best = load_checkpoint(str(run_folder)).weights
    misfits = {name for name in best if best[name].shape != before[name].shape}
    assert set(started.anew) == misfits
    assert 1 <= len(misfits) <= 2
    assert all(name in str(started) for name in misfits)
    after = system.state_dict()
    for name, value in after.items():
        assert value.equal(before[name] if name in misfits else best[name]), name


def test_another_audio_network_is_left_as_the_configuration_says(
    run_folder: Path, prepared: Path, tmp_path: Path
) -> None:
    model = model_config(audio_network="yamnet")
    config = replace(finetuned(prepared, tmp_path / "run", run_folder), model=model)
    system = build_system(model)
    before = {k: v.clone() for k, v in system.state_dict().items() if k.startswith("audio.")}
    started = start_from(system, config)
    assert not any(name.startswith("audio.") for name in started.anew)
    after = system.state_dict()
    assert all(after[name].equal(value) for name, value in before.items())


def test_a_start_that_is_none_is_refused_with_its_key(
    run_folder: Path, prepared: Path, tmp_path: Path
) -> None:
    absent = finetuned(prepared, tmp_path / "run", tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"train\.init_from=.*absent.* does not exist"):
        train(absent, Worker())
    model = model_config(name="avsc", backbone="test_convnext", options=AVSC_OPTIONS)
    other = replace(absent, model=model)
    other.train.init_from = str(run_folder)
    with pytest.raises(ConfigError, match=r"nothing fits .*model\.backbone=test_convnext"):
        train(other, Worker())
