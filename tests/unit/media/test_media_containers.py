"""Only known containers reach a decoder; playlists do not, whatever they are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from avs.errors import MediaError
from avs.media.containers import check_container, sniff_container
from avs.media.video import Sampling, decode_video, probe

PLAYLISTS = {
    "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:9/a.ts\n",
    "concat": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "dash": b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5000 RTP/AVP 96\n",
}
MAGICS = {
    "mp4": b"\x00\x00\x00\x18ftypisom" + bytes(16),
    "matroska": b"\x1a\x45\xdf\xa3\x87\x42\x82\x84webm" + bytes(8),
    "avi": b"RIFF\x00\x00\x00\x00AVI " + bytes(8),
    "wav": b"RIFF\x00\x00\x00\x00WAVE" + bytes(8),
    "flv": b"FLV\x01\x05" + bytes(8),
    "ogg": b"OggS" + bytes(16),
    "flac": b"fLaC" + bytes(16),
    "mpegps": b"\x00\x00\x01\xba" + bytes(16),
    "mpegts": (b"\x47" + bytes(187)) * 3,
    "mp3": b"\xff\xfb\x90\x64" + bytes(16),
    "aac": b"\xff\xf1\x50\x80" + bytes(16),
}


@pytest.mark.parametrize(("name", "head"), MAGICS.items())
def test_known_containers_are_recognised(name: str, head: bytes) -> None:
    assert sniff_container(head) == name


@pytest.mark.parametrize("playlist", PLAYLISTS.values(), ids=PLAYLISTS)
@pytest.mark.parametrize("name", ["clip.mp4", "clip.m3u8", "clip"])
def test_a_playlist_is_refused_under_any_name(tmp_path: Path, playlist: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(playlist)
    for read in (check_container, probe, _decode):
        with pytest.raises(MediaError, match="playlist") as error:
            read(path)
        assert name in str(error.value)


@pytest.mark.parametrize("playlist", PLAYLISTS.values(), ids=PLAYLISTS)
@pytest.mark.parametrize("magic", ["mp4", "matroska", "avi", "mpegts"])
def test_a_playlist_behind_a_good_magic_is_refused(magic: str, playlist: bytes) -> None:
    with pytest.raises(MediaError, match="playlist"):
        sniff_container(MAGICS[magic] + playlist)


def test_a_playlist_behind_a_long_id3_tag_is_refused(tmp_path: Path) -> None:
    size = 9000
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, size >> 7, size & 0x7F]) + bytes(size)
    path = tmp_path / "song.mp3"
    path.write_bytes(tag + PLAYLISTS["hls"])
    with pytest.raises(MediaError, match="playlist"):
        check_container(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"just some words\n", "text file"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not in a video"),
        (b"PK\x03\x04\x00\x00\x00", "not in a video"),
    ],
)
def test_other_files_are_refused_with_the_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    with pytest.raises(MediaError, match=reason) as error:
        check_container(path)
    assert str(path) in str(error.value)
    with pytest.raises(MediaError, match=reason):
        _decode(path)


def test_a_missing_file_and_a_folder_are_media_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "no.mp4", tmp_path):
        with pytest.raises(MediaError, match="no such file"):
            check_container(path)


def _decode(path: Path) -> object:
    return decode_video(path, size_px=None, sampling=Sampling.TIME)
