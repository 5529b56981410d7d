"""The bare loop of ``segment``: the same decoding, network and outputs in processes without Ray.

    python -m avs.benchmark.bare_segment CHECKPOINT INPUT OUT PROCESSES OUTPUTS

It has no lease, commits, resume, rejects or sandbox: what it is faster by is their price. Each
process takes every n-th video and holds a Predictor of its own.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path

from avs.inference.network_input import window_arrays
from avs.inference.outputs import OutputKind, folder_name, write_outputs
from avs.inference.predictor import Predictor
from avs.inference.track import MaskTrack
from avs.inference.window import window_masks
from avs.media.pieces import decode_pieces, media_rounds, part_of
from avs.media.video import decode_video

__all__ = ["bare_segment"]

_THRESHOLD = 0.5


def bare_segment(
    checkpoint: str, videos: Sequence[Path], out: Path, *, outputs: Sequence[OutputKind]
) -> None:
    """Segment videos one by one, one mask a second, into a folder each."""
    predictor = Predictor.from_checkpoint(checkpoint)
    for video in videos:
        folder = out / folder_name(video.name)
        folder.mkdir(parents=True)
        write_outputs(_track(predictor, str(video)), folder, outputs, video_path=str(video))


def _track(predictor: Predictor, path: str) -> MaskTrack:
    clip, side = predictor.clip, predictor.clip.image_size_px
    track = MaskTrack.empty(clip.class_names)
    pieces = list(
        decode_pieces(
            path,
            size_px=(side, side),
            window_frames=clip.num_frames,
            decode=decode_video,  # no sandbox
        )
    )
    track.note(pieces[-1])
    rounds = media_rounds(
        map(part_of, pieces), window_frames=clip.num_frames, samples_per_s=track.masks_per_s
    )
    windows = chain.from_iterable(rounds)
    while group := list(islice(windows, predictor.windows_per_forward)):
        given = window_arrays(group, clip, input_kind=predictor.input_kind)
        [(logits, _)] = predictor.forward(*given)
        for slot, seen in enumerate(group):
            for made in window_masks(
                logits[slot], None, seen, size_px=track.size_px, threshold=_THRESHOLD, names=()
            ):
                track.add(made.time_s, made.mask)
    return track


def _main() -> None:
    checkpoint, source, out, processes, names = sys.argv[1:]
    videos = sorted(Path(source).iterdir())
    outputs = [OutputKind(name) for name in names.split(",")]
    context = multiprocessing.get_context("spawn")  # torch is loaded in each, as in Ray's workers
    workers = [
        context.Process(
            target=bare_segment,
            args=(checkpoint, videos[k :: int(processes)], Path(out)),
            kwargs={"outputs": outputs},
        )
        for k in range(int(processes))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sys.exit(max(abs(worker.exitcode or 0) for worker in workers))


if __name__ == "__main__":
    _main()
