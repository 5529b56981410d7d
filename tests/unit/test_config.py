"""The border between the command line and the library: what is taken and how a mistake is told."""

from __future__ import annotations

import enum
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from avs.config import choice_error, dump, parse
from avs.errors import ConfigError
from avs.inference.config import SegmentConfig
from avs.inference.outputs import OutputKind
from avs.overrides import compose_as, explain_hydra_error, quote_override, values_forced
from avs.prepare import PrepareConfig
from avs.scale import ScaleConfig
from avs.training import TrainConfig

ROOT = Path(__file__).resolve().parents[2]


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


@dataclass(kw_only=True, slots=True)
class Inner:
    size_px: int
    colours: list[Colour] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.size_px < 1:
            raise ValueError(f"size_px={self.size_px} must be at least 1")


@dataclass(kw_only=True, slots=True)
class Outer:
    name: str
    inner: Inner
    rate: float = 0.5
    flip: bool = False
    limit: int | None = None
    stages: Sequence[int] = (1, 2)
    pair: tuple[int, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


def outer(**changes: Any) -> Outer:
    return parse(OmegaConf.create({"name": "a", "inner": {"size_px": 8}} | changes), Outer)


def test_values_become_the_annotated_types() -> None:
    inner = {"size_px": 8, "colours": ["red", "green"]}
    config = outer(inner=inner, rate=1, limit=None, pair=[1, 2], options={"x": {"y": 1}})
    assert config.inner == Inner(size_px=8, colours=[Colour.RED, Colour.GREEN])
    assert isinstance(config.rate, float)
    assert config.pair == (1, 2)
    assert config.options == {"x": {"y": 1}}
    assert outer(name=2024).name == "2024"
    assert outer(limit=3).limit == 3


def test_dump_is_the_reverse_of_parse() -> None:
    config = outer(inner={"size_px": 8, "colours": ["red"]}, stages=[3], pair=[1])
    assert dump(config)["inner"] == {"size_px": 8, "colours": ["red"]}
    assert parse(OmegaConf.create(dump(config)), Outer) == config


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"nme": 1}, ["nme=1", "name, inner, rate", "Did you mean name?"]),
        ({"inner": {"sze_px": 1}}, ["inner.sze_px=1", "size_px, colours", "inner.size_px?"]),
        ({"name": "???"}, ["name is not set", "name=VALUE"]),
        ({"inner": {}}, ["inner.size_px is not set", "inner.size_px=VALUE"]),
        ({"inner": 3}, ["inner=3 is a int", "a group of keys"]),
        ({"inner": {"size_px": "x"}}, ["inner.size_px=x is a str", "a whole number"]),
        ({"inner": {"size_px": 1.5}}, ["inner.size_px=1.5 is a float", "a whole number"]),
        ({"inner": {"size_px": True}}, ["inner.size_px=True is a bool", "a whole number"]),
        ({"inner": {"size_px": 0}}, ["inner: size_px=0 must be at least 1"]),
        ({"inner": {"size_px": 1, "colours": ["redd"]}}, ["colours[0]=redd", "green, red", "red?"]),
        ({"inner": {"size_px": 1, "colours": "red"}}, ['"inner.colours=[a,b]" in quotes']),
        ({"rate": "fast"}, ["rate=fast", "a number"]),
        ({"flip": 1}, ["flip=1", "true or false"]),
        ({"name": None}, ["name=None", "a text"]),
        ({"limit": "all"}, ["limit=all", "a whole number", "null is allowed too"]),
        ({"stages": [1, "x"]}, ["stages[1]=x", "a whole number"]),
        ({"options": [1]}, ["options=[1]", "a mapping"]),
        ({"name": "${nowhere}"}, ["name: ", "'nowhere' not found"]),
    ],
)
def test_mistake_is_one_line_that_names_key_value_and_way_out(
    changes: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        outer(**changes)
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == []


def test_choice_error_lists_what_is_known() -> None:
    assert str(choice_error("data.name", "foldr", ["s4", "folder"])) == (
        "data.name=foldr is not known. Known: folder, s4. Did you mean folder?"
    )


NASTY = [
    *("a b", "a=b", "a,b", "x]y", "x[y", "{a}", "(x)", "a:b", "a;b", "*", "?", "~x", "@x", "%s"),
    *('say "hi"', "it's", '"', "'", "back\\slash", "end\\", "end\\\\", 'q\\"z', "\\'", '\\\\"'),
    *("é", "日本", "#x", "-x", "$HOME", "${HOME}", "", " lead", "trail ", "a\tb", "null", "12"),
]


@pytest.mark.parametrize("value", NASTY)
def test_quoted_override_comes_back_as_it_was(value: str) -> None:
    (argument,) = shlex.split(quote_override(f"out={value}"))
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")):
        assert compose("prepare", overrides=[argument]).out == value


def test_quoted_list_is_a_list_of_its_elements() -> None:
    (argument,) = shlex.split(quote_override("outputs=[a b, c=d]"))
    assert OverridesParser.create().parse_override(argument).value() == ["a b", "c=d"]


@pytest.mark.parametrize(
    ("schema", "job", "override", "parts"),
    [
        (PrepareConfig, "prepare", "shards=1", ["shards=1", "here: data, scale, out, shard_clips"]),
        (
            PrepareConfig,
            "prepare",
            "data=s5",
            ["data=s5", "Known: avss, folder, labelled, ms3, s4, synthetic, vpo"],
        ),
        (PrepareConfig, "prepare", "data=null", ["data=null", "configs/data"]),
        (PrepareConfig, "prepare", "out", ["'out' is not an override", "KEY=VALUE"]),
        (PrepareConfig, "prepare", "out=a=b", ["'out=a=b' does not parse", "'out=\"a=b\"'"]),
        (PrepareConfig, "prepare", "out=a,b", ["'out=a,b' does not parse", "'out=\"a,b\"'"]),
        (PrepareConfig, "prepare", "out=[a=b]", ["does not parse", "'out=[\"a=b\"]'"]),
        (PrepareConfig, "prepare", "dta.name=x", ["dta.name=x", "Did you mean data?"]),
        (TrainConfig, "train", "epochs=3", ["epochs=3", "Did you mean train.epochs?"]),
        (TrainConfig, "train", "data=s4", ["data is a section", "data.prepared"]),
    ],
)
def test_refusal_of_hydra_is_told_in_one_line(
    schema: type[Any], job: str, override: str, parts: list[str]
) -> None:
    with (
        initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")),
        pytest.raises((HydraException, ValueError)) as caught,
    ):
        compose(job, overrides=[override])
    message = explain_hydra_error(caught.value, schema, [override])
    assert "\n" not in message
    assert [part for part in parts if part not in message] == []


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_a_value_is_set_whether_the_chosen_files_have_its_key_or_lack_it(plus: str) -> None:
    given = [f"{plus}train.epochs=3", f"{plus}loss.dice_weight=0", f"{plus}loss.kind=semantic"]
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")):
        config = compose_as(
            TrainConfig, "train", [*given, "model=tiny", "data.prepared=x", "out=y"], key="k"
        )
    assert (config.train.epochs, config.loss.dice_weight) == (3, 0.0)
    assert config.loss.kind.value == "semantic"


def test_a_key_that_does_not_exist_is_told_with_those_that_do() -> None:
    with (
        initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")),
        pytest.raises(ConfigError, match=r"^k: train\.epoch=3 .* Did you mean train\.epochs\?"),
    ):
        compose_as(TrainConfig, "train", ["train.epoch=3"], key="k")


def test_choices_flags_and_other_arguments_stay_as_they_are() -> None:
    others = ["model=tiny", "experiment=c3n_s4", "~model", "--config-dir", "a.b", "trian.epochs=1"]
    assert values_forced(others, TrainConfig) == others
    assert values_forced(["out='a=b'"], TrainConfig) == ["++out='a=b'"]


def test_a_mistake_beside_a_flag_is_not_put_down_to_the_flag() -> None:
    error = HydraException("whatever Hydra says")
    given = ["--config-dir", "/tmp/own", "study=mine", "more=[train.epochs=4]"]
    assert "'more=[train.epochs=4]' does not parse" in explain_hydra_error(
        error, TrainConfig, given
    )
    assert explain_hydra_error(error, TrainConfig, given[:3]) == "whatever Hydra says"


def test_objects_that_no_output_would_tell_are_refused() -> None:
    scale = ScaleConfig(num_workers=1, cpus_per_worker=1, gpus_per_worker=0)
    common: dict[str, Any] = {"checkpoint": "c", "input": "i", "out": "o", "threshold": 0.5}
    for outputs in (list(OutputKind), [OutputKind.PNG, OutputKind.OVERLAY]):
        SegmentConfig(**common, scale=scale, outputs=outputs, objects=True)
    with pytest.raises(ConfigError, match=r"objects=true .*\[png,rle_json\]"):
        SegmentConfig(**common, scale=scale, outputs=[OutputKind.PNG], objects=True)


def test_value_error_of_a_bug_is_not_explained_away() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        explain_hydra_error(ValueError("cannot broadcast"), PrepareConfig, ["data=s4"])


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["data.nme=x"], "error: data.nme=x is not known."),
        (["shard_clips=0", "out=x", "data.root=y"], "error: shard_clips=0 must be at least 1."),
    ],
)
def test_job_ends_with_one_line_and_code_2(
    arguments: list[str], start: str, tmp_path: Path
) -> None:
    command = [sys.executable, str(ROOT / "jobs" / "prepare.py"), *arguments]
    done = subprocess.run(
        command, cwd=tmp_path, text=True, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(start)
