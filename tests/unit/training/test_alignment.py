"""From ``data.audio.alignment`` over training to the Predictor: one alignment all the way."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_clips import data_config, prepare
from small_configs import train_config

from avs.datasets import AudioConfig
from avs.errors import DataError
from avs.inference.predictor import Predictor
from avs.media.audio import Alignment, from_int16
from avs.training.feed import ClipReader
from avs.training.loop import train
from avs.training.state import Worker


@pytest.mark.parametrize("alignment", Alignment)
def test_a_predictor_hears_what_its_network_was_trained_on(
    ms3_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alignment: Alignment
) -> None:
    prepared = tmp_path / "prepared"
    prepare(data_config("ms3", ms3_root, audio=AudioConfig(alignment=alignment)), prepared)
    train(train_config(prepared, tmp_path / "run", epochs=1), Worker())
    predictor = Predictor.from_checkpoint(str(tmp_path / "run"))
    assert predictor.clip.audio_alignment is alignment
    batch = ClipReader(str(prepared), split="val", input_kind="waveform").read([0])
    assert batch.waveform is not None
    forward, heard = predictor.forward, []
    monkeypatch.setattr(
        predictor,
        "forward",
        lambda *given, **asked: heard.append(given[1]) or forward(*given, **asked),
    )
    frames = batch.frames[0].permute(0, 2, 3, 1).numpy()
    list(predictor.segment(frames, from_int16(batch.waveform[0].numpy()), size_px=(8, 8)))
    assert np.array_equal(heard[0], batch.log_mel.numpy())


def test_a_run_does_not_go_on_with_data_that_was_aligned_anew(
    ms3_root: Path, tmp_path: Path
) -> None:
    data = data_config("ms3", ms3_root)
    prepare(data, tmp_path / "prepared")
    config = train_config(tmp_path / "prepared", tmp_path / "run", epochs=1)
    train(config, Worker())
    shutil.rmtree(tmp_path / "prepared")
    exact = replace(data, audio=AudioConfig(alignment=Alignment.EXACT))
    prepare(exact, tmp_path / "prepared")
    config.train.epochs = 2
    with pytest.raises(DataError, match=r"alignment=exact, but .* avsbench: prepare"):
        train(config, Worker())
