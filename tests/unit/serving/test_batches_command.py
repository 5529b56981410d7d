"""The command of a batch: what a client writes reaches the job as it is, or not at all."""

from __future__ import annotations

import shlex
import subprocess
import sys
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from made_up_service import CONFIGS, serving_config

from avs.config import parse
from avs.inference.config import SegmentConfig
from avs.inference.outputs import OutputKind
from avs.overrides import values_forced
from avs.serving.batches_command import BatchPlan, command
from avs.serving.batches_request import BatchRequest, batch_id, owner_of, parse_batch
from avs.serving.messages import ApiError
from avs.serving.tokens import Token

BATCHES = serving_config(
    batches={"input_prefixes": ["s3://b/in"], "output_prefixes": ["s3://b/out/"]}
).batches
PLAN = BatchPlan(config=BATCHES, python="python", program="jobs/segment.py", runtime_env={})
PLACES = {"input": "s3://b/in/x", "output": "s3://b/out/y"}
SHOW = [sys.executable, "-c", r"import sys; print(*sys.argv[1:], sep='\0', end='')"]

HOSTILE = [
    "a b",
    "a;touch x",
    "$(touch x)",
    "`touch x`",
    "a'b",
    'a"b',
    "a' checkpoint='/etc",
    'a" checkpoint="/etc',
    "${oc.env:AVS_API_TOKENS}",
    "$${oc.env:HOME}",
    "${checkpoint}",
    "$HOME",
    "{a,b}",
    "{a: 1}",
    "(a)",
    "a,b",
    "a=b",
    "~",
    "!!",
    "&& a",
    "| a",
    "> a",
    "--help",
    "a%20b%2e%2e",
    "null",
    "@a:b",
    "\u00e9\u4e2d\U0001f3b5",
    "a'\"'\"'b",
]
REFUSED = [
    "..",
    ".",
    "a/../../b",
    "a//b",
    "a\\b",
    "a\nb",
    "a\0b",
    "a\u202eb",
    "a*",
    "a?versionId=1",
    "[a]",
    "a#b",
    "x" * 3000,
]


def request(**changes: Any) -> BatchRequest:
    return parse_batch({**PLACES, **changes}, config=BATCHES, choose_model=_known)


def _known(name: str | None) -> str:
    if name != "default":
        raise ApiError(422, "unknown_model", "no")
    return name


def words(text: str) -> list[str]:
    """What a program is given by the shell that Ray Jobs use."""
    line = text.replace("python jobs/segment.py", shlex.join(SHOW), 1)
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=True, timeout=60)
    return done.stdout.decode().split("\0")


def as_the_job(given: list[str]) -> SegmentConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return parse(compose("segment", values_forced(given, SegmentConfig)), SegmentConfig)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_reaches_the_job_as_it_is(name: str) -> None:
    wanted = request(input=f"s3://b/in/{name}", output=f"s3://b/out/{name}/")
    config = as_the_job(words(command(PLAN, wanted, checkpoint=f"/models/{name}")))
    assert config.input == f"s3://b/in/{name}"
    assert config.out == f"s3://b/out/{name}"
    assert config.checkpoint == f"/models/{name}"


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("key", ["input", "output"])
def test_a_name_that_can_be_read_in_two_ways_is_refused(key: str, name: str) -> None:
    with pytest.raises(ApiError) as caught:
        request(**{key: f"{PLACES[key]}/{name}"})
    assert caught.value.status == 422


def test_all_options_reach_the_job() -> None:
    wanted = request(
        outputs=["png", "overlay", "png"],
        threshold=0.25,
        masks_per_s="native",
        objects=True,
        max_failed_ratio=0.5,
    )
    config = as_the_job(words(command(PLAN, wanted, checkpoint="s3://models/run")))
    assert config.outputs == [OutputKind.OVERLAY, OutputKind.PNG]
    assert (config.threshold, config.mask_rate, config.objects) == (0.25, None, True)
    assert config.max_failed_ratio == 0.5
    assert config.scale == BATCHES.scale
    assert not config.watch
    usual = as_the_job(words(command(PLAN, request(), checkpoint="c")))
    assert set(usual.outputs) == {OutputKind.RLE_JSON, OutputKind.PNG, OutputKind.OVERLAY}
    assert (usual.threshold, usual.mask_rate, usual.objects) == (0.5, 1, False)
    assert usual.max_failed_ratio is None


@pytest.mark.parametrize(
    ("key", "uri", "status"),
    [
        ("input", "s3://b/inner", 403),
        ("input", "s3://b/out/x", 403),
        ("input", "s3://b", 403),
        ("input", "s3://other/in/x", 403),
        ("input", "S3://b/in/x", 422),
        ("input", "s3://user:pw@b/in/x", 403),
        ("input", "/etc/passwd", 422),
        ("input", "etc", 403),
        ("input", "file:///etc", 422),
        ("input", "https://b/in/x", 422),
        ("input", "memory://b/in", 422),
        ("input", "s3://s3://b/in/x", 422),
        ("input", "s3a://b/in/x", 422),
        ("input", "", 422),
        ("input", "s3://", 403),
        ("input", "s3://b/in//", 422),
        ("output", "s3://b/outer/x", 403),
        ("output", "s3://b/in/x", 403),
        ("output", "out", 403),
    ],
)
def test_no_other_place_can_be_named(key: str, uri: str, status: int) -> None:
    with pytest.raises(ApiError) as caught:
        request(**{key: uri})
    assert caught.value.status == status
    assert caught.value.message.startswith(f"{key}: ") or status == 422


def test_a_prefix_itself_and_what_is_below_it_may_be_named() -> None:
    assert request(input="s3://b/in", output="s3://b/out/").output == "s3://b/out"
    assert request(input="s3://b/in/", output="s3://b/out/a/b").input == "s3://b/in"


@pytest.mark.parametrize(
    ("source", "target"), [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("a/", "a")]
)
def test_input_and_output_do_not_lie_in_each_other(source: str, target: str) -> None:
    config = serving_config(
        batches={"input_prefixes": ["s3://b/x"], "output_prefixes": ["s3://b/x"]}
    ).batches
    plain = {"input": f"s3://b/x/{source}", "output": f"s3://b/x/{target}"}
    with pytest.raises(ApiError, match="lie in each other"):
        parse_batch(plain, config=config, choose_model=_known)
    beside = {"input": "s3://b/x/a", "output": "s3://b/x/ab"}
    assert parse_batch(beside, config=config, choose_model=_known).output == "s3://b/x/ab"


@pytest.mark.parametrize(
    "changes",
    [
        {"outputs": []},
        {"outputs": ["gif"]},
        {"outputs": "png"},
        {"outputs": ["rle_json;touch x"]},
        {"threshold": 0},
        {"threshold": 1},
        {"threshold": float("nan")},
        {"threshold": "0.5"},
        {"threshold": True},
        {"masks_per_s": 0},
        {"masks_per_s": "native;x"},
        {"masks_per_s": "${a}"},
        {"objects": "true"},
        {"objects": True, "outputs": ["png"]},
        {"max_failed_ratio": 1.5},
        {"max_failed_ratio": float("inf")},
        {"model": "other"},
        {"model": None},
        {"checkpoint": "s3://b/x"},
        {"scale": {"num_workers": 99}},
        {"input": None},
        {"input": ["s3://b/in/x"]},
        {"x" * 9000: 1},
    ],
)
def test_a_wrong_option_is_told_and_not_endlessly(changes: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        request(**changes)
    assert caught.value.status == 422
    assert len(caught.value.message) <= 300


@pytest.mark.parametrize("plain", [None, [], "s3://b/in", 3, {}, {"input": "s3://b/in/x"}])
def test_a_body_must_name_both_places(plain: Any) -> None:
    with pytest.raises(ApiError) as caught:
        parse_batch(plain, config=BATCHES, choose_model=_known)
    assert caught.value.status == 422


def test_one_request_has_one_text_however_it_is_written() -> None:
    plain = request().to_text()
    assert request(input="s3://b/in/x/", masks_per_s="1", outputs=["png", "overlay", "rle_json"])
    same = request(input="s3://b/in/x/", masks_per_s="1", outputs=["png", "overlay", "rle_json"])
    assert same.to_text() == plain
    assert request(threshold=0.6).to_text() != plain


def test_ids_are_of_a_token_and_its_key_and_tell_neither() -> None:
    first, second = (Token(name="same", sha256=digit * 64) for digit in "ab")
    owners = owner_of(first), owner_of(second), owner_of(None)
    assert len(set(owners)) == 3
    assert first.sha256 not in owners[0]
    ids = {batch_id(owner, key, n) for owner in owners for key in ("k", "kk") for n in (1, 2)}
    assert len(ids) == 12
    assert all(one.startswith("batch-") for one in ids)
