"""Weights from files and buckets: strict, explicit, with the way out in the message."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from avs.errors import WeightsError
from avs.models import AUDIO_NETWORKS, backbones, build_audio_network, load_weights
from avs.models.backbones import build_backbone
from avs.models.beats import Beats
from avs.models.panns import Cnn14
from avs.models.weights import skip_random_init


def load(spec: Any) -> dict[str, torch.Tensor]:
    return load_weights(str(spec), wanted="the wanted file", where="their page")


def test_torch_and_safetensors_files_and_uris(tmp_path: Path) -> None:
    state = {"a": torch.ones(2, dtype=torch.float16), "n": torch.zeros((), dtype=torch.int64)}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "a.pth")
    save_file(state, tmp_path / "a.safetensors")
    for spec in (
        tmp_path / "a.pth",
        tmp_path / "a.safetensors",
        f"file://{tmp_path}/a.safetensors",
    ):
        loaded = load(spec)
        assert sorted(loaded) == ["a", "n"]
        assert loaded["a"].dtype == torch.float32
        assert loaded["n"].dtype == torch.int64


def test_a_missing_file_names_what_is_wanted_and_the_alternative(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none.pth.*the wanted file.*their page.*'random'"):
        load(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="the wanted file"):
        load("http://example.org/a.pth")


class Payload:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def test_a_pickle_is_refused_and_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Payload()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Payload(), protocol=2))
    (tmp_path / "text.safetensors").write_text("not tensors")
    (tmp_path / "text.pth").write_text("hello")  # h: an opcode that looks something up
    (tmp_path / "cut.pth").write_bytes((tmp_path / "evil.pth").read_bytes()[:200])
    for name in ("evil.pth", "plain.pkl", "text.safetensors", "text.pth", "cut.pth"):
        kind = r"is not a torch or safetensors file of tensors \(\w+\)\. Wanted: the wanted file"
        with pytest.raises(WeightsError, match=kind) as caught:
            load(tmp_path / name)
        assert "weights_only" not in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_a_name_with_and_without_its_prefix_is_refused(tmp_path: Path) -> None:
    torch.save({"module.x": torch.ones(2), "x": torch.zeros(2)}, tmp_path / "twice.pth")
    with pytest.raises(WeightsError, match=r"names one tensor twice: module\.x beside x \(1\)"):
        load(tmp_path / "twice.pth")


@pytest.mark.parametrize("name", ["mobilenetv2_050", "pvt_v2_b0", "resnet10t"])
def test_backbone_weights_come_from_a_timm_checkpoint(name: str, tmp_path: Path) -> None:
    whole = timm.create_model(name)
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    backbone = build_backbone(name, weights=str(tmp_path / "whole.pth")).eval()
    reference = timm.create_model(name, features_only=True).eval()
    reference.load_state_dict(backbone.net.state_dict())
    x = torch.randn(1, 3, 64, 64)
    expected = whole.eval().forward_intermediates(x, intermediates_only=True)[-1]
    torch.testing.assert_close(backbone(x)[-1], expected)


def test_backbone_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    state = timm.create_model("resnet10t").state_dict()
    torch.save(state | {"extra.weight": torch.ones(1)}, tmp_path / "more.pth")
    with pytest.raises(WeightsError, match=r"unknown: extra\.weight \(1\)"):
        build_backbone("resnet10t", weights=str(tmp_path / "more.pth"))
    del state["layer1.0.conv1.weight"]
    torch.save(state, tmp_path / "less.pth")
    told = (
        r"lack: layer1\.0\.conv1\.weight \(1\)\. Wanted: ImageNet weights of resnet10t, published"
    )
    with pytest.raises(WeightsError, match=rf"{told} at https://.*resnet10t"):
        build_backbone("resnet10t", weights=str(tmp_path / "less.pth"))
    with pytest.raises(WeightsError, match=r"less\.pth.*pvt_v2_b0 lack"):
        build_backbone("pvt_v2_b0", weights=str(tmp_path / "less.pth"))


def test_backbone_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = timm.create_model("resnet10t").state_dict()
    state["layer1.0.conv1.weight"][0, 0] = torch.inf
    torch.save(state, tmp_path / "inf.pth")
    with pytest.raises(WeightsError, match=r"are not finite in: layer1\.0\.conv1\.weight \(1\)"):
        build_backbone("resnet10t", weights=str(tmp_path / "inf.pth"))


# The hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and nobody at its address."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    turn_to(monkeypatch, port=9)  # discard: closed
    return tmp_path / "hub"


def test_timm_weights_without_network_name_the_file_at_once(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask_for_a_minute(*_: Any, **__: Any) -> None:
        raise AssertionError("timm must not be asked")

    monkeypatch.setattr(timm, "create_model", ask_for_a_minute)
    with pytest.raises(WeightsError, match=r"pvt_v2_b5\.in1k.*Connection refused.*'random'"):
        build_backbone("pvt_v2_b5", weights="timm")


def test_timm_weights_that_timm_cannot_get_name_the_file(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise OSError("no such tag")

    monkeypatch.setattr(backbones, "fetch_from_hub", lambda *_, **__: "")
    monkeypatch.setattr(timm, "create_model", gone)
    with pytest.raises(WeightsError, match=r"pvt_v2_b5\.in1k.*no such tag.*'random'"):
        build_backbone("pvt_v2_b5", weights="timm")


def turn_to(monkeypatch: pytest.MonkeyPatch, *, port: int) -> None:
    template = f"http://127.0.0.1:{port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does for one file of one commit."""

    file = b""
    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        type(self).asked.append(f"{self.command} {self.path}")
        there = self.path == f"/owner/net/resolve/{COMMIT}/folder/w.safetensors"
        self.send_response(200 if there else 404)
        self.send_header("ETag", '"tag"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(self.file) if there else 0))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.file)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def hub(hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub that has ``owner/net`` at COMMIT with ``folder/w.safetensors``."""
    save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    monkeypatch.setattr(Hub, "file", (tmp_path / "w.safetensors").read_bytes())
    monkeypatch.setattr(Hub, "asked", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        turn_to(monkeypatch, port=server.server_port)
        yield Hub
        server.shutdown()
        thread.join()


def test_a_file_of_the_hub_is_fetched_once(hub: type[Hub]) -> None:
    spec = f"hf-hub:owner/net@{COMMIT}/folder/w.safetensors"
    for _ in range(2):
        assert torch.equal(load(spec)["a"], torch.ones(2))
    assert [line.split()[0] for line in hub.asked].count("GET") == 1
    with pytest.raises(WeightsError, match=r"other\.pth'.*404.*the wanted file"):
        load(f"hf-hub:owner/net@{COMMIT}/other.pth")


def test_what_the_cache_of_the_hub_holds_needs_no_network(hub_cache: Path) -> None:
    repo = hub_cache / "models--owner--net"
    (repo / "snapshots" / COMMIT).mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    torch.save({"a": torch.ones(2)}, repo / "snapshots" / COMMIT / "w.pth")
    assert torch.equal(load("hf-hub:owner/net/w.pth")["a"], torch.ones(2))


@pytest.mark.usefixtures("hub_cache")
def test_a_hub_that_is_out_of_reach_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(seconds: float) -> None:
        raise AssertionError(f"waits {seconds} s to try again")

    monkeypatch.setattr(time, "sleep", waits)
    with pytest.raises(
        WeightsError, match=r"'hf-hub:owner/net/w\.pth'.*the wanted file.*their page.*'random'"
    ):
        load("hf-hub:owner/net/w.pth")
    with pytest.raises(WeightsError, match=r"vggish-10086976\.pth.*torchvggish"):
        build_audio_network("vggish", weights="hf-hub:owner/net/vggish.pth")
    with pytest.raises(WeightsError, match=r"ImageNet weights of resnet10t"):
        build_backbone("resnet10t", weights="hf-hub:owner/net/w.pth")


@pytest.mark.parametrize("spec", ["hf-hub:net/w.pth", "hf-hub:", "hf-hub:owner/net@main"])
def test_a_hub_name_without_a_part_is_explained(spec: str) -> None:
    with pytest.raises(WeightsError, match=r"a hub name is hf-hub:OWNER/REPO/FILE.*the wanted"):
        load(spec)


# Networks whose weights are loaded next


@pytest.mark.parametrize(
    "build",
    [
        lambda: AUDIO_NETWORKS["yamnet"].build(),
        lambda: Cnn14(widths=(4,) * 6),
        lambda: Beats(num_layers=1),
        lambda: build_backbone("pvt_v2_b0", weights="random"),
        lambda: build_backbone("resnet10t", weights="random"),
    ],
    ids=["yamnet", "panns", "beats", "pvt", "resnet"],
)
def test_without_random_values_a_network_is_complete_once_its_weights_are_loaded(
    build: Callable[[], nn.Module],
) -> None:
    whole = build()
    with skip_random_init():
        bare = build()
    bare.load_state_dict(whole.state_dict())
    for (name, ours), theirs in zip(bare.named_buffers(), whole.buffers(), strict=True):
        assert torch.equal(ours, theirs), name  # those too that no file holds
    assert all(map(torch.equal, bare.parameters(), whole.parameters()))


def test_an_audio_network_from_a_file_draws_no_random_numbers(tmp_path: Path) -> None:
    torch.save(AUDIO_NETWORKS["yamnet"].build().state_dict(), tmp_path / "yamnet.pth")
    before = torch.get_rng_state()
    build_audio_network("yamnet", weights=str(tmp_path / "yamnet.pth"))
    assert torch.equal(torch.get_rng_state(), before)
