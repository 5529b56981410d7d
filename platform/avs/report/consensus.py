"""Does the sound steer C3N's consensus? A trial on clips whose sounds can be exchanged.

``python -m avs.report.consensus --data DIR --weights DIR`` prints Markdown. DIR of the data holds
``Single-source`` (AVSBench's S4 layout) and ``SOURCES.csv`` (name, category, picture, sound_files),
DIR of the weights ``mobilenetv2_100.safetensors`` and ``yamnet.safetensors``. Nothing is trained,
so all splits are used. Fixed before any result was seen: the sounds of a clip are its own, speech,
and digital silence; a clip without speech borrows that of the speech clips in turn, and in the
question about dogs a clip without barking that of the dog clips. The unit of the sign test is a
picture: frames and clips of one picture are not independent.

Shapes: T frames of a clip, I = 1000 ImageNet classes, A = 527 AudioSet classes.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from avs.models.cognitive import consensus_scores
from avs.models.imagenet import imagenet_classes
from avs.models.similarity import load_similarity
from avs.report.trial_clips import TrialClip, TrialNetworks, read_trial_clips

__all__ = ["Consensus", "agree", "donors", "main", "sign_test"]

ALPHA = 0.1  # of C3N
DOG_BREEDS = range(151, 269)
DOG = "dog"


@dataclass(frozen=True, kw_only=True, slots=True)
class Consensus:
    """Per frame: the class of the highest score, and 1 - second highest / highest."""

    classes: tuple[int, ...]
    margins: tuple[float, ...]

    @property
    def dog_share(self) -> float:
        """Share of the frames whose class is a dog breed."""
        return sum(c in DOG_BREEDS for c in self.classes) / len(self.classes)


def agree(visual_TI: Tensor, audio_TA: Tensor, similarity_IA: Tensor) -> Consensus:
    """C3N's consensus of a clip's frames with a sound."""
    scores_TI = consensus_scores(visual_TI, audio_TA, similarity_IA, alpha=ALPHA)
    best_T2, classes_T2 = scores_TI.topk(2, dim=1)
    return Consensus(
        classes=tuple(classes_T2[:, 0].tolist()),
        margins=tuple((1 - best_T2[:, 1] / best_T2[:, 0]).tolist()),
    )


def donors(clips: Sequence[TrialClip], wanted: Sequence[bool]) -> list[TrialClip]:
    """Whose sound each clip has: its own if wanted, else that of the wanted clips in turn."""
    pool = [clip for clip, own in zip(clips, wanted, strict=True) if own]
    assert pool, "no clip has the wanted sound"
    borrowed = 0
    result = []
    for clip, own in zip(clips, wanted, strict=True):
        result.append(clip if own else pool[borrowed % len(pool)])
        borrowed += not own
    return result


def sign_test(differences: Sequence[float]) -> float:
    """Two-sided exact p of as uneven a split of the signs; zeros are left out."""
    num_up, num_down = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    count, few = num_up + num_down, min(num_up, num_down)
    tail: float = sum(math.comb(count, k) for k in range(few + 1)) / 2**count
    return min(1.0, 2 * tail)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m avs.report.consensus")
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--similarity", help="another matrix than the shipped one")
    options = parser.parse_args(arguments)
    similarity_IA = load_similarity(options.similarity)
    networks = TrialNetworks(options.weights)
    clips = read_trial_clips(options.data, networks)
    lines = [*_by_category(clips, networks.silence(), similarity_IA), ""]
    print("\n".join([*lines, *_dog_question(clips, similarity_IA)]))


def _by_category(
    clips: Sequence[TrialClip], silence_TA: Tensor, similarity_IA: Tensor
) -> Iterator[str]:
    """For each category and sound: the most frequent class, its share, and the mean margin."""
    speakers = donors(clips, [clip.is_speech for clip in clips])
    sounds = {
        "own": [clip.audio for clip in clips],
        "speech": [clip.audio for clip in speakers],
        "silence": [silence_TA] * len(clips),
    }
    found = {
        sound: [agree(c.visual, a, similarity_IA) for c, a in zip(clips, audio, strict=True)]
        for sound, audio in sounds.items()
    }
    yield "Consensus class (share of the frames, mean margin); frames that another sound changes"
    yield ""
    yield "| category | clips | own sound | speech | silence | speech changes | silence changes |"
    yield "|---|---|---|---|---|---|---|"
    for category in [*sorted({clip.category for clip in clips}), "all"]:
        rows = [i for i, clip in enumerate(clips) if category in (clip.category, "all")]
        chosen = {sound: [found[sound][i] for i in rows] for sound in sounds}
        cells = [category, str(len(rows)), *(_most_frequent(c) for c in chosen.values())]
        cells += [_changed(chosen["own"], chosen[s]) for s in ("speech", "silence")]
        yield f"| {' | '.join(cells)} |"


def _most_frequent(found: Sequence[Consensus]) -> str:
    classes = [c for clip in found for c in clip.classes]
    margins = [m for clip in found for m in clip.margins]
    (index, count), *_ = Counter(classes).most_common(1)
    name = imagenet_classes()[index].partition(",")[0]
    return f"{name} ({count / len(classes):.0%}, {np.mean(margins):.3f})"


def _changed(before: Sequence[Consensus], after: Sequence[Consensus]) -> str:
    pairs = [
        p
        for b, a in zip(before, after, strict=True)
        for p in zip(b.classes, a.classes, strict=True)
    ]
    return f"{sum(x != y for x, y in pairs) / len(pairs):.0%}"


def _dog_question(clips: Sequence[TrialClip], similarity_IA: Tensor) -> Iterator[str]:
    """Share of frames whose class is a dog breed, under barking and under speech."""
    sounds = (
        donors(clips, [clip.category == DOG for clip in clips]),
        donors(clips, [clip.is_speech for clip in clips]),
    )
    shares: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for clip, barker, speaker in zip(clips, *sounds, strict=True):
        pair = [agree(clip.visual, d.audio, similarity_IA) for d in (barker, speaker)]
        group = "with a dog" if clip.category == DOG else "other"
        shares[group, clip.picture].append((pair[0].dog_share, pair[1].dog_share))
    yield "Dog breeds among the consensus classes, mean over pictures"
    yield ""
    yield "| pictures | number | barking | speech | rises / falls / equal | p (sign test) |"
    yield "|---|---|---|---|---|---|"
    for group in ("with a dog", "other"):
        means = np.array([np.mean(v, axis=0) for key, v in shares.items() if key[0] == group])
        differences = (means[:, 0] - means[:, 1]).tolist()
        num_up, num_down = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
        signs = f"{num_up} / {num_down} / {len(means) - num_up - num_down}"
        bark, speech = means.mean(axis=0)
        p = f"{sign_test(differences):.2g}"
        yield f"| {group} | {len(means)} | {bark:.1%} | {speech:.1%} | {signs} | {p} |"


if __name__ == "__main__":
    main()
