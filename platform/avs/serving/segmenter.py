"""One uploaded video to one answer, without Ray: what a segmenter replica does in its thread.

The upload goes to a private file because the decoders read files; it is gone with the answer. The
masks are those of ``jobs/segment.py``: the same ``Predictor.segment_video`` and ``write_outputs``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from avs.errors import MediaError
from avs.inference.outputs import OutputKind, write_outputs
from avs.inference.predictor import Predictor
from avs.inference.track import MaskTrack
from avs.inference.visible import finds_objects
from avs.media.containers import check_container
from avs.media.sandbox import probe
from avs.serving.messages import Answer, Refusal

__all__ = ["VideoSegmenter"]


class VideoSegmenter:
    """A warmed-up Predictor that answers uploads; not for several threads at once."""

    def __init__(self, checkpoint: str, *, device: str, max_duration_s: float) -> None:
        self._predictor = Predictor.from_checkpoint(checkpoint, device=device)
        self._predictor.warm_up()
        self._max_duration_s = max_duration_s

    def __call__(
        self, data: bytes, *, name: str, kind: OutputKind, objects: bool = False
    ) -> Answer | Refusal:
        """Segment the file ``data``; ``name`` is what its sender calls it.

        A file that cannot be used gives a Refusal: 415 for a format that is not taken, 422 else,
        also for ``objects`` of a model that finds none.
        """
        if objects and not finds_objects(self._predictor.checkpoint):
            model = self._predictor.checkpoint.model.name
            reason = f"objects=true, but the model is {model}, which finds no objects: leave it out"
            return Refusal(422, "no_objects", reason)
        if not data:
            return Refusal(422, "unreadable", f"{name}: is empty (0 bytes)")
        with tempfile.TemporaryDirectory(prefix="avs-") as folder:
            path = Path(folder).resolve() / "upload"
            path.write_bytes(data)
            try:
                check_container(path)
            except MediaError as error:
                return Refusal(415, "unsupported_media", _public(error, path, name))
            try:
                return self._segment(path, name, kind, objects=objects)
            except MediaError as error:
                return Refusal(422, "unreadable", _public(error, path, name))

    def _segment(
        self, path: Path, name: str, kind: OutputKind, *, objects: bool
    ) -> Answer | Refusal:
        duration_s = probe(path).duration_s
        if duration_s > self._max_duration_s:
            limit = f"at most {self._max_duration_s:g} s are taken"
            return Refusal(422, "too_long", f"{name}: lasts {duration_s:.1f} s, {limit}")
        track = self._predictor.segment_video(
            str(path), max_duration_s=self._max_duration_s, objects=objects
        )
        track.warnings = [_public(w, path, name) for w in track.warnings]
        if kind is OutputKind.RLE_JSON:
            return Answer(_json(track, name))
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            names = write_outputs(track, Path(scratch), [kind], video_path=str(path))
            return Answer((Path(scratch) / names[0]).read_bytes())


def _json(track: MaskTrack, name: str) -> bytes:
    return json.dumps({**track.to_json(), "video": name}, ensure_ascii=False).encode()


def _public(text: MediaError | str, path: Path, name: str) -> str:
    """A message with the client's name of the file where ours stood."""
    return str(text).replace(str(path), name)
