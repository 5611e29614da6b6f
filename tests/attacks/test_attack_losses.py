"""The losses that attacks raise, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from robust_cli.attacks.losses import LOSSES, Toward, difference_of_logits_ratio, lead
from robust_cli.messages import Wrong

LOGITS = torch.tensor([[3.0, 1.0, 0.5, -1.0], [0.0, 4.0, 1.0, 2.0]])


def test_ratio_by_hand() -> None:
    """Label 0 of the first leads by 2, spread 3 - 0.5; label 3 of the second trails by 2, spread 4 - 1."""
    found = difference_of_logits_ratio(LOGITS, torch.tensor([0, 3]))
    torch.testing.assert_close(found, torch.tensor([-2 / 2.5, 2 / 3]))
    assert lead(LOGITS, torch.tensor([0, 3])).tolist() == [-2.0, 2.0]


def test_ratio_does_not_change_with_scale_or_shift_and_its_gradient_survives_saturation() -> None:
    logits, labels = 5 * torch.randn(50, 10, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 10
    found = difference_of_logits_ratio(logits, labels)
    torch.testing.assert_close(difference_of_logits_ratio(1e4 * logits + 7, labels), found, rtol=1e-4, atol=1e-4)
    assert float(found.min()) >= -1
    assert torch.equal(found > 0, logits.argmax(1) != labels)
    huge = (1e4 * LOGITS).requires_grad_()
    (gradient,) = torch.autograd.grad(LOSSES["cross_entropy"](huge, torch.tensor([0, 1])).sum(), huge)
    assert float(gradient.abs().max()) == 0  # what the ratio is for
    (gradient,) = torch.autograd.grad(difference_of_logits_ratio(huge, torch.tensor([0, 1])).sum(), huge)
    assert float((1e4 * gradient).abs().amax(1).min()) > 0.1


def test_targeted_forms_by_hand() -> None:
    labels, targets = torch.tensor([0, 3]), torch.tensor([2, 1])
    ratio = Toward(targets, "difference_of_logits_ratio")(LOGITS, labels)
    torch.testing.assert_close(ratio, torch.tensor([(0.5 - 3) / (3 - (0.5 - 1) / 2), (4.0 - 2) / (4 - 0.5)]))
    torch.testing.assert_close(Toward(targets, "cross_entropy")(LOGITS, labels), LOGITS.log_softmax(1)[[0, 1], targets])
    torch.testing.assert_close(Toward(targets, "margin")(LOGITS, labels), torch.tensor([-52.5, -48.0]))


@pytest.mark.parametrize("name", list(LOSSES))
def test_targeted_forms_take_an_images_draws_together(name: str) -> None:
    """Logits of two images, three draws each, image by image as a smoothed classifier passes them."""
    labels, targets = torch.tensor([0, 3]), torch.tensor([2, 1])
    several = Toward(targets, name)(LOGITS.repeat_interleave(3, 0), labels.repeat_interleave(3))
    torch.testing.assert_close(several, Toward(targets, name)(LOGITS, labels).repeat_interleave(3))


def test_ratio_with_equal_logits_is_finite_and_few_classes_are_refused() -> None:
    assert difference_of_logits_ratio(torch.zeros(1, 5), torch.tensor([1])).tolist() == [0.0]
    with pytest.raises(Wrong, match="less than 3 classes"):
        difference_of_logits_ratio(torch.zeros(1, 2), torch.tensor([0]))
    with pytest.raises(Wrong, match="less than 4 classes"):
        Toward(torch.tensor([1]), "difference_of_logits_ratio")(torch.zeros(1, 3), torch.tensor([0]))
