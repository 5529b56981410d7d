"""The consensus trial: which sound a clip borrows, what is counted, how sure the count is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from avs.report.consensus import Consensus, agree, donors, main, sign_test
from avs.report.trial_clips import TrialClip

DOG_BREED, INSTRUMENT = 151, 402
BARK, GUITAR = 75, 140


def clip(name: str) -> TrialClip:
    return TrialClip(
        name=name,
        category="dog",
        picture=name,
        is_speech=False,
        visual=torch.zeros(1, 1000),
        audio=torch.zeros(1, 527),
    )


def scores(width: int, **likely: float) -> torch.Tensor:
    row = torch.zeros(1, width)
    for column, value in likely.items():
        row[0, int(column.removeprefix("c"))] = value
    return row


def test_the_sound_decides_between_what_is_seen() -> None:
    similarity = torch.full((1000, 527), 0.1)
    similarity[DOG_BREED, BARK] = similarity[INSTRUMENT, GUITAR] = 0.5
    seen = scores(1000, **{f"c{DOG_BREED}": 9.0, f"c{INSTRUMENT}": 9.5})
    barking = agree(seen, scores(527, **{f"c{BARK}": 9.0}), similarity)
    playing = agree(seen, scores(527, **{f"c{GUITAR}": 9.0}), similarity)
    assert barking.classes == (DOG_BREED,)
    assert playing.classes == (INSTRUMENT,)
    assert (barking.dog_share, playing.dog_share) == (1.0, 0.0)
    assert 0 < barking.margins[0] < playing.margins[0] < 1


def test_the_share_of_dog_breeds_counts_frames() -> None:
    found = Consensus(classes=(150, 151, 268, 269), margins=(0.1,) * 4)
    assert found.dog_share == 0.5


def test_a_clip_keeps_a_wanted_sound_and_borrows_another_in_turn() -> None:
    clips = [clip(name) for name in "abcde"]
    given = donors(clips, [False, True, False, True, False])
    assert [donor.name for donor in given] == ["b", "b", "d", "d", "b"]


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([], 1.0),
        ([0.0, 0.0], 1.0),
        ([0.2, -0.3], 1.0),
        ([0.1] * 5, 2 / 32),
        ([-0.1] * 5 + [0.0], 2 / 32),
        ([0.1] * 10 + [-0.1], 2 * 12 / 2048),
    ],
)
def test_the_sign_test_is_exact(differences: list[float], p: float) -> None:
    assert sign_test(differences) == pytest.approx(p)


@pytest.mark.full
def test_barking_raises_the_share_of_dog_breeds_in_real_clips(
    real_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--data", f"{real_data}/avsbench-mini", "--weights", f"{real_data.parent}/weights"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    barking, speech, p = next((r[2], r[3], r[5]) for r in rows if r[0] == "| with a dog")
    assert float(barking.rstrip("%")) > 2 * float(speech.rstrip("%"))
    assert float(p.split()[0]) < 0.01
