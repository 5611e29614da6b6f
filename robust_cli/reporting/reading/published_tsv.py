"""The table that the field's analysis scripts read, one row an image: written for our certificates, read from anyone's.

Columns idx, label, predict, radius, correct, time, separated by tabs (Cohen et al. 2019). predict is -1 with radius 0.0 where the
classifier abstains; correct is 1 where predict is the label. Others write radii with a few digits, rounded to the nearest, so up
as often as down: what is read from such a file may stand above what was proven, and by how much is said. A file holds neither
noise nor number of draws nor failure probability: they are taken from the user or from FILE.json beside it, and never guessed.
Beside our own files such a FILE.json says all that a reader of the rows alone would get wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import ROUND_FLOOR, Context, Decimal, InvalidOperation
from pathlib import Path

import numpy as np
import pandas as pd

from robust_cli.messages import UserError
from robust_cli.reporting.reading.about import DETERMINISTIC
from robust_cli.reporting.reading.load import Certified, Runs, load
from robust_cli.reporting.reading.sidecar import Said, beside
from robust_cli.reporting.reading.sidecar import checked as checked
from robust_cli.reporting.reading.sidecar import write_sidecar as write_sidecar
from robust_cli.reporting.tables import radius as shown
from robust_cli.runs.folder import RunFolder

COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
_NEEDED = COLUMNS[:-1]
_FULL = 12  # significant digits from which rounding no longer matters
_EXACT = 18  # significant digits: a decimal cut off there is nearer to its float than to any other
CERTIFICATE = "published"
_ABOVE_ZERO = 1e-9  # of the noise in pixel units: the radius that stands for "more than 0"


def write_tsv(table: pd.DataFrame, path: Path, seconds: pd.Series | Mapping[int, float] | None = None) -> None:
    """Write one certificate's rows (columns index, label, predicted, radius) in their order.

    A radius is the shortest decimal that reads back as the same float; where that decimal lies above the float's exact value,
    one cut off below it: never rounded up. ``seconds``: the time of each row, a Series with the table's own row labels, or a
    mapping from image indices; 0 where there is none.
    """
    columns = (table[name].tolist() for name in ("index", "label", "predicted", "radius"))
    lines = ["\t".join(COLUMNS)]
    for index, label, predicted, radius, spent in zip(*columns, _seconds(table, seconds), strict=True):
        abstains = predicted < 0
        lines.append("\t".join(map(str, (int(index), int(label), -1 if abstains else int(predicted),
                                         "0.0" if abstains else not_above(float(radius)), int(predicted == label),
                                         timedelta(seconds=spent)))))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _seconds(table: pd.DataFrame, seconds: pd.Series | Mapping[int, float] | None) -> list[float]:
    if isinstance(seconds, pd.Series):
        return [float(s) for s in seconds.reindex(table.index).fillna(0.0)]
    return [float((seconds or {}).get(index, 0.0)) for index in table["index"].tolist()]


def not_above(radius: float) -> str:
    """A decimal text that reads back as this float and, as a real number, is not above it."""
    exact, shortest = Decimal(radius), repr(radius)
    if Decimal(shortest) <= exact:
        return shortest
    text = str(Context(prec=_EXACT, rounding=ROUND_FLOOR).plus(exact))
    assert float(text) == radius, "cut off after 18 digits it is the same float"
    return text


def read_tsv(path: Path, said: Said = Said()) -> Certified:
    """A published file as a run whose model is not known: it is drawn and compared, and checked against no attack.

    ``said`` fills what FILE.json beside it does not say. Raises UserError (one line, naming the file and the line in it) for a
    file without radii, a row that is cut off or makes no sense, an image twice, or where FILE.json contradicts ``said``.
    """
    said = beside(path, said)
    rows, texts = _rows(path)
    table = pd.DataFrame(rows, columns=["index", "label", "predicted", "radius"])
    twins = table[table.duplicated("index")]
    if len(twins):
        raise UserError(f"{path}: expected one row per image, found idx {twins['index'].iloc[0]} more than once; "
                        "take a whole copy")
    norm, ceiling, exact = said.norm or "l2", said.ceiling(), bool(said.deterministic)
    bounds, answers = (DETERMINISTIC, table["predicted"]) if exact else ("", np.nan)  # the network's class is what was proven of
    table = table.assign(certificate=CERTIFICATE, norm=norm, bounds=bounds, majority=answers, prediction=answers, draws=np.nan,
                         stopped="", label_aware=bool(said.label_aware), positive=not exact, p1_lower=np.nan, p2_upper=np.nan)
    remarks, doubts = _remarks(said, table["radius"].to_numpy(), texts)
    about = {"command": "published", "published": path.name, "dataset": said.dataset, "subset": path.name, "images": len(table),
             "noise_std": said.noise_std, "samples": said.samples, "failure_probability": said.failure_probability,
             "noise": said.noise, "sampling": {"name": said.sampling}, "comparable": said.comparable is not False,
             "label_aware": bool(said.label_aware), "radii": said.radii, "model_fingerprint": None,
             "remarks": [*remarks, *doubts], "doubts": doubts,
             "classifier": "base" if exact else "smoothed",
             "smoothing": {"layer": said.noise_layer, "operator_norm": said.operator_norm} if said.noise_layer else None,
             "certificates": {CERTIFICATE: {"norm": norm, "largest_radius": None if math.isnan(ceiling) else ceiling,
                                            "scores": said.scores or "votes", "bounds": bounds, "radius": said.radius,
                                            "cascade": said.cascade}}}
    return Certified(RunFolder(path), about, {"file": str(path)}, table)


def _rows(path: Path) -> tuple[list[tuple[int, int, int, float]], list[str]]:
    """(idx, label, predict, radius) of each row, and the radii as they are written."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected a text file with the columns {', '.join(_NEEDED)} ({error})") from error
    header = [name.strip() for name in lines[0].split("\t")] if lines else []
    missing = [name for name in _NEEDED if name not in header]
    if missing:
        why = "a file of predictions without radii certifies nothing" if missing == ["radius"] else f"{missing[0]} missing"
        raise UserError(f"{path}: is a file; expected run folders, or a TSV file with the columns {', '.join(_NEEDED)}, found "
                        f"{', '.join(header)[:80] or 'nothing'} ({why})")
    rows, texts = [], []
    for number, line in enumerate(lines[1:], 2):
        if line.strip():
            where, values = f"{path}, line {number}", [value.strip() for value in line.split("\t")]
            if len(values) != len(header):
                raise UserError(f"{where}: expected {len(header)} values, found {len(values)}; the file is damaged or cut off")
            cells = dict(zip(header, values, strict=True))
            rows.append(_row(cells, where))
            texts.append(cells["radius"])
    if not rows:
        raise UserError(f"{path}: expected a row per image, found none; the file was cut off")
    return rows, texts


def _row(cells: dict[str, str], where: str) -> tuple[int, int, int, float]:
    try:
        index, label, predict, correct = (int(cells[name]) for name in ("idx", "label", "predict", "correct"))
        radius = float(cells["radius"])
    except ValueError as error:
        raise UserError(f"{where}: expected whole numbers and a radius ({error}); the file is damaged") from error
    if not (0 <= radius < math.inf) or index < 0 or predict < -1:
        raise UserError(f"{where}: expected idx >= 0, predict >= -1 and a finite radius >= 0, found {index}, {predict} and "
                        f"{radius:g}; the file is damaged")
    if correct != (predict == label):
        raise UserError(f"{where}: expected correct 1 exactly where predict is the label, found predict {predict}, label "
                        f"{label}, correct {correct}; the file is damaged")
    if predict == -1 and radius > 0:
        raise UserError(f"{where}: expected radius 0 where predict is -1 (abstains), found {radius:g}; the file is damaged")
    return index, label, predict, radius


def _remarks(said: Said, radii: np.ndarray, texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """What a reader has to know of these radii, and what makes them doubtful."""
    found, rounding = [], 0.0 if said.exact else may_exceed(texts)
    if rounding:
        found.append(f"published radii carry {digits(texts)} digits and may be rounded up by as much as {rounding:.2g}.")
    unknown = [name for name in ("noise_std", "samples", "failure_probability") if getattr(said, name) is None]
    if said.deterministic:
        found.append("exact, no sampling; the model is not known: no cross-check.")
    elif unknown:
        found.append(f"{', '.join(unknown)} unknown: no ceiling, no cross-check.")
    else:
        found.append("the model is not known: no cross-check.")
    above, bound = said.ceiling(), " by the two-class bound" * (said.largest_radius is None)
    doubts = [f"holds a radius of {radii.max():g}, above the {shown(above)} that {said.samples} unanimous votes prove{bound}: "
              "either these settings are not its own, or its radii do not hold."
              ] * bool(radii.max() > above * (1 + 1e-9) + rounding + _ABOVE_ZERO * np.nan_to_num(said.pixel_noise()))
    return [*found, *["data set not said: not paired."] * (said.dataset is None)], doubts


def _written(texts: Sequence[str]) -> list[Decimal]:
    try:
        return [value for text in texts if (value := Decimal(text))]
    except InvalidOperation:  # float() reads a little more than Decimal does
        return [value for text in texts if (value := Decimal(repr(float(text))))]


def digits(texts: Sequence[str]) -> int:
    """The largest number of significant digits among the radii above 0; 0 where there is none."""
    return max((len(value.as_tuple().digits) for value in _written(texts)), default=0)


def may_exceed(texts: Sequence[str]) -> float:
    """By how much a written radius may lie above the one that was computed: half a unit of its last digit; 0 for full floats.

    Trailing zeros are often not written, so the last digit is that of a radius with the most digits among all: as significant
    digits or as decimals, whichever is coarser.
    """
    values, most = _written(texts), digits(texts)
    if not values or most >= _FULL:
        return 0.0
    decimals = max(max(-int(value.as_tuple().exponent), 0) for value in values)
    largest = max(value.adjusted() for value in values)
    return 0.5 * max(10.0 ** -decimals, 10.0 ** (largest - most + 1))


def read_sources(paths: Sequence[Path | str], said: Said = Said()) -> Runs:
    """Run folders and published files together. Raises UserError as `load` and `read_tsv` do, and for ``said`` of nothing."""
    files = {path.resolve(): path for path in map(Path, paths) if path.is_file()}
    folders = [path for path in map(Path, paths) if not path.is_file()]
    if said != Said() and not files:
        raise UserError("report: --tsv-... says what FILE.tsv does not, but no file is named; name it, or leave the option out")
    runs = load(folders) if folders else Runs()
    runs.certified.extend(read_tsv(path, said) for path in files.values())
    return runs
