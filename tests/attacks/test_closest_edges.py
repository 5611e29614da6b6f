"""Closest examples where shortcuts meet their limits: on the boundary, at dead ends, with slopes next to nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toy_victims import CLOSEST, PIXELS, Halfspace, answers, attacked, grey

from robust_cli.attacks.deepfool import DeepFool, boxed
from robust_cli.attacks.geometry import distances


@pytest.mark.parametrize("name", ["deepfool", "fmn_l2", "fmn_linf"])
@pytest.mark.parametrize("lead", [0.0, 1e-7, 1e-5])
def test_an_image_next_to_the_boundary_or_on_it(name: str, lead: float) -> None:
    """No way, or one that rounds away in shares: something has to be gone all the same."""
    weight = torch.ones(PIXELS)
    weight[::2] = -1
    model = Halfspace(weight, bias=-lead)
    found = attacked(CLOSEST[name], model, grey(2), torch.zeros(2).long())
    assert (answers(model, found) == 1).all()
    assert (distances(found, grey(2), "l2") < 1e-3).all()


class DeadEnd(nn.Module):
    """The face of class 1 seems nearest, and its slope ends before it is reached; that of class 2 can be reached."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first, second = (images.flatten(1)[:, :2] - 0.5).unbind(1)
        return torch.stack([torch.ones_like(first), 4 * first.clamp(max=0.15), 3 * second], 1)


def test_deepfool_turns_to_another_face_where_the_nearest_is_out_of_reach() -> None:
    assert answers(DeadEnd(), attacked(DeepFool(), DeadEnd(), grey(2), torch.zeros(2).long())).tolist() == [2, 2]


def test_pixels_without_a_slope_do_not_move() -> None:
    """Nor become no numbers, where the slopes of the rest are too small for the gain."""
    slope = torch.tensor([1.0, 1e-21, 0, 0]).view(1, 1, 1, 4)
    ends = boxed(torch.full_like(slope, 0.5), slope, torch.tensor([0.9]))
    assert ends.flatten().tolist() == [1, 1, 0.5, 0.5]
