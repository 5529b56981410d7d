"""What every data set gives: a list of clips with where their pictures, sound and masks are."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from avs.datasets.synthetic import SyntheticConfig
from avs.errors import ConfigError
from avs.media.logmel import Alignment
from avs.schema import Source

__all__ = [
    "AudioConfig",
    "AudioSource",
    "ClipSource",
    "DataConfig",
    "Instance",
    "MaskKind",
    "MediaSource",
    "MissingSound",
    "check_audio_source",
]


class MediaSource(enum.Enum):
    """Which of an AVSBench folder's two forms is read."""

    AUTO = "auto"
    RAW = "raw"
    PREPROCESSED = "preprocessed"


class AudioSource(enum.Enum):
    """Where a clip's sound is taken from; LOGMEL are the stored log-mels of AVSBench."""

    AUTO = "auto"
    WAV = "wav"
    VIDEO = "video"
    LOGMEL = "logmel"


class MissingSound(enum.Enum):
    """What a clip without sound becomes: digital silence, or a reject."""

    SILENCE = "silence"
    REJECT = "reject"


class MaskKind(enum.Enum):
    """How mask pictures are stored: foreground or not, class index, or palette colour.

    FOREGROUND: class index or colour, of which only "some class" is kept. COCO: COCO category ids
    as VPO stores them.
    """

    BINARY = "binary"
    INDEX = "index"
    RGB = "rgb"
    FOREGROUND = "foreground"
    COCO = "coco"


@dataclass(kw_only=True, slots=True)
class AudioConfig:
    """The sound of the clips.

    ``auto`` takes the wav beside pictures and a video's own sound otherwise, and where there is
    neither the stored log-mel. A clip that has none of what ``source`` allows is rejected:
    a silent clip with a mask would teach that objects are heard in silence. Unlabelled videos
    are better kept (``configs/data/folder.yaml`` has ``missing: silence``).

    ``alignment`` is that of the log-mel examples. Stored log-mels are ``avsbench``: with ``exact``
    a clip that has nothing else is rejected. Networks that hear waveforms get whole seconds under
    either.
    """

    source: AudioSource = AudioSource.AUTO
    missing: MissingSound = MissingSound.REJECT
    alignment: Alignment = Alignment.AVSBENCH

    def __post_init__(self) -> None:
        if self.source is AudioSource.LOGMEL and self.alignment is Alignment.EXACT:
            raise ConfigError(
                "data.audio.source=logmel with data.audio.alignment=exact: stored log-mels have "
                "alignment avsbench, and others cannot be made of them. Give "
                "data.audio.source=auto, or data.audio.alignment=avsbench."
            )


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """Where the clips are and how they are sampled.

    ``root`` is a local folder or ``s3://`` prefix. ``image_size_px`` is the side of the square
    frames that networks see. ``num_frames`` is T, at one frame a second. ``limit`` keeps the first
    clips of each split. ``split_seed`` deals videos without a split to train, val and test.
    ``categories`` is AVSBench-semantic's metadata.csv, local or ``s3://``: its ``a_obj`` then gives
    the clips of MS3 their categories.
    """

    name: str
    root: str
    image_size_px: int
    num_frames: int
    media: MediaSource = MediaSource.AUTO
    with_waveform: bool = True
    limit: int | None = None
    audio: AudioConfig = field(default_factory=AudioConfig)
    split_seed: int = 0
    synthetic: SyntheticConfig | None = None
    categories: str | None = None

    def __post_init__(self) -> None:
        for key in ("image_size_px", "num_frames"):
            if getattr(self, key) < 1:
                raise ConfigError(f"data.{key}={getattr(self, key)} must be at least 1.")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"data.limit={self.limit} must be at least 1, or null for all.")
        if self.categories is not None and self.name != "ms3":
            raise ConfigError(
                f"data.categories={self.categories} is for data=ms3 alone, whose clips name no "
                f"categories; this is data.name={self.name}: leave it out."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """One object of a picture: class index, and its COCO segmentation as JSON."""

    class_index: int
    segmentation: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSource:
    """One clip to prepare.

    Pictures: either ``video`` or ``frames`` (at most T pictures) is set.
    Sound: ``audio`` is a separate file, to which those of ``audio_mix`` are added; None for the
    video's own. ``audio_from_middle`` takes the middle T seconds instead of the first. ``log_mel``
    is a stored log-mel, used where there is no sound, and compared with ``audio`` where both are.
    Masks: one URI or None a frame; with ``mask_time_s`` each mask labels the frame nearest to its
    time. ``mask_track`` is a JSON file of timed masks; ``masks`` beside it replace its masks.
    ``instances`` are the masks of frame 0 as COCO segmentations. ``num_classes`` bounds the values,
    ``class_names`` is set where a track's masks are found by name.
    ``files_hash`` changes when any of its files does, so that a corrected mask is prepared anew.
    ``video_id`` tells which source video the clip was cut from, for leaks between splits.
    ``problem`` says why the clip cannot be prepared where the listing already knows it, ``notes``
    what was repaired in its metadata.
    """

    clip_id: str
    dataset: str
    subset: str
    split: str
    source: Source
    categories: tuple[str, ...] = ()
    video: str | None = None
    frames: tuple[str, ...] = ()
    audio: str | None = None
    audio_mix: tuple[str, ...] = ()
    audio_from_middle: bool = False
    log_mel: str | None = None
    masks: tuple[str | None, ...] = ()
    mask_time_s: tuple[float, ...] = ()
    mask_track: str | None = None
    mask_kind: MaskKind = MaskKind.BINARY
    instances: tuple[Instance, ...] = ()
    num_classes: int = 2
    class_names: tuple[str, ...] = ()
    files_hash: str = ""
    video_id: str = ""
    problem: str | None = None
    notes: tuple[str, ...] = ()


def check_audio_source(config: DataConfig, *allowed: AudioSource) -> None:
    """Refuse a ``data.audio.source`` that the data set has no files for; AUTO always works."""
    known = (AudioSource.AUTO, *allowed)
    if config.audio.source not in known:
        names = ", ".join(source.value for source in known)
        raise ConfigError(
            f"data.audio.source={config.audio.source.value} is not there in "
            f"data.name={config.name}. Known: {names}."
        )
