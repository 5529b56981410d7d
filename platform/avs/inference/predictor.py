"""The only inference code: evaluation, the bucket job and Serve all call it.

It always forwards the same compute shape (``windows_per_forward`` windows of T frames, short
batches padded) with the number of torch threads that it sets itself. Measured: with another batch
size or thread count logits move by up to 7e-5; with a fixed shape by 0.0 in any slot. So the masks
of a video are bit-equal whoever shares the batch and however its windows are spread.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from typing import Any, Self

import numpy as np
import torch

from avs import storage
from avs.errors import CheckpointError, ConfigError
from avs.inference.network_input import window_arrays, window_sound
from avs.inference.outputs import check_masks_per_s
from avs.inference.track import NO_SOUND, MaskTrack
from avs.inference.visible import check_objects
from avs.inference.window import FrameMask, window_masks
from avs.media.pieces import MediaPart, decode_pieces, media_rounds, part_of
from avs.media.sampling import native_rate
from avs.media.sandbox import probe, sandbox_state
from avs.media.video import DecodedVideo
from avs.models import build_system
from avs.models.visible_objects import VisibleObjects, visible_objects
from avs.models.weights import skip_random_init
from avs.training.checkpoint import Checkpoint, load_checkpoint

__all__ = ["Predictor", "checkpoint_hash"]

_LOG = logging.getLogger(__name__)


class Predictor:
    """Frames and sound in, masks out, for a video of any length, size and frame rate.

    ``system`` is the network (:class:`avs.models.AvsSystem`), for export.

    Args:
        checkpoint: a loaded checkpoint; T, frame size, the alignment of the sound and the compute
            shape come from it.
        device: ``cpu`` or ``cuda``.
        num_threads, windows_per_forward: override the checkpoint's compute shape. Masks are
            bit-equal only between Predictors with the same shape and device.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str = "cpu",
        num_threads: int | None = None,
        windows_per_forward: int | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.clip = checkpoint.clip
        self.device = torch.device(device)
        self.num_threads = num_threads or checkpoint.inference.num_threads
        self.windows_per_forward = windows_per_forward or checkpoint.inference.windows_per_forward
        with skip_random_init():  # the weights come from the checkpoint, all of them
            system = build_system(checkpoint.model.without_files())
        try:
            system.load_state_dict(checkpoint.weights)
        except RuntimeError as error:
            detail = str(error).splitlines()[1].strip()
            raise CheckpointError(f"{checkpoint.uri} does not fit its model: {detail}") from None
        self.input_kind = system.audio.input_kind
        self.system = system.to(self.device).eval()

    @classmethod
    def from_checkpoint(
        cls,
        uri: str,
        *,
        device: str = "cpu",
        num_threads: int | None = None,
        windows_per_forward: int | None = None,
    ) -> Self:
        """Rebuild from a checkpoint folder or a run folder (its best), local or ``s3://``.

        Raises:
            CheckpointError: missing, incomplete or of another version.
        """
        return cls(
            load_checkpoint(uri),
            device=device,
            num_threads=num_threads,
            windows_per_forward=windows_per_forward,
        )

    @property
    def category_names(self) -> tuple[str, ...]:
        """Of the objects that :meth:`forward` tells; models that find none have no such names."""
        names: Any = self.system.segmenter.category_names
        return tuple(names)

    def logits(
        self, frames: np.ndarray, sound: np.ndarray, frame_valid: np.ndarray
    ) -> torch.Tensor:
        """float32 [W, T, K, S, S] on the CPU of W windows, given as to :meth:`forward`."""
        return torch.cat([logits for logits, _ in self.forward(frames, sound, frame_valid)])

    def forward(
        self,
        frames: np.ndarray,
        sound: np.ndarray,
        frame_valid: np.ndarray,
        *,
        objects: bool = False,
    ) -> Iterator[tuple[torch.Tensor, VisibleObjects | None]]:
        """Logits of W windows in batches of the fixed shape, and what is visible, where asked for.

        Args:
            frames: uint8 [W, T, S, S, 3].
            sound: as ``input_kind`` says, log-mel float32 [W, T, 1, 96, 64] or waveform [W, n].
            frame_valid: bool [W, T], False = padding.
            objects: of models that find objects (:func:`check_objects`); of the whole batch, whose
                last windows may be padding.
        """
        torch.set_num_threads(self.num_threads)
        size = self.windows_per_forward
        for first in range(0, len(frames), size):
            take = [min(first + i, len(frames) - 1) for i in range(size)]
            with torch.inference_mode():
                output = self.system(
                    self._tensor(frames[take]).permute(0, 1, 4, 2, 3),
                    self._tensor(sound[take]),
                    self._tensor(frame_valid[take]),
                )
                visible = visible_objects(output.objects) if objects else None
            yield output.logits.float().cpu()[: len(frames) - first], visible

    def segment(
        self,
        frames: np.ndarray,
        samples: np.ndarray | None,
        *,
        size_px: tuple[int, int],
        threshold: float = 0.5,
    ) -> Iterator[np.ndarray]:
        """Masks uint8 [h, w] (class index) of each frame in order, at ``size_px`` = (h, w).

        Args:
            frames: uint8 [N, S, S, 3], one a second. samples: float32 mono 16 kHz, None = silence.
            threshold: probability above which a pixel counts (binary models).
        """
        part = MediaPart(
            frames=frames, frame_time_s=np.arange(len(frames), dtype=np.float64), samples=samples
        )
        return (made.mask for made in self._segment([part], lambda: size_px, threshold))

    def segment_video(
        self,
        path: str,
        *,
        threshold: float = 0.5,
        masks_per_s: int | None = 1,
        max_duration_s: float | None = None,
        objects: bool = False,
    ) -> MaskTrack:
        """Decode a local video file and segment it, at its displayed size.

        Minutes of it are in memory at a time. A video without sound counts as silent; one longer
        than ``max_duration_s`` is refused. ``masks_per_s``: 1 to 120, None = one a frame; it costs
        as many forwards. ``objects`` adds all objects that the model sees, the silent ones too.

        Raises:
            ConfigError: ``masks_per_s`` out of range, ``objects`` of a model that finds none.
            MediaError: the file cannot be used; the message says why.
        """
        if objects:
            check_objects(self.checkpoint)
        rate = native_rate(probe(path).fps) if masks_per_s is None else masks_per_s
        side = self.clip.image_size_px
        pieces = decode_pieces(
            path,
            size_px=(side, side),
            max_duration_s=max_duration_s,
            samples_per_s=check_masks_per_s(rate),
            window_frames=self.clip.num_frames,
        )
        track = MaskTrack.empty(self.clip.class_names, masks_per_s=rate)
        has_sound = False

        def part(video: DecodedVideo) -> MediaPart:
            nonlocal has_sound
            track.note(video)
            has_sound = has_sound or video.samples is not None
            return part_of(video)

        for made in self._segment(
            map(part, pieces), lambda: track.size_px, threshold, samples_per_s=rate, objects=objects
        ):
            track.add(made.time_s, made.mask, made.objects)
        track.masks.sort(key=lambda mask: mask.time_s)  # as run-lengths, which are small
        if not has_sound:
            track.warnings.append(NO_SOUND)
        return track

    def _segment(
        self,
        parts: Iterable[MediaPart],
        size_px: Callable[[], tuple[int, int]],
        threshold: float,
        *,
        samples_per_s: int = 1,
        objects: bool = False,
    ) -> Iterator[FrameMask]:
        """Masks as windows come, out of order in a round; the size is asked for after a part."""
        if not 0 < threshold < 1:
            raise ConfigError(f"threshold={threshold} must lie between 0 and 1.")
        names = self.category_names if objects else ()
        masks = partial(window_masks, threshold=threshold, names=names)
        windows = chain.from_iterable(
            media_rounds(parts, window_frames=self.clip.num_frames, samples_per_s=samples_per_s)
        )
        while group := list(islice(windows, self.windows_per_forward)):
            given = window_arrays(group, self.clip, input_kind=self.input_kind)
            logits, visible = next(self.forward(*given, objects=objects))  # the group is one batch
            for slot, seen in enumerate(group):
                mine = visible and visible.window(slot)
                yield from masks(logits[slot], mine, seen, size_px=size_px())

    def warm_up(self) -> None:
        """Start the decoder and run one forward, so that the first video is not the slow one."""
        if warning := sandbox_state().warning:
            _LOG.warning(warning)
        t, side = self.clip.num_frames, self.clip.image_size_px
        sound = window_sound(None, self.clip, input_kind=self.input_kind)[None]
        self.logits(np.zeros((1, t, side, side, 3), np.uint8), sound, np.ones((1, t), np.bool_))

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def checkpoint_hash(uri: str) -> str:
    """Hash of the weights and the configuration of a resolved checkpoint folder."""
    digest = hashlib.sha256()
    for name in ("weights.safetensors", "config.yaml"):
        digest.update(storage.read_bytes(storage.join(uri, name)))
    return digest.hexdigest()[:16]
