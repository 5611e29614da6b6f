"""What decision-based attacks share: the answers they may see, where they start, and the way back to the boundary.

Such an attack sees only which class is answered. An image is adversarial where another class leads beyond chance
(`Classifier.lead` > `Classifier.doubt`, which is 0 where there is no chance). The answers of a smoothed classifier next to its
boundary are random: one of them moves a search, two fresh ones in a row make an example that is kept.
"""

from __future__ import annotations

import torch

from robust_cli.attacks.classifiers import Classifier
from robust_cli.attacks.closest import Closest
from robust_cli.attacks.geometry import per_image, size
from robust_cli.attacks.norms import Norm
from robust_cli.smoothing.noise import ImageDraws

BLENDS = (1.0, 0.75, 0.5, 0.25)  # shares of the noise in a start
START_HALVINGS = 10


class Answers:
    """A classifier's answers to variants of some images. ``rows``, int64 [m]: whose variants they are, ascending."""

    def __init__(self, classifier: Classifier, labels: torch.Tensor, draws: ImageDraws) -> None:
        self.random, self.noise_std = classifier.random, classifier.noise_std
        self._classifier, self._labels, self._draws = classifier, labels, draws

    def adversarial(self, points: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Whether another class than the label is answered, bool [m]: one query for each point [m, C, H, W]."""
        lead = self._classifier.lead(points, self._labels[rows], self._of(rows))
        return lead > self._classifier.doubt

    def confirmed(self, points: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The same, but a random classifier has to say it twice."""
        said = self.adversarial(points, rows)
        again = said.nonzero().flatten()
        if self.random and len(again):
            said[again] = self.adversarial(points[again], rows[again])
        return said

    def normal(self, rows: torch.Tensor, *shape: int) -> torch.Tensor:
        """Standard normal draws [m, *shape] from the images' own streams."""
        return self._of(rows).normal(*shape)

    def uniform(self, rows: torch.Tensor, *shape: int) -> torch.Tensor:
        """Uniform draws in [0, 1), [m, *shape], from the images' own streams."""
        return self._of(rows).uniform(*shape)

    def _of(self, rows: torch.Tensor) -> ImageDraws:
        return self._draws.select(rows.tolist())


def between(images: torch.Tensor, points: torch.Tensor, share: torch.Tensor, norm: str) -> torch.Tensor:
    """Points brought nearer to their images, to ``share`` [n] in [0, 1] of their distance: along the line, which is the nearest
    in l2, or for linf by cutting off what goes further."""
    step = points - images
    if Norm(norm) is Norm.linf:
        most = per_image(share * size(step, norm))
        return (images + torch.minimum(torch.maximum(step, -most), most)).clamp(0, 1)
    return (images + per_image(share) * step).clamp(0, 1)


def halve(answers: Answers, images: torch.Tensor, points: torch.Tensor, rows: torch.Tensor, norm: str,
          halvings: int) -> torch.Tensor:
    """Adversarial points [m, C, H, W] brought toward their images to where the answer changes, a query for each halving.

    What comes back was answered as adversarial, or is the point itself. ``images`` [m, C, H, W] are those of the rows.
    """
    inside, outside, found = torch.zeros(len(rows), device=points.device), torch.ones(len(rows), device=points.device), points
    for _ in range(halvings):
        middle = (inside + outside) / 2
        candidates = between(images, points, middle, norm)
        adversarial = answers.adversarial(candidates, rows)
        found = torch.where(per_image(adversarial), candidates, found)
        inside, outside = torch.where(adversarial, inside, middle), torch.where(adversarial, middle, outside)
    return found


def first_examples(answers: Answers, images: torch.Tensor, norm: str, starts: int) -> Closest:
    """An adversarial image to start from for each image, where one is found: confirmed, and brought to the boundary.

    Images that are wrong already are their own. For the others blends with uniform noise, every second one rounded to black and
    white, ``starts`` drawings each at four shares, of which the nearest that is adversarial is taken: 4 starts + 12 queries.
    """
    best, everyone = Closest(images, norm), torch.arange(len(images), device=images.device)
    best.offer(images, answers.confirmed(images, everyone))
    rows = (~best.found).nonzero().flatten()
    for k in range(starts if len(rows) else 0):
        noise = answers.uniform(rows, *images.shape[1:])
        noise = noise.round() if k % 2 else noise
        for share in BLENDS:
            blend = images[rows] + share * (noise - images[rows])
            best.offer(blend.clamp(0, 1), answers.confirmed(blend.clamp(0, 1), rows), rows)
    rows = rows[best.found[rows]]
    if len(rows):
        nearer = halve(answers, images[rows], best.images[rows], rows, norm, START_HALVINGS)
        best.offer(nearer, answers.confirmed(nearer, rows), rows)
    return best
