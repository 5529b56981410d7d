"""Audio networks: equal to the published forms, imported strictly, classes in AudioSet's order."""

from __future__ import annotations

import hashlib
import itertools
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from audio_published import (
    beats_bucket,
    beats_forward,
    beats_shapes,
    beats_state,
    fill,
    head_forward,
    head_shapes,
    panns_forward,
    panns_log_mel,
    panns_shapes,
)
from official_fill import params
from safetensors.torch import save_file

from avs.errors import ConfigError, WeightsError
from avs.media.audio import log_mel, read_audio
from avs.models import AUDIO_NETWORKS, build_audio_network, import_official
from avs.models.audioset import audioset_classes, class_positions, spread_classes
from avs.models.beats import Beats
from avs.models.beats_layers import relative_buckets
from avs.models.panns import Cnn14
from avs.models.system import with_log_offset
from avs.models.vggish import PcaQuantiser, VGGish, VGGishClassified

LABELS_SHA256 = "23b5fdcf1a82f94e342834f4cfebec37579aec36c58b3ca6ea8f1288b1553468"
MIDS = [entry.mid for entry in audioset_classes()]


def sounds(count: int = 2, *, num_samples: int = 16000) -> torch.Tensor:
    """A sweep, a tone and noise: values over the whole range of a log-mel."""
    t = torch.arange(num_samples) / 16000
    waves = [0.4 * torch.sin(2 * torch.pi * (200 + 900 * k + 2000 * t) * t) for k in range(count)]
    noise = torch.randn(count, num_samples, generator=torch.Generator().manual_seed(1))
    return torch.stack(waves) + 0.01 * noise


def expanded(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Zeros of these shapes that take no room, in a file neither."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


def yamnet_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the shared file, layer by layer."""
    widths = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    shapes: dict[str, tuple[int, ...]] = {"layer1.conv.weight": (32, 1, 3, 3)}
    for layer, (before, after) in enumerate(itertools.pairwise(widths), start=2):
        shapes[f"layer{layer}.depthwise.weight"] = (before, 1, 3, 3)
        shapes[f"layer{layer}.pointwise.weight"] = (after, before, 1, 1)
    shapes["dense.weight"] = (521, 1024)
    return shapes | {
        name.replace("weight", "bias"): shape[:1] for name, shape in list(shapes.items())
    }


@pytest.fixture(scope="module")
def yamnet_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("yamnet") / "yamnet.safetensors"
    save_file({n: v.half() for n, v in fill(yamnet_shapes(), 4).items()}, path)
    return str(path)


# The classes


def test_the_shipped_classes_are_audiosets_csv_in_its_order() -> None:
    file = resources.files("avs.models") / "data" / "audioset_labels.csv"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == LABELS_SHA256
    assert len(MIDS) == len(set(MIDS)) == 527
    names = [entry.name for entry in audioset_classes()]
    assert (names[0], names[74], names[526]) == ("Speech", "Dog", "Field recording")
    assert names[1] == "Male speech, man speaking"  # a quoted comma


def test_classes_of_a_network_are_spread_by_mid_and_the_others_are_impossible() -> None:
    mids = [MIDS[k] for k in (500, 0, 74)]
    logits = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    spread = spread_classes(logits, class_positions(mids))
    assert spread[:, [500, 0, 74]].tolist() == logits.tolist()
    assert int(torch.isneginf(spread).sum()) == 2 * 524
    assert torch.allclose(spread.softmax(1).sum(1), torch.ones(2))
    assert spread.softmax(1)[0, 1] == 0
    with pytest.raises(WeightsError, match="/m/unknown"):
        class_positions([*mids, "/m/unknown"])
    with pytest.raises(WeightsError, match="4 classes, but only 3"):
        class_positions([*mids, MIDS[0]])


# PANNs


@pytest.mark.parametrize(
    "widths",
    [(4, 8, 8, 16, 16, 32), pytest.param((64, 128, 256, 512, 1024, 2048), marks=pytest.mark.full)],
)
def test_panns_equals_its_published_form(widths: tuple[int, ...]) -> None:
    network = Cnn14(widths=widths)
    state = fill(panns_shapes(widths), 1)
    for name, value in network.state_dict().items():
        if "extractor" in name:  # what it is in every checkpoint
            state[name] = value
    import_official(network, {"iteration": 10, "model": state})
    waves = sounds()
    output = network(waves)
    assert output.logits is not None
    for wave, embedding, logits in zip(waves, output.embedding, output.logits, strict=True):
        expected = panns_forward(state, wave)
        torch.testing.assert_close(embedding, expected[0], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(logits, expected[1], atol=1e-4, rtol=0)
    # clip-wise probabilities: C3N softmaxes those once more
    assert 0 <= float(output.logits.min()) <= float(output.logits.max()) <= 1


def test_panns_computes_its_own_log_mel() -> None:
    network: Any = Cnn14(widths=(4,) * 6)
    waves = sounds()
    ours = network.logmel_extractor(network.spectrogram_extractor(waves))[:, 0]
    assert ours.shape == (2, 101, 64)
    for wave, log_mel_FM in zip(waves, ours, strict=True):
        torch.testing.assert_close(log_mel_FM, panns_log_mel(wave), atol=2e-3, rtol=0)  # decibels
    silent = network.logmel_extractor(network.spectrogram_extractor(torch.zeros(1, 16000)))
    assert torch.equal(silent, torch.full_like(silent, -100.0))


def test_panns_file_is_read_with_the_arrays_of_its_sampler(tmp_path: Path) -> None:
    state = expanded(panns_shapes())
    state["fc_audioset.bias"] = torch.linspace(-3, 3, 527)
    counters = [name for name in state if name.endswith("running_mean")]
    for name in counters:
        state[name.replace("running_mean", "num_batches_tracked")] = torch.tensor(7)
    sampler = {"indexes_per_class": [np.arange(3)], "pointers_of_classes": [0], "queue": []}
    path = tmp_path / "Cnn14_16k_mAP=0.438.pth"
    torch.save({"iteration": 10, "model": state, "sampler": {"sampler1": sampler}}, path)
    network = build_audio_network("panns", weights=str(path))
    logits = network(sounds(1)).logits
    torch.testing.assert_close(logits, torch.linspace(-3, 3, 527).sigmoid()[None])


# BEATs


@pytest.mark.parametrize(
    ("num_layers", "num_samples"),
    # 1 s: 48 tokens; 4 s: 200, so that some are far apart
    [(2, 16000), (2, 64000), pytest.param(12, 16000, marks=pytest.mark.full)],
)
def test_beats_equals_its_published_form(num_layers: int, num_samples: int) -> None:
    state = beats_state(2, num_layers)
    network = Beats(num_layers=num_layers)
    import_official(network, {"cfg": {}, "model": state, "label_dict": dict(enumerate(MIDS))})
    waves = sounds(num_samples=num_samples)
    output = network(waves)
    assert output.logits is not None
    for wave, embedding, logits in zip(waves, output.embedding, output.logits, strict=True):
        expected = beats_forward(state, wave, num_layers=num_layers)
        torch.testing.assert_close(embedding, expected[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(logits, expected[1], atol=1e-4, rtol=0)


def test_beats_buckets_are_exact_when_near_and_end_at_the_longest_distance() -> None:
    buckets = relative_buckets(1000)
    expected = torch.tensor([[beats_bucket(key - query) for key in (0, 79, 81, 300, 999)]
                             for query in (0, 500)])  # fmt: skip
    assert torch.equal(buckets[[0, 500]][:, [0, 79, 81, 300, 999]], expected)
    assert int(buckets.max()) == 319


def test_beats_classes_follow_the_label_dict_of_the_checkpoint(tmp_path: Path) -> None:
    order = np.random.default_rng(2).permutation(527)
    state = expanded(beats_shapes())
    state["predictor.bias"] = torch.arange(527.0)
    state["encoder.pos_conv.0.weight_v"] = torch.ones(()).expand(768, 48, 128)  # has to have a norm
    content = {"cfg": {}, "model": state, "label_dict": {k: MIDS[c] for k, c in enumerate(order)}}
    torch.save(content, tmp_path / "beats.pt")
    network = build_audio_network("beats", weights=str(tmp_path / "beats.pt"))
    logits = network(sounds(1)).logits
    assert logits is not None
    assert torch.equal(logits[0, torch.from_numpy(order)], torch.arange(527.0))
    kept = Beats.own_names(network.state_dict())  # as a checkpoint of this package holds it
    assert torch.equal(kept["class_positions"], torch.from_numpy(order))

    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"model\.pt.*no label_dict.*order of its classes"):
        build_audio_network("beats", weights=str(tmp_path / "model.pt"))


# VGGish


PCA = {
    "pca_eigen_vectors": np.random.default_rng(3).normal(size=(128, 128)) / 2,
    "pca_means": np.random.default_rng(4).normal(size=128) / 5,
}


def test_classified_vggish_equals_c3ns_and_keeps_the_plain_embedding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = fill(head_shapes(), 3)
    network: Any = build_audio_network("vggish_classified", weights="random")
    import_official(
        network, {**network.state_dict(), **VGGishClassified.own_names({**PCA, **head})}
    )
    examples = torch.randn(3, 1, 96, 64)
    plain = VGGish.describe(network, examples).embedding
    assert torch.equal(network(examples).embedding, plain)

    embedding = torch.randn(3, 128).relu()
    monkeypatch.setattr(network, "embed", lambda _: embedding)
    output = network(examples)
    assert output.embedding is embedding
    pca = {name: torch.from_numpy(value).float() for name, value in PCA.items()}
    expected = head_forward(head, pca, embedding)
    torch.testing.assert_close(output.logits, expected, atol=1e-4, rtol=0)
    assert float((expected[0] - expected[-1]).abs().max()) > 1e-2


def test_the_quantiser_gives_bytes() -> None:
    values = torch.zeros(4, 128)
    values[:, 0] = torch.tensor([-9.0, -2.0, 0.0, 1.9999])
    assert PcaQuantiser()(values)[:, 0].tolist() == [0.0, 0.0, 128.0, 255.0]  # 127.5 to the even


def test_the_three_published_files_of_classified_vggish_are_put_together(tmp_path: Path) -> None:
    shapes = {name: tuple(shape) for name, shape in params("vggish").items()}
    head = fill(head_shapes(), 3)
    files = {"vggish.pth": expanded(shapes), "pca.pth": PCA, "head.pth": {"state_dict": head}}
    for name, content in files.items():
        torch.save(content, tmp_path / name)
    spec = ", ".join(str(tmp_path / name) for name in files)
    state = build_audio_network("vggish_classified", weights=spec).state_dict()
    np.testing.assert_allclose(state["pproc.pca_means"][:, 0], PCA["pca_means"], rtol=1e-6)
    assert torch.equal(state["classifier.fc_final.weight"], head["fc_final.weight"])
    assert not state["embeddings.4.bias"].any()
    with torch.device("meta"):
        model = VGGishClassified()
    with pytest.raises(WeightsError, match=r"VGGishClassified: lacks: pproc\.pca_eigen_vectors"):
        import_official(model, expanded(shapes))
    with pytest.raises(WeightsError, match=r"gone\.pth.*vggish_pca_params.*md_50000.*'random'"):
        build_audio_network("vggish_classified", weights=f"{spec},{tmp_path}/gone.pth")


def test_a_file_that_lacks_of_several_is_named_with_its_address(tmp_path: Path) -> None:
    shapes = {name: tuple(shape) for name, shape in params("vggish").items()}
    torch.save(expanded(shapes), tmp_path / "vggish.pth")
    torch.save(PCA, tmp_path / "pca.pth")
    one, pca = str(tmp_path / "vggish.pth"), str(tmp_path / "pca.pth")
    lacking = r"No file given is {}md_50000_iters\.pth: .*Wanted: .*published at https://.*torchvgg"
    with pytest.raises(WeightsError, match=lacking.format(r"vggish_pca_params-970ea276\.pth or ")):
        build_audio_network("vggish_classified", weights=one)
    with pytest.raises(WeightsError, match=lacking.format("")):
        build_audio_network("vggish_classified", weights=f"{one},{pca}")
    with pytest.raises(WeightsError, match=r"vggish\.pth' holds what a file before it holds: feat"):
        build_audio_network("vggish_classified", weights=f"{one},{one}")
    with pytest.raises(WeightsError, match=r"vggish takes one file.*vggish-10086976\.pth.*https:"):
        build_audio_network("vggish", weights=f"{one},{pca}")
    with pytest.raises(WeightsError, match=r"lacks: features.*vggish-10086976\.pth.*https://"):
        build_audio_network("vggish", weights=pca)
    torch.save(expanded(shapes), tmp_path / "a,b.pth")
    build_audio_network("vggish", weights=str(tmp_path / "a,b.pth"))


def test_names_of_vggish_that_become_one_are_refused() -> None:
    twice = {"features.0.bias": torch.ones(64), "audio_backbone.features.0.bias": torch.ones(64)}
    with pytest.raises(WeightsError, match=r"twice: features\.0\.bias beside audio_backbone\.fea"):
        VGGish.own_names(twice)


def test_c3ns_audio_extractor_and_the_pca_of_plain_vggish_are_known_by_name() -> None:
    shapes = {"audio_backbone.features.0.weight": (64, 1, 3, 3), "pproc.pca_means": (128, 1)}
    shapes["classification_model.emb.bn0.bias"] = (128,)
    named = VGGishClassified.own_names({f"module.{n}": v for n, v in expanded(shapes).items()})
    assert set(named) == {"features.0.weight", "pproc.pca_means", "classifier.emb.bn0.bias"}
    assert set(VGGish.own_names({**PCA, "features.0.bias": torch.ones(64)})) == {"features.0.bias"}


# YAMNet


def test_yamnet_equals_its_layers_one_after_another(yamnet_file: str) -> None:
    state = {n: v.half().float() for n, v in fill(yamnet_shapes(), 4).items()}
    network = build_audio_network("yamnet", weights=yamnet_file)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(3.7e6, rel=0.02)
    examples = torch.randn(2, 1, 96, 64, generator=torch.Generator().manual_seed(5)) - 3
    output = network(examples)

    def conv(x: torch.Tensor, name: str, stride: int, groups: int) -> torch.Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        # TensorFlow's SAME: as many outputs as size / stride, the odd row of padding at the end
        size = [-(-length // stride) for length in x.shape[2:]]
        wanted = [
            max((n - 1) * stride + k - length, 0)
            for n, k, length in zip(size, weight.shape[2:], x.shape[2:], strict=True)
        ]
        (top, left), (down, right) = ([w // 2 for w in wanted], [w - w // 2 for w in wanted])
        padded = torch.nn.functional.pad(x, (left, right, top, down))
        return torch.nn.functional.conv2d(padded, weight, bias, stride, groups=groups).relu()

    x = conv(examples, "layer1.conv", 2, 1)
    for layer in range(2, 15):
        stride = 2 if layer in (3, 5, 7, 13) else 1
        x = conv(x, f"layer{layer}.depthwise", stride, x.shape[1])
        x = conv(x, f"layer{layer}.pointwise", 1, 1)
    embedding = x.mean(dim=(2, 3))
    logits = embedding @ state["dense.weight"].T + state["dense.bias"]
    torch.testing.assert_close(output.embedding, embedding, atol=1e-5, rtol=1e-4)
    assert output.logits is not None
    lacking = torch.isneginf(output.logits[0])
    assert lacking.nonzero().flatten().tolist() == [1, 2, 12, 32, 33, 277]
    torch.testing.assert_close(output.logits[:, ~lacking], logits, atol=1e-5, rtol=1e-4)


# Recordings of everyday sounds and a class that has to be among their first three.
SOUNDS = {
    "clips/vas_baby_video_01951.mp4": "Baby cry, infant cry",
    "clips/vas_dog_video_02677.mp4": "Dog",
    "clips/vas_drum_video_02480.mp4": "Percussion",
    "clips/vas_fireworks_video_03051.mp4": "Fireworks",
    "audio/esc10_dog_1-100032-A.ogg": "Dog",
    "audio/guitar.ogg": "Guitar",
    "audio/testing.m4a": "Speech",
    "avsbench-mini/Single-source/s4_data/audio_wav/val/dog/uCOHoEOWC4j.wav": "Dog",
    "avsbench-mini/Single-source/s4_data/audio_wav/val/sheep/JTjZ1h4pHq6.wav": "Sheep",
    "avsbench-mini/Single-source/s4_data/audio_wav/val/train/82SerMrK4Ip.wav": "Train",
    "avsbench-mini/Single-source/s4_data/audio_wav/val/person/yAq-A8G_HPW.wav": "Speech",
}


@pytest.mark.real_data
def test_yamnet_hears_what_real_sounds_are(real_data: Path) -> None:
    file = real_data.parent / "weights" / "yamnet.safetensors"
    network = build_audio_network("yamnet", weights=str(file))
    names = [entry.name for entry in audioset_classes()]
    for path, expected in SOUNDS.items():
        samples = read_audio(real_data / path)
        assert samples is not None
        own, stored = (torch.from_numpy(log_mel(samples, log_offset=o)) for o in (0.001, 0.01))
        logits = network(own).logits
        assert logits is not None
        heard = logits.sigmoid().mean(dim=0).topk(3).indices
        assert expected in [names[int(k)] for k in heard], path
        # what clip rows hold serves as well
        turned = network(with_log_offset(stored, network.log_offset)).logits
        assert turned is not None
        known = ~torch.isneginf(logits)
        torch.testing.assert_close(turned[known], logits[known], atol=1e-3, rtol=0)


@pytest.mark.real_data
def test_the_order_of_yamnets_classes_is_that_of_its_class_map(real_data: Path) -> None:
    network: Any = build_audio_network("yamnet", weights="random")
    lines = (real_data.parent / "weights" / "yamnet_class_map.csv").read_text().splitlines()[1:]
    assert [MIDS[k] for k in network.class_positions.tolist()] == [x.split(",")[1] for x in lines]


# All of them


@pytest.mark.parametrize("name", [n for n, entry in AUDIO_NETWORKS.items() if entry.files])
def test_absent_weights_name_the_file_and_where_it_is_published(name: str, tmp_path: Path) -> None:
    entry = AUDIO_NETWORKS[name]
    for spec in (str(tmp_path / "none.pth"), ""):
        with pytest.raises(WeightsError) as caught:
            build_audio_network(name, weights=spec)
        message = str(caught.value)
        assert all(file in message for file in entry.files)
        assert "https://" in entry.where
        assert entry.where in message
        assert "'random'" in message
        assert spec in message
    with pytest.raises(WeightsError, match="no weights file given"):
        build_audio_network(name)
    with pytest.raises(ConfigError, match=f"known: .*{name}"):
        build_audio_network(f"{name}s", weights="random")


@pytest.mark.parametrize("name", ["panns", "beats"])
def test_names_are_matched_strictly_both_ways(name: str) -> None:
    small = (4,) * 6
    model = Cnn14(widths=small) if name == "panns" else Beats(num_layers=1)
    shapes = panns_shapes(small) if name == "panns" else beats_shapes(1)
    state = expanded(shapes)
    around = {"label_dict": dict(enumerate(MIDS))}
    import_official(model, {"model": state, **around})
    assert not any(parameter.any() for parameter in model.parameters())
    with pytest.raises(WeightsError, match=r"cannot place: surprise\.weight \(1\)"):
        import_official(model, {"model": {**state, "surprise.weight": torch.zeros(1)}, **around})
    gone = next(name for name in shapes if name.endswith(".bias"))
    less = {name: value for name, value in state.items() if name != gone}
    with pytest.raises(WeightsError, match=f"lacks: {gone}"):
        import_official(model, {"model": less, **around})
    with pytest.raises(WeightsError, match=f"another shape for: {gone}"):
        import_official(model, {"model": {**state, gone: torch.zeros(3)}, **around})
    with pytest.raises(WeightsError, match=f"not finite in: {gone}"):
        import_official(model, {"model": {**state, gone: state[gone] / 0}, **around})


@pytest.mark.parametrize(("name", "least"), [("panns", 4960), ("beats", 2800)])
def test_a_waveform_that_is_too_short_is_told(name: str, least: int) -> None:
    network = Cnn14(widths=(4,) * 6) if name == "panns" else Beats(num_layers=1)
    assert network(sounds(1, num_samples=least)).embedding.isfinite().all()
    for length in (300, least - 1):
        with pytest.raises(ValueError, match=rf"{length} samples.*at least {least}; add silence"):
            network(torch.zeros(1, length))


def test_yamnets_file_is_said_to_be_a_conversion() -> None:
    assert (
        "yamnet.h5, of which yamnet.safetensors is a conversion" in AUDIO_NETWORKS["yamnet"].where
    )


@pytest.mark.parametrize("name", ["vggish_classified", "yamnet"])
def test_a_frozen_network_computes_in_float32_under_autocast_and_stays_in_eval_mode(
    name: str,
) -> None:
    network = build_audio_network(name, weights="random").train()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    x = torch.randn(2, 1, 96, 64) - 3
    plain = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(x)
        assert torch.nn.functional.linear(x, torch.ones(1, 64)).dtype == torch.bfloat16
    assert torch.equal(plain.embedding, mixed.embedding)
    assert torch.equal(plain.logits, mixed.logits)


@pytest.mark.parametrize("name", ["panns", "beats", "yamnet"])
def test_a_sound_is_heard_the_same_in_any_slot_of_a_batch(name: str) -> None:
    """The Predictor's masks are bit-equal whoever shares the batch; so is what they rest on."""
    networks = {
        "panns": lambda: Cnn14(widths=(4, 8, 8, 16, 16, 32)),
        "beats": lambda: Beats(num_layers=2),
        "yamnet": lambda: build_audio_network("yamnet", weights="random"),
    }
    network = networks[name]()
    x = sounds(5) if network.input_kind == "waveform" else torch.randn(5, 1, 96, 64) - 3
    order = [3, 0, 4, 1, 2]
    straight, shuffled = network(x), network(x[order])
    assert torch.equal(straight.embedding[order], shuffled.embedding)
    assert torch.equal(straight.logits[order], shuffled.logits)
    assert not torch.equal(straight.embedding[0], straight.embedding[1])
