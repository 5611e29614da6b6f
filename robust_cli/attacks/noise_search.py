"""The smallest noise that fools: Gaussian or uniform, over a scan of sizes.

Symbols -> words: epsilon -> size; sigma of the noise -> standard deviation, size / sqrt(3), or width, size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from robust_cli.attacks.classifiers import Classifier
from robust_cli.attacks.closest import Closest
from robust_cli.attacks.losses import fooled
from robust_cli.attacks.minimal_size import scan
from robust_cli.attacks.norms import Norm
from robust_cli.messages import check
from robust_cli.smoothing.noise import ImageDraws

KINDS = ("gaussian", "uniform")


@dataclass(frozen=True)
class NoiseSearch:
    """clip(x + noise) at the first of ``sizes`` equal steps up to ``largest`` whose noise fools, fresh noise at each.

    uniform: on [-size, size] in every pixel; gaussian: of the same standard deviation, size / sqrt(3). Source: AMR (ICLR 2020
    submission), Table 3 ("AGA", "AUA"), as foolbox meant its attacks by additive noise: 1000 sizes in (0, 1]. What it ran was
    another noise, for it multiplied by the size twice: standard deviation size^2 / sqrt(3), half-width size^2. With
    ``foolbox_quirk`` so does this, to be set beside numbers made that way; the distance is that of the image found either way.

    There is one noise of each size, so the first that fools is a matter of luck, and far from the nearest example. An image's
    noises do not depend on the batch.
    """

    kind: str = "gaussian"
    sizes: int = 1000
    largest: float = 1.0
    foolbox_quirk: bool = False
    closest: ClassVar[bool] = True
    by_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self.kind in KINDS, "kind", " or ".join(KINDS), self.kind)
        check(self.sizes >= 1, "sizes", "a whole number >= 1", self.sizes)
        check(0 < self.largest < math.inf, "largest", "a number > 0", self.largest)

    @property
    def norm(self) -> str:
        """What its distance is measured in: l2 for Gaussian noise, linf for uniform."""
        return Norm.l2 if self.kind == "gaussian" else Norm.linf

    def scale(self, position: int) -> float:
        """The standard deviation (gaussian) or half-width (uniform) of the noise at a position of the scan, from 0."""
        size = (position + 1) * self.largest / self.sizes
        return (size * size if self.foolbox_quirk else size) * (1 / math.sqrt(3) if self.kind == "gaussian" else 1)

    def __call__(self, classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """First adversarial images found, float32 [n, C, H, W] in [0, 1]; the image itself where there is none."""
        network, best = classifier.network, Closest(images, self.norm)
        logits = network.logits(images)
        best.offer(images, fooled(logits, labels))
        rows = (~best.found & logits.isfinite().all(1)).nonzero().flatten()

        def candidates(rows: torch.Tensor, positions: range) -> torch.Tensor:
            own, shape = draws.select(rows.tolist()), images.shape[1:]
            noise = [self.scale(k) * (own.normal(*shape) if self.kind == "gaussian" else 2 * own.uniform(*shape) - 1)
                     for k in positions]  # a draw for each size, so that how many go in one pass changes nothing
            return (images[rows][:, None] + torch.stack(noise, 1)).clamp_(0, 1)

        scan(network, labels, best, rows, self.sizes, candidates)
        return best.images
