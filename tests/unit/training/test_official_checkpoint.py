"""The authors' file becomes a checkpoint that every other job takes, or is refused by name."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from small_configs import model_config
from torch import nn

from avs import storage
from avs.config import parse
from avs.datasets import DataConfig
from avs.errors import CheckpointError, ConfigError, WeightsError
from avs.inference.predictor import Predictor
from avs.models import AvsSystem, build_system
from avs.training.checkpoint import load_checkpoint, load_trainer_state
from avs.training.config import InferenceConfig
from avs.training.official_checkpoint import ImportConfig, import_checkpoint

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
# Names here -> official names of a ResNet.
OFFICIAL = (
    (r"^backbone\.net\.", "resnet."),
    (r"^necks\.(\d)\.branches\.", r"conv#\1.conv2d_list."),
    (r"^fusions\.(\d)\.align\.", r"tpavi_b\1.align_channel."),
    (r"^fusions\.(\d)\.norm\.", r"tpavi_b\1.norm_layer."),
    (r"^fusions\.(\d)\.w_z\.", r"tpavi_b\1.W_z.0."),
    (r"^fusions\.(\d)\.bn\.", r"tpavi_b\1.W_z.1."),
    (r"^fusions\.(\d)\.", r"tpavi_b\1."),
    (r"^decoder\.steps\.(\d)\.skip_unit\.", r"path#\1.resConfUnit1."),
    (r"^decoder\.steps\.(\d)\.out_unit\.", r"path#\1.resConfUnit2."),
    (r"^decoder\.head\.", "output_conv."),
)


def official_name(name: str) -> str:
    pattern, replacement = next(rule for rule in OFFICIAL if re.match(rule[0], name))
    renamed = re.sub(pattern, replacement, name)
    return re.sub(r"#(\d)", lambda stage: str(int(stage[1]) + 1), renamed)


def tiny_system(**changes: Any) -> AvsSystem:
    """Random weights of which nothing is at its start value."""
    torch.manual_seed(1)
    system = build_system(model_config(backbone="test_resnet", **changes))
    for value in system.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5)
    return system


def write_files(system: AvsSystem, folder: Path) -> tuple[str, str]:
    """What the authors would publish: the segmenter as saved under DDP, the audio network apart."""
    names = system.segmenter.state_dict()
    published = {f"module.{official_name(name)}": value for name, value in names.items()}
    torch.save(published, folder / "tiny_best.pth")
    torch.save(system.audio.state_dict(), folder / "audio.pth")
    return str(folder / "tiny_best.pth"), str(folder / "audio.pth")


def import_config(official: str, audio: str, out: str, **changes: Any) -> ImportConfig:
    data = {"name": "s4", "root": "", "image_size_px": 64, "num_frames": 5}
    data |= changes.pop("data", {})
    return ImportConfig(
        official=official,
        data=DataConfig(**data),
        model=model_config(
            **{"backbone": "test_resnet", "backbone_weights": "timm", "audio_weights": audio}
            | changes
        ),
        inference=InferenceConfig(windows_per_forward=2, num_threads=1),
        out=out,
    )


def quiet(_: str) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def system() -> AvsSystem:
    return tiny_system()


@pytest.fixture
def files(system: AvsSystem, tmp_path: Path) -> tuple[str, str]:
    return write_files(system, tmp_path)


def test_a_published_file_is_a_whole_checkpoint(
    system: AvsSystem, files: tuple[str, str], place: str
) -> None:
    out = import_checkpoint(import_config(*files, place), say=quiet)
    found = load_checkpoint(out)
    for name, value in system.state_dict().items():
        assert torch.equal(found.weights[name], value), name
    assert found.metrics == {}
    assert (found.clip.num_frames, found.clip.image_size_px) == (5, 64)
    assert (found.clip.class_names, found.clip.audio_pad) == (("background", "sounding"), "repeat")
    assert found.inference.windows_per_forward == 2
    sha256 = hashlib.sha256(Path(files[0]).read_bytes()).hexdigest()
    plain = yaml.safe_load(storage.read_bytes(storage.join(out, "config.yaml")))
    assert plain["imported"] == {"official": files[0], "sha256": sha256, "data": "s4"}
    logits = Predictor(found).logits(
        np.zeros((1, 5, 64, 64, 3), np.uint8),
        np.zeros((1, 5, 1, 96, 64), np.float32),
        np.ones((1, 5), np.bool_),
    )
    assert logits.shape == (1, 5, 1, 64, 64)
    with pytest.raises(CheckpointError, match=r"trainer_state\.pt does not exist: .*gone on"):
        load_trainer_state(out)
    written = {info.path for info in storage.list_files(out)}
    assert written == {"weights.safetensors", "config.yaml", "model_card.md", "metrics.json"}


def test_the_card_says_whose_weights_these_are(files: tuple[str, str], tmp_path: Path) -> None:
    out = import_checkpoint(import_config(*files, str(tmp_path / "out")), say=quiet)
    card = Path(out, "model_card.md").read_text()
    head, _, ours = card.partition("## These weights")
    assert "## Published" in head
    assert "## Reconstructed" in head
    for fact in (
        "As published by the authors (https://github.com/OpenNLPLab/AVSBench)",
        "nothing was trained here",
        f"tiny_best.pth, SHA-256 {hashlib.sha256(Path(files[0]).read_bytes()).hexdigest()}",
        "background, sounding",
        "nothing was measured",
    ):
        assert fact in ours, fact
    assert "epochs" not in ours


def test_avss_has_its_classes_frames_and_padding_without_its_folder(tmp_path: Path) -> None:
    avss = {"num_classes": 71, "options": {"fusion_width": 16, "audio_bias": False}}
    files = write_files(tiny_system(**avss), tmp_path)
    data = {"name": "avss", "num_frames": 10}
    config = import_config(
        *files, str(tmp_path / "out"), data=data, options=avss["options"], num_classes=1
    )
    found = load_checkpoint(import_checkpoint(config, say=quiet))
    assert found.model.num_classes == len(found.clip.class_names) == 71
    assert found.clip.class_names[:2] == ("background", "accordion")
    assert (found.clip.num_frames, found.clip.audio_pad) == (10, "zero")
    config.data.name = "s4"
    with pytest.raises(
        WeightsError,
        match=r"tiny_best\.pth'.*71 classes, .*another shape for: output_conv\.4\.weight.*"
        r"num_classes=1, small; give the experiment= and data=",
    ):
        import_checkpoint(config, say=quiet)


def test_a_users_label_list_takes_the_place_of_the_known_one(tmp_path: Path) -> None:
    names = {"background": 0, "cat": 1, "dog": 2}
    storage.write_json(str(tmp_path / "data" / "label2idx.json"), names)
    files = write_files(tiny_system(num_classes=3), tmp_path)
    for name in ("avss", "labelled"):
        data = {"name": name, "root": str(tmp_path / "data")}
        config = import_config(*files, str(tmp_path / name), data=data)
        found = load_checkpoint(import_checkpoint(config, say=quiet))
        assert found.clip.class_names == tuple(names)
    config.data.root = ""
    with pytest.raises(ConfigError, match=r"data\.root is not set: the class names of data=labell"):
        import_checkpoint(config, say=quiet)


def test_what_is_not_the_authors_file_is_named(files: tuple[str, str], tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    ours = import_checkpoint(import_config(*files, str(tmp_path / "first")), say=quiet)
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    cases = {
        str(tmp_path / "gone.pth"): (
            r"gone\.pth.*does not exist.*authors' checkpoint of tpavi with test_resnet for s4, see "
            r"https://github\.com/OpenNLPLab/AVSBench; give it as official=\.$"
        ),
        ours: r"first' is a folder.*give it as checkpoint=",
        f"{ours}/weights.safetensors": r"weights\.safetensors'.*of this package, which needs no",
        str(tmp_path / "linear.pth"): r"linear\.pth'.*cannot place: weight, bias \(2\).*lacks",
        files[1]: r"audio\.pth'.*cannot place",
    }
    for official, message in cases.items():
        with pytest.raises(WeightsError, match=message):
            import_checkpoint(import_config(official, files[1], out), say=quiet)
    assert not storage.exists(storage.join(out, "weights.safetensors"))


def test_the_audio_network_is_never_random(files: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.audio_weights=random.*Give the file of small"):
        import_checkpoint(import_config(files[0], "random", str(tmp_path / "out")), say=quiet)
    config = import_config(files[0], str(tmp_path / "gone.pth"), str(tmp_path / "out"))
    with pytest.raises(WeightsError, match=r"gone\.pth"):
        import_checkpoint(config, say=quiet)


def test_only_an_earlier_import_is_written_over(
    files: tuple[str, str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    config = import_config(*files, str(tmp_path / "out"))
    import_checkpoint(config, say=quiet)
    before = Path(config.out, "weights.safetensors").read_bytes()
    import_checkpoint(config, say=quiet)
    assert Path(config.out, "weights.safetensors").read_bytes() == before
    run, evaluation, weights = (tmp_path / name for name in ("run", "evaluation", "weights"))
    storage.write_json(str(run / "last.json"), {"checkpoint": "checkpoints/epoch-0001"})
    storage.write_json(str(evaluation / "metrics.json"), {"j": 0.5})
    storage.write_bytes(str(weights / "weights.safetensors"), b"somebody's")
    for taken in (run, evaluation, weights, tiny_checkpoint):
        kept = {p: p.read_bytes() for p in taken.rglob("*") if p.is_file()}
        with pytest.raises(ConfigError, match=r"holds something else \(.*give another out="):
            import_checkpoint(import_config(*files, str(taken)), say=quiet)
        assert {p: p.read_bytes() for p in taken.rglob("*") if p.is_file()} == kept


def test_a_killed_import_can_be_made_again_and_a_refused_one_leaves_nothing(
    files: tuple[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    config = import_config(*files, str(out))
    with pytest.raises(WeightsError):
        import_checkpoint(import_config(str(tmp_path / "no.pth"), files[1], str(out)), say=quiet)
    assert not out.exists()
    import_checkpoint(config, say=quiet)
    unwritten = ("metrics.json", "model_card.md", "weights.safetensors")  # from the last one on
    for count in range(1, 4):
        for name in unwritten[:count]:
            (out / name).unlink()
        with pytest.raises(CheckpointError, match="import_official"):
            load_checkpoint(str(out))
        import_checkpoint(config, say=quiet)
        load_checkpoint(str(out))


@pytest.mark.parametrize("recipe", sorted(p.stem for p in (CONFIGS / "experiment").glob("*.yaml")))
def test_every_recipe_says_which_network_its_file_holds(recipe: str) -> None:
    given = [f"experiment={recipe}", "official=a.pth", "model.audio_weights=b.pth", "out=c"]
    given.append(f"data={recipe.split('_')[1]}")
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = parse(compose("import_official", overrides=given), ImportConfig)
        trained = compose("train", overrides=[given[0], "data.prepared=a", given[2], given[3]])
    assert config.data.root == ""
    assert config.data.image_size_px == trained.train.image_size_px
    assert config.model.options == dict(trained.model.options)
    assert (config.model.name, config.model.backbone) == (
        trained.model.name,
        trained.model.backbone,
    )
