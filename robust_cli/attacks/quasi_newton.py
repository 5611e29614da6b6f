"""The direction of L-BFGS for a batch of images at once, in those pixels that are free to move.

Symbols -> words: g -> gradient; s_k, y_k -> moves, turns (changes of the point and of the gradient), S, Y all of an image's;
gamma -> 1 / curvature; R -> upper (s_i.y_j, i <= j); D -> diagonal; R^-1 S g -> first.
"""

from __future__ import annotations

import torch

_USABLE = 1e-6  # least cosine between a move and its turn: below, float32 cannot tell whether the objective curves upward


def direction(gradient: torch.Tensor, free: torch.Tensor, moves: torch.Tensor, turns: torch.Tensor,
              curvature: float) -> torch.Tensor:
    """-H g, [n, d], H the inverse Hessian that BFGS builds from identity / ``curvature`` and the pairs, oldest first.

    gradient [n, d]; free bool [n, d]: only these pixels count and move, as in the two-metric projection of Bertsekas 1982; moves,
    turns [n, m, d], each pair up to a common scale, in which H does not change. Pairs that do not curve upward within the free
    pixels are left out, image by image. Where -H g does not lead down, it is -g / curvature. Source: Byrd, Nocedal, Schnabel
    1994, Theorem 2.2: the compact form, a few products of [m, d] matrices instead of 2 m small steps.
    """
    g = gradient * free
    moves, turns = moves * free[:, None], turns * free[:, None]
    products = moves @ turns.mT
    along = products.diagonal(dim1=1, dim2=2)
    usable = along > _USABLE * moves.norm(dim=2) * turns.norm(dim=2)
    kept = usable[..., None].to(g.dtype)
    moves, turns, diagonal = moves * kept, turns * kept, along * usable
    upper = (products * kept * kept.mT).triu() + torch.diag_embed(1 - kept[..., 0])  # identity where a pair is left out
    first = torch.linalg.solve_triangular(upper, moves @ g[..., None], upper=True)
    turned = (turns.mT @ first)[..., 0] - g
    right = diagonal[..., None] * first + turns @ turned[..., None] / curvature
    second = torch.linalg.solve_triangular(upper.mT, right, upper=False)
    found = (turned / curvature - (moves.mT @ second)[..., 0]) * free
    descends = (found * g).sum(1) < -1e-6 * found.norm(dim=1) * g.norm(dim=1)  # false where a number is none
    return torch.where(descends[:, None], found, -g / curvature)
