"""Unlabelled videos: every video file below a folder or ``s3://`` prefix, or one file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from avs import storage
from avs.datasets.base import AudioSource, ClipSource, DataConfig, check_audio_source
from avs.errors import DataError
from avs.schema import Source

__all__ = ["VIDEO_SUFFIXES", "iter_videos", "list_folder", "list_videos", "no_video"]

VIDEO_SUFFIXES = frozenset(
    [
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".flv",
        ".ts",
        ".m2ts",
        ".mts",
        ".mpg",
        ".mpeg",
        ".ogv",
        ".3gp",
        ".wmv",
    ]
)


def iter_videos(uri: str) -> Iterator[tuple[str, Source]]:
    """Relative path and source of each video, as the storage lists them; a single file is taken
    whatever its suffix. Folders of millions take little memory.

    Raises:
        DataError: ``uri`` does not exist.
    """
    if not storage.exists(uri):
        raise DataError(f"{uri} does not exist.")
    if not storage.is_folder(uri):
        size_bytes, version = storage.file_version(uri)
        name = PurePosixPath(uri.rstrip("/")).name
        yield name, Source(uri=uri, size_bytes=size_bytes, version=version)
        return
    for file in storage.iter_files(uri):
        if PurePosixPath(file.path).suffix.lower() in VIDEO_SUFFIXES:
            address = storage.join(uri, file.path)
            yield file.path, Source(uri=address, size_bytes=file.size_bytes, version=file.version)


def list_videos(uri: str) -> list[tuple[str, Source]]:
    """All of :func:`iter_videos`, sorted by path.

    Raises:
        DataError: nothing is there, or no file has a video's suffix.
    """
    videos = sorted(iter_videos(uri), key=lambda video: video[0])
    if not videos:
        raise no_video(uri)
    return videos


def no_video(uri: str) -> DataError:
    """The error of a folder without videos."""
    known = ", ".join(sorted(VIDEO_SUFFIXES))
    return DataError(f"{uri} holds no video (known: {known}).")


def list_folder(config: DataConfig) -> list[ClipSource]:
    """Each video as one source; preparing cuts it into windows of T seconds."""
    check_audio_source(config, AudioSource.VIDEO)
    return [
        ClipSource(
            clip_id=f"folder/videos/{path}",
            dataset="folder",
            subset="videos",
            split="all",
            source=source,
            video=source.uri,
            video_id=path,
        )
        for path, source in list_videos(config.root)
    ]
