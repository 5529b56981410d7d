"""Who is let off the "no object" loss, and how the teacher follows."""

from __future__ import annotations

import pytest
import torch
from avsc_cases import tiny
from model_cases import two_objects

from avs.losses import LossConfig, total_loss
from avs.models.avsc_silent import Teacher, mask_overlap, silent_weight
from avs.models.masked_decoder import SetPrediction
from avs.models.matching import MatchingCosts, Targets
from avs.models.set_losses import SetLossConfig, set_losses

CONFIG = SetLossConfig(num_points=64, matching=MatchingCosts(num_points=64))
SURE, UNSURE = [4.0, 0.0], [0.0, 4.0]


def prediction(columns: list[int], classes: list[list[float]]) -> SetPrediction:
    """Query q covers two of eight columns, from ``columns[q]`` on."""
    masks = torch.full((1, len(columns), 8, 8), -9.0)
    for query, first in enumerate(columns):
        masks[0, query, :, first : first + 2] = 9.0
    return SetPrediction(
        queries=torch.zeros(1, len(columns), 4),
        class_logits=torch.tensor([classes]).requires_grad_(),
        masks=masks.requires_grad_(),
    )


def sounding(*columns: int) -> Targets:
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    for first in columns:
        mask[0, :, 2 * first : 2 * first + 4] = True
    return Targets(classes=torch.zeros(1, dtype=torch.long), masks=mask)


def nothing() -> Targets:
    return Targets(
        classes=torch.zeros(0, dtype=torch.long), masks=torch.zeros(0, 16, 16, dtype=torch.bool)
    )


@pytest.mark.parametrize(
    ("columns", "classes", "seen_by_teacher", "teacher_says", "weight"),
    [
        (4, SURE, 4, SURE, 0.0),  # a silent object that the teacher sees too
        (4, SURE, 6, SURE, 1.0),  # the teacher sees something elsewhere
        (4, SURE, 4, UNSURE, 1.0),  # the teacher sees nothing
        (4, UNSURE, 4, SURE, 1.0),  # not confident itself
        (0, SURE, 0, SURE, 1.0),  # what sounds is matched or a double of it
    ],
)
def test_a_confident_query_apart_from_the_truth_is_let_off_where_the_teacher_agrees(
    columns: int,
    classes: list[float],
    seen_by_teacher: int,
    teacher_says: list[float],
    weight: float,
) -> None:
    made = prediction([columns], [classes])
    teacher = prediction([seen_by_teacher], [teacher_says])
    for target in (sounding(0), nothing()):
        found = silent_weight(made, targets=[target], teacher=teacher)
        silent_frame = target is not None and not len(target.classes)
        expected = 0.0 if silent_frame and columns == 0 else weight  # nothing sounds there
        assert found.tolist() == [[expected]]


def test_only_the_query_that_agrees_with_the_teacher_gets_no_class_loss() -> None:
    made = prediction([0, 4, 6], [SURE, SURE, SURE])
    teacher = prediction([0, 4], [SURE, SURE])
    target = [sounding(0)]

    def loss(aware: bool) -> torch.Tensor:
        result = set_losses(
            [made],
            target,
            config=CONFIG,
            generator=torch.Generator().manual_seed(0),
            unmatched_weight=(
                (lambda one, _: silent_weight(one, targets=target, teacher=teacher))
                if aware
                else None
            ),
        )
        assert result.matches[0].queries.tolist() == [0]
        assert made.class_logits is not None
        (gradient,) = torch.autograd.grad(result.loss, made.class_logits)
        return gradient[0].abs().sum(dim=1) > 1e-6

    assert loss(aware=False).tolist() == [True, True, True]
    assert loss(aware=True).tolist() == [True, False, True]


def test_overlap_is_intersection_over_union() -> None:
    masks, others = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    masks[0, 0, :2], others[0, 0, 1:3] = 1.0, 1.0
    found = mask_overlap(masks > 0, others > 0)
    torch.testing.assert_close(found, torch.tensor([[[1 / 3, 0.0], [0.0, 0.0]]]))


def test_the_teacher_starts_as_the_student_and_follows_slowly() -> None:
    model = tiny()
    teacher, student = Teacher(decay=0.5), model.objects
    maps = [torch.randn(1, c, 16 >> i, 16 >> i) for i, c in enumerate(model.backbone.channels)]
    first = teacher.look(student, maps)
    assert torch.equal(first.masks, student(maps, every_layer=False)[-1].masks)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    assert torch.equal(teacher.look(student, maps).masks, first.masks)
    assert teacher.network is not None
    weight, goal = teacher.network.queries.content, student.queries.content
    gaps = [float((goal - weight).abs().max().detach())]
    for _ in range(10):
        teacher.follow(student)
        gaps.append(float((goal - weight).abs().max().detach()))
    assert gaps[1] == pytest.approx(0.1 * gaps[0], rel=1e-4)  # the first steps go fast
    assert gaps[-1] / gaps[-2] == pytest.approx(0.5, rel=0.05)


def test_the_teacher_is_neither_trained_nor_among_the_weights_and_follows_a_step() -> None:
    model, (x, truth) = tiny(), two_objects()
    names = set(model.state_dict())
    before = model.training_state()
    losses = total_loss(model, model(x), truth, config=LossConfig())
    losses["loss"].backward()
    assert model.teacher is not None
    assert model.teacher.num_steps == 0  # a step may have several parts
    model.after_step()
    assert before == {}
    assert set(model.state_dict()) == names
    assert model.teacher.network is not None
    assert not any(
        p.requires_grad or p.grad is not None for p in model.teacher.network.parameters()
    )
    assert model.teacher.num_steps == 1

    other = tiny(seed=1)
    other.load_training_state(model.training_state())
    assert other.teacher is not None
    assert other.teacher.num_steps == 1
    for name, value in model.training_state().items():
        assert torch.equal(other.training_state()[name], value), name


def test_the_plain_objective_has_no_teacher() -> None:
    model, (x, truth) = tiny(silent_object_aware=False), two_objects()
    output = model(x)
    total_loss(model, output, truth, config=LossConfig())
    assert model.teacher is None
    assert output.objects is not None
    assert output.objects.teacher is None
    assert model.training_state() == {}
    model.load_training_state({})


@torch.no_grad()
def test_inference_asks_no_teacher() -> None:
    model, (x, _) = tiny().eval(), two_objects()
    output = model(x)
    assert output.objects is not None
    assert output.objects.teacher is None
    assert model.training_state() == {}
