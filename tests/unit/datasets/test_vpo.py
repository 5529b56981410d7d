"""VPO: COCO pictures joined with VGGSound sounds, as CAVP's loader reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_clips import data_config, write_png, write_wav

from avs.datasets import DATASETS, AudioConfig, ClipSource, MissingSound
from avs.datasets.vpo import VPO_CLASSES
from avs.errors import MediaError
from avs.media.audio import from_int16
from avs.prepare.clip import prepare_clip
from avs.schema import Clip

HEAD = "img_Id,ann_Ids,cateName,cateId,vgg_file,split,audio_pos,multi_instance\n"
NAMES = {"ss": "vpo_ss_data_stereo.csv", "ms": "vpo_ms_data_stereo.csv"}
SIZE = (40, 60)


def _list(root: Path, **changes: object) -> list[ClipSource]:
    return DATASETS["vpo"].list_clips(data_config("vpo", root, num_frames=1, **changes))


def _prepare(root: Path, source: ClipSource, **changes: object) -> Clip:
    values = {"num_frames": 1, "image_size_px": SIZE[0], **changes}
    (clip,) = prepare_clip(source, data_config("vpo", root, **values))
    return clip


def _write(root: Path, setup: str, rows: list[str], *, masks: bool = True) -> Path:
    home = root / f"VPO-{setup.upper()}"
    home.mkdir(parents=True)
    (home / NAMES[setup]).write_text(HEAD + "\n".join(rows) + "\n")
    rng = np.random.default_rng(0)
    write_png(home / "data/000000000025.jpg", rng.integers(0, 256, (*SIZE, 3), np.uint8))
    mask = np.zeros(SIZE, np.uint8)
    mask[:10], mask[10:20], mask[20:25], mask[25:30] = 18, 17, 1, 255
    if masks:
        write_png(home / "mask/000000000025_000000000007.png", mask)
    for name, value in (("dog_000010", 1000), ("cat_000010", 500)):
        sound = np.full((16000 * 3, 1), value)
        sound[:16000] = sound[32000:] = 20000
        write_wav(root / f"VGGSound/audios/{name}.wav", sound)
    return home


def test_a_single_source_row_is_one_clip(tmp_path: Path) -> None:
    home = _write(tmp_path, "ss", ["25,7,dog,18,dog_000010,train,0.2,0"])
    (source,) = _list(tmp_path)
    assert source.problem is None
    assert source.clip_id == "vpo/ss/000000000025_000000000007_dog_000010"
    assert (source.categories, source.video_id) == (("dog",), "000000000025")
    assert source.frames == (str(home / "data/000000000025.jpg"),)
    clip = _prepare(tmp_path, source)
    assert clip.mask_valid.tolist() == [True]
    wanted = [VPO_CLASSES.index("dog")] * 10 + [VPO_CLASSES.index("cat")] * 10 + [0] * 5
    assert clip.masks[0][:, 0].tolist() == [*wanted, *[255] * 5, *[0] * 10]
    assert DATASETS["vpo"].class_names(data_config("vpo", tmp_path)) == VPO_CLASSES
    assert len(VPO_CLASSES) == 22


def test_sounds_of_one_picture_are_added_from_their_middle(tmp_path: Path) -> None:
    rows = ["25,7,dog,18,dog_000010,val,0.2,0", "25,7,cat,17,cat_000010,val,0.8,0"]
    _write(tmp_path, "ms", rows)
    (source,) = _list(tmp_path)
    assert source.categories == ("cat", "dog")
    clip = _prepare(tmp_path, source)
    assert clip.waveform.tolist() == [1500] * 16000
    assert from_int16(clip.waveform).max() == pytest.approx(1500 / 32768)


def test_frames_after_the_first_are_padding(tmp_path: Path) -> None:
    _write(tmp_path, "ss", ["25,7,dog,18,dog_000010,train,0.2,0"])
    (source,) = _list(tmp_path)
    clip = _prepare(tmp_path, source, num_frames=3)
    assert clip.frame_valid.tolist() == clip.mask_valid.tolist() == [True, False, False]
    assert clip.waveform.shape == (48000,)


def test_masks_are_drawn_from_coco_where_there_are_no_pictures(tmp_path: Path) -> None:
    home = _write(tmp_path, "ms", ['25,"[7, 8]",dog,18,dog_000010,train,0.2,0'], masks=False)
    boxes = {
        7: (18, [0, 0, 60, 0, 60, 20, 0, 20], 1200),
        8: (17, [5, 5, 15, 5, 15, 15, 5, 15], 100),
    }
    annotations = [
        {"id": n, "image_id": 25, "category_id": c, "segmentation": [p], "area": a}
        for n, (c, p, a) in boxes.items()
    ]
    plain = {"annotations": [*reversed(annotations)]}
    (home / "instances_train2017.json").write_text(json.dumps(plain))
    (source,) = _list(tmp_path)
    assert source.problem is None
    mask = _prepare(tmp_path, source, image_size_px=40).masks[0]
    assert mask[2, 2] == VPO_CLASSES.index("dog")
    assert mask[10, 7] == VPO_CLASSES.index("cat")
    assert not mask[25:].any()


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("26,7,dog,18,dog_000010,train,0,0", r"VPO-SS/data/000000000026\.jpg is missing"),
        ("25,9,dog,18,dog_000010,train,0,0", r"mask/000000000025_000000000009\.png is missing"),
        ("25,7,dog,18,owl,train,0,0", r"owl\.wav is missing"),
        ("25,7,owl,18,dog_000010,train,0,0", "cateName 'owl' is none of the 21 classes"),
        ("25,7,dog,18,dog_000010,all,0,0", "split 'all' is not one of"),
    ],
)
def test_problems_are_told(tmp_path: Path, row: str, problem: str) -> None:
    _write(tmp_path, "ss", [row])
    (source,) = _list(tmp_path)
    with pytest.raises(MediaError, match=problem):
        _prepare(tmp_path, source)


def test_a_sound_that_is_missing_may_be_silence(tmp_path: Path) -> None:
    _write(tmp_path, "ss", ["25,7,dog,18,owl,train,0,0"])
    audio = AudioConfig(missing=MissingSound.SILENCE)
    (source,) = _list(tmp_path, audio=audio)
    assert not _prepare(tmp_path, source, audio=audio).waveform.any()


def test_rows_of_vpo_msmi_find_their_pictures_in_vpo_ms(tmp_path: Path) -> None:
    _write(tmp_path, "ms", ["25,7,dog,18,dog_000010,train,0.2,0"])
    home = tmp_path / "VPO-MSMI"
    home.mkdir()
    row = "25,7,dog,18,dog_000010,train,0.2,0"
    (home / "vpo_msmi_data_stereo.csv").write_text(f"{HEAD}{row}\n")
    clips = _list(tmp_path)
    assert [c.clip_id.split("/")[1] for c in clips] == ["ms", "msmi"]
    assert [c.problem for c in clips] == [None, None]
    assert clips[1].frames == clips[0].frames
