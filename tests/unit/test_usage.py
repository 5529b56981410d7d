"""What ``--help`` says about the keys of a configuration."""

from __future__ import annotations

from avs.prepare.config import PrepareConfig
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
