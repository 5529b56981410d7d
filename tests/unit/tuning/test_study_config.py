"""What a study may be asked for, and which clips belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from avs.config import build
from avs.errors import ConfigError, DataError
from avs.tuning.study_config import GroupsConfig, StudyConfig, read_groups


def _config(**changes: Any) -> StudyConfig:
    plain: dict[str, Any] = {
        "data": {"prepared": ["a", "b"]},
        "tests": {"held_back": "a"},
        "variants": {"tpavi": ["model=tiny"]},
        "overrides": [],
        "seeds": [0, 1],
        "scale": {"num_workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0},
        "out": "out",
    }
    config: StudyConfig = build(StudyConfig, {**plain, **changes}, path="")
    return config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"prepared": "a", "feed": "ray"}}, r"data\.feed=ray: a study"),
        ({"seeds": []}, "one or more, each once"),
        ({"seeds": [1, 1]}, "one or more, each once"),
        ({"baseline": "gated"}, r"baseline=gated is not a variant. Known: tpavi"),
        ({"variants": {}}, "variants: nothing is given"),
        ({"variants": {"../x": []}}, r"variants: '\.\./x' cannot be the name of a folder"),
        ({"tests": {"a b": "x"}}, "tests: 'a b' cannot be the name"),
    ],
)
def test_mistakes_are_told_by_key(changes: dict[str, Any], message: str) -> None:
    assert _config().data.folders == ["a", "b"]
    with pytest.raises(ConfigError, match=message):
        _config(**changes)


def test_clips_of_one_video_belong_together_unless_a_file_says_otherwise(tmp_path: Path) -> None:
    ids = ["ms3/Multi-sources/J46HYtrgugQ_0", "ms3/Multi-sources/J46HYtrgugQ_3", "s4/a/KROtXPD8ETv"]
    first, second, other = read_groups(None, ids, test="t")
    assert first == second != other
    file = tmp_path / "sources.csv"
    file.write_text("name,picture\nJ46HYtrgugQ_0,p1\nJ46HYtrgugQ_3,p2\nKROtXPD8ETv,p1\n")
    groups = GroupsConfig(file=str(file), clip="name", group="picture")
    assert read_groups(groups, ids, test="t") == ["p1", "p2", "p1"]
    assert read_groups(groups, ["avss/v2/KROtXPD8ETv@5000"], test="t") == ["p1"]
    with pytest.raises(DataError, match="no column clip"):
        read_groups(GroupsConfig(file=str(file), clip="clip", group="picture"), ids, test="t")
    with pytest.raises(DataError, match=r"no row for lost of tests\.t \(and 0 more\)"):
        read_groups(groups, [*ids, "s4/a/lost"], test="t")
