"""What is proven and what attacks reach, of one classifier, smoothed or the network itself, in one picture."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robust_cli.reporting.attacked.figures import draw_robust
from robust_cli.reporting.certified.figures import draw_certified, end_of
from robust_cli.reporting.figures import UNITS, apart, drawn_figure
from robust_cli.reporting.lines.line import Line
from robust_cli.reporting.reading.load import Attacked, Certified


def combined_figure(certificates: Sequence[Line[Certified]], attacks: Sequence[Line[Attacked]]) -> Figure:
    """What is proven (from below) and what attacks reach (from above) for one classifier in one norm; claims are
    dashed."""
    looks = apart([*certificates, *attacks])

    def draw(axes: Axes) -> None:
        ends = [t["budget"].max() for line in attacks for t in line.tables]
        end = max(end_of([t for line in certificates for t in line.tables], []), 1.04 * max(ends))
        for k, proof in enumerate(certificates):
            draw_certified(axes, proof, looks[k], end, f"{'claimed' if proof.is_claim else 'certified'}: {proof.title}")
        for k, attack in enumerate(attacks, len(certificates)):
            draw_robust(axes, attack, looks[k], f"attacked: {attack.title}")
        axes.set_xlim(0, end)

    return drawn_figure(draw, f"{certificates[0].norm} radius or budget ({UNITS})", "accuracy (%)")
