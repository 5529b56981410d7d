"""Points: exact where masks are constant or linear, the same for everybody, dense where unsure."""

from __future__ import annotations

import pytest
import torch

from avs.models.point_sampling import random_points, sample_points, uncertain_points

CPU = torch.device("cpu")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_constant_masks_are_constant_up_to_the_edge() -> None:
    points = torch.cat((random_points(200, generator=seeded(), device=CPU), torch.eye(2)))
    levels = torch.tensor([0.0, 1.0, -3.0])
    values = sample_points(levels.view(3, 1, 1).expand(3, 5, 4), points)
    torch.testing.assert_close(values, levels.unsqueeze(1).expand(3, 202))


def test_centres_give_the_pixels_and_between_them_is_linear() -> None:
    masks = torch.randn(2, 3, 4)
    centre = torch.tensor([[(1 + 0.5) / 4, (2 + 0.5) / 3]])
    torch.testing.assert_close(sample_points(masks, centre)[:, 0], masks[:, 2, 1])
    between = torch.tensor([[2.0 / 4, (2 + 0.5) / 3]])
    expected = (masks[:, 2, 1] + masks[:, 2, 2]) / 2
    torch.testing.assert_close(sample_points(masks, between)[:, 0], expected)


def test_mean_over_points_nears_the_dense_mean() -> None:
    masks = torch.nn.functional.interpolate(torch.randn(1, 3, 4, 4), size=(32, 32))[0]
    points = random_points(40_000, generator=seeded(), device=CPU)
    torch.testing.assert_close(
        sample_points(masks, points).mean(dim=1), masks.mean(dim=(1, 2)), atol=0.02, rtol=0
    )


def test_one_seed_gives_one_set_of_points_whatever_the_batch_holds() -> None:
    options = {"num_points": 20, "oversample_ratio": 3.0, "importance_ratio": 0.5}
    masks = torch.randn(4, 6, 6)
    generator = seeded(5)
    whole = uncertain_points(masks, generator=generator, **options)
    state = generator.get_state()
    for part in (masks[1:2], masks[:0]):
        generator = seeded(5)
        points = uncertain_points(part, generator=generator, **options)
        assert torch.equal(points, whole[1 : 1 + len(part)])
        assert torch.equal(generator.get_state(), state)
    assert not torch.equal(uncertain_points(masks, generator=seeded(6), **options), whole)


@pytest.mark.parametrize("importance", [0.0, 0.75, 1.0])
def test_uncertain_points_lie_at_the_border_of_the_mask(importance: float) -> None:
    column = torch.arange(32.0) - 10.5  # the logit is 0 between columns 10 and 11
    masks = column.expand(1, 32, 32)
    points = uncertain_points(
        masks,
        num_points=40,
        oversample_ratio=8.0,
        importance_ratio=importance,
        generator=seeded(),
    )
    assert points.shape == (1, 40, 2)
    near = ((points[0, :, 0] * 32 - 11).abs() < 4.5).sum()
    assert int(near) >= round(40 * importance)
    if importance == 0.0:
        assert int(near) < 30


def test_points_are_not_differentiated() -> None:
    masks = torch.randn(2, 4, 4, requires_grad=True)
    points = uncertain_points(
        masks, num_points=4, oversample_ratio=3, importance_ratio=0.5, generator=seeded()
    )
    assert not points.requires_grad
    sample_points(masks, points).sum().backward()
    assert masks.grad is not None
