"""Sine positions: one place one code at every size; more frames leave earlier codes alone."""

from __future__ import annotations

import math

import pytest
import torch

from avs.models.positional_encoding import sine_image, sine_positions, sine_time, sine_video


def test_sines_are_those_of_the_paper() -> None:
    codes = sine_positions(torch.tensor([0.0, 3.0]), channels=4)
    expected = [math.sin(3), math.cos(3), math.sin(3 / 100), math.cos(3 / 100)]
    torch.testing.assert_close(codes, torch.tensor([[0.0, 1.0, 0.0, 1.0], expected]))


def test_every_pixel_has_a_code_of_its_own() -> None:
    codes = sine_image(5, 7, channels=32).flatten(1).T
    distances = torch.cdist(codes, codes) + torch.eye(35)
    assert float(distances.min()) > 0.05


def test_a_place_has_one_code_at_every_size() -> None:
    middle = sine_image(1, 1, channels=16)[:, 0, 0]
    torch.testing.assert_close(sine_image(3, 9, channels=16)[:, 1, 4], middle)
    torch.testing.assert_close(sine_image(27, 5, channels=16)[:, 13, 2], middle)


def test_more_frames_leave_the_codes_of_the_first_ones() -> None:
    assert torch.equal(sine_time(9, channels=8)[:4], sine_time(4, channels=8))
    assert torch.equal(sine_video(9, 2, 3, channels=8)[:, :4], sine_video(4, 2, 3, channels=8))


def test_video_is_image_plus_time() -> None:
    video = sine_video(3, 4, 5, channels=8)
    assert video.shape == (8, 3, 4, 5)
    expected = sine_image(4, 5, channels=8)[:, 2, 1] + sine_time(3, channels=8)[1]
    torch.testing.assert_close(video[:, 1, 2, 1], expected)


def test_codes_are_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        codes = sine_image(64, 64, channels=8)
    assert codes.dtype == torch.float32
    assert torch.equal(codes, sine_image(64, 64, channels=8))


def test_channels_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="channels=6"):
        sine_image(2, 2, channels=6)
    with pytest.raises(ValueError, match="channels=3"):
        sine_time(2, channels=3)
