"""Names of run folders, made of what was chosen: letters, digits and ``. _ + -`` only, so that ``run=<folder>`` can be typed."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any

PARTS = ("dataset", "model", "regime")
_LONGEST = 80


def safe(text: str) -> str:
    """The text without brackets and quotes, with + for commas and _ for anything else that a shell or Hydra would read."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", re.sub(r"""[\[\]{}'" ]""", "", text).replace(",", "+")).strip("._") or "none"


def chosen(choices: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """What a run is called by dataset, model and regime: the group's choice, or the class's name where there is none."""
    found = {}
    for part in PARTS:
        node = config.get(part)
        target = str(node.get("_target_", "none")) if isinstance(node, Mapping) else "none"
        found[part] = safe(str(choices.get(part) or target).rsplit("/")[-1].rsplit(".")[-1])[:_LONGEST // 2]
    return found


def job_name(number: int | str, overrides: str) -> str:
    """A sweep's job by what is swept ('noise_std_0.25', 'regime_stability_seed_1'); its number when nothing is.

    ``overrides`` is Hydra's override_dirname with ``;;`` between the items. The last word of a key serves unless two keys
    share it. Long names and values that are paths end in a checksum, not in the number, so that the same job of a larger
    sweep keeps its name.
    """
    items = [item.partition("=")[::2] for item in str(overrides).split(";;") if item]
    if not items:
        return str(number)
    last = [key.lstrip("+~").rsplit(".", 1)[-1] for key, _ in items]
    words = []
    for (key, value), word in zip(items, last, strict=True):
        words.append(safe(word if last.count(word) == 1 else key.lstrip("+~")) + "_" + _value(key, value))
    name = "_".join(words)
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}_{_checksum(name)}"


def _value(key: str, text: str) -> str:
    bare = text.strip("'\"").rstrip("/")
    if key == "shard":
        return safe(bare.replace("/", "of"))
    return f"{safe(bare.rsplit('/', 1)[-1])}_{_checksum(bare)}" if "/" in bare else safe(bare)


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
