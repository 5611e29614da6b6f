"""The gradient of the label's log probability in the image, with a graph of its own: what double backpropagation starts from.

Symbols (SGR, Roth et al. 2018) -> words: phi_y(x) -> the label's softmax probability; grad_x log phi_y -> the input gradient.
"""

from __future__ import annotations

import torch

from robust_cli.messages import UserError


def log_probability_gradient(model: torch.nn.Module, images: torch.Tensor,
                             labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log phi_y [n] and grad_x log phi_y [n, C, H, W] of each image, x in pixel units; one pass forward, one back.

    Both can be differentiated in the model's parameters where gradients are on; under ``torch.no_grad()`` (validation) they
    are numbers. Each gradient is of its own image's log probability and not of a mean, which would be n times smaller; with batch
    normalisation in training it holds what the image does to the others of the batch too, as the batch's statistics join them.
    Raises UserError for a compiled model, which cannot be differentiated twice.
    """
    if hasattr(model, "_orig_mod"):
        raise UserError("training.compile=true: expected a model that can be differentiated twice, which a compiled one cannot; "
                        "set training.compile=false")
    twice = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = images.detach().requires_grad_()
        logits = model(inputs)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        found = logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
        (gradient,) = torch.autograd.grad(found.sum(), inputs, create_graph=twice, materialize_grads=True)
    return (found, gradient) if twice else (found.detach(), gradient)
