"""What ``--help`` says about the keys of a configuration."""

from __future__ import annotations

from avs.prepare.config import PrepareConfig
from avs.training import TrainConfig
from avs.usage import usage


def test_every_key_is_told_with_its_section_type_and_choices() -> None:
    lines = usage(PrepareConfig).splitlines()
    assert "  max_reject_ratio: float or null" in lines
    assert "  data.media: auto|raw|preprocessed" in lines
    assert "  data.audio.missing: silence|reject" in lines
    assert "  data.synthetic.width_px: int or null" in lines
    assert any(line.startswith("data: Where the clips are") for line in lines)
    assert not any("``" in line for line in lines)
    assert max(map(len, lines)) <= 100


def test_the_options_of_each_model_are_told_with_what_they_are() -> None:
    lines = usage(TrainConfig).splitlines()
    assert "  model.options.silent_object_aware: bool = true" in lines
    assert "  model.options.bcl_weight: float = 0.1" in lines
    assert any(line.startswith("model.options of ccformer: ") for line in lines)
    assert not any(":class:" in line for line in lines)
    assert not any(line.startswith("model.options of") for line in usage(PrepareConfig).split("\n"))
