"""Unlabelled videos: every video file below a folder or ``s3://`` prefix, or one file."""

from __future__ import annotations

from pathlib import PurePosixPath

from avs import storage
from avs.datasets.base import AudioSource, ClipSource, DataConfig, check_audio_source
from avs.errors import DataError
from avs.schema import Source

__all__ = ["VIDEO_SUFFIXES", "list_folder", "list_videos"]

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


def list_videos(uri: str) -> list[tuple[str, Source]]:
    """Relative path and source of each video; a single file is taken whatever its suffix.

    Raises:
        DataError: nothing is there, or no file has a video's suffix.
    """
    if not storage.exists(uri):
        raise DataError(f"{uri} does not exist.")
    if not storage.is_folder(uri):
        size_bytes, version = storage.file_version(uri)
        name = PurePosixPath(uri.rstrip("/")).name
        return [(name, Source(uri=uri, size_bytes=size_bytes, version=version))]
    files = storage.list_files(uri)
    videos = [f for f in files if PurePosixPath(f.path).suffix.lower() in VIDEO_SUFFIXES]
    if not videos:
        known = ", ".join(sorted(VIDEO_SUFFIXES))
        raise DataError(f"{uri} holds {len(files)} files but no video (known: {known}).")
    return [
        (f.path, Source(uri=storage.join(uri, f.path), size_bytes=f.size_bytes, version=f.version))
        for f in videos
    ]


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
