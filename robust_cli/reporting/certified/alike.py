"""Whether certifications are of the same images: runs of others, shards of one run, files of a data set that nobody knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import robust_cli
from robust_cli.messages import suggestion
from robust_cli.reporting.reading.load import Certified
from robust_cli.runs.folder import shown

_ONE_RUN = ("model_fingerprint", "dataset", "subset", "seed", "noise", "noise_std", "smoothing", "sampling", "samples",
            "selection_samples", "failure_probability", "precision")
_NAMED = 3
Images = frozenset[int]


def warnings(runs: Sequence[Certified]) -> list[str]:
    """Sentences on runs that are not of the same images, whatever their subsets are called."""
    shards, told = _shards(runs), []
    among_shards = {id(run) for group in shards for run in group}
    for dataset in dict.fromkeys(str(run.about["dataset"]) for run in runs if run.about.get("dataset") is not None):
        groups = [[run] for run in runs if run.about.get("dataset") == dataset and id(run) not in among_shards]
        groups += [group for group in shards if group[0].about.get("dataset") == dataset]
        images: dict[Images, list[str]] = {}
        for group in groups:
            named = images.setdefault(frozenset(index for run in group for index in run.table["index"].tolist()), [])
            named += [run.folder.path.name for run in group]
        if len(images) > 1:
            sizes = sorted((f"{_several(names)} ({len(of)} images)" for of, names in images.items()))
            told.append(f"{dataset}: certified on different images, {', '.join(sizes)}; compare them by the paired differences.")
    return [*told, *map(_to_merge, shards), *_unknown(runs)]


def _several(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + f" and {rest} more" * (rest > 0)


def _shards(runs: Sequence[Certified]) -> list[list[Certified]]:
    """Shards of one run, each once, where there are several of it."""
    groups: dict[tuple[str, ...], dict[str, Certified]] = {}
    for run in runs:
        if shard := run.about.get("shard"):
            key = (str(shard).split("/")[-1], *(str(run.about.get(name)) for name in _ONE_RUN), *run.names)
            groups.setdefault(key, {}).setdefault(str(shard), run)
    return [[group[shard] for shard in sorted(group, key=_number)] for group in groups.values() if len(group) > 1]


def _number(shard: str) -> int:
    return int(shard.split("/")[0])


def _to_merge(group: Sequence[Certified]) -> str:
    of = int(str(group[0].about["shard"]).split("/")[1])
    absent = sorted(set(range(1, of + 1)) - {_number(str(run.about["shard"])) for run in group})
    paths = " ".join(str(shown(run.folder.path)) for run in group)
    if absent:
        lacking = ", ".join(f"{k}/{of}" for k in absent)
        return f"{len(group)} shards of one run are here, {lacking} missing: with them, robust merge {paths} ... makes it whole."
    return f"{of} shards of one run: make it whole first, robust merge {paths}"


def _unknown(runs: Sequence[Certified]) -> list[str]:
    known = {path.stem for path in _conf().glob("dataset/*.yaml")}
    known |= {str(run.about.get("dataset")) for run in runs if not run.about.get("published")}
    return [f"{run.folder.path.name}: its data set {of!r} is none of ours, nor that of a run here "
            f"({suggestion(str(of), known)}); it is paired with nothing of ours." for run in runs
            if run.about.get("published") and (of := run.about.get("dataset")) is not None and of not in known]


def _conf() -> Path:
    """The shipped conf: inside the package when it was installed from a wheel, beside it in an editable install."""
    package = Path(robust_cli.__file__).resolve().parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"
