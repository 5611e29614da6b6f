"""Small files of generated images in the formats that the data sets are published in."""

from __future__ import annotations

import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets

from robust_cli.datasets.cifar import Cifar10
from robust_cli.datasets.stored import Stored

RNG = np.random.default_rng(0)


def idx(array: np.ndarray) -> bytes:
    """The IDX format of LeCun's files."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_mnist(root: Path, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    written = {}
    for split, prefix, count in (("train", "train", 12), ("test", "t10k", 7)):
        images, labels = RNG.integers(0, 256, (count, 28, 28)), RNG.integers(0, 10, count)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))
        written[split] = images[:, None], labels
    return written


def write_cifar(root: Path, kind: type[Stored], monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Small batches of the published format; torchvision's table of checksums is made to fit them."""
    reader: Any = getattr(torchvision.datasets, kind.torchvision_name)
    key = "labels" if kind is Cifar10 else "fine_labels"
    folder, written = root / reader.base_folder, {}
    folder.mkdir(parents=True)

    def store(file: str, content: dict[str, Any]) -> str:
        data = pickle.dumps(content)
        (folder / file).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    for split, attribute in (("train", "train_list"), ("test", "test_list")):
        table, images, labels = [], [], []
        for file, _ in getattr(reader, attribute):
            images.append(RNG.integers(0, 256, (4, 3072), dtype=np.uint8))
            labels.append(RNG.integers(0, len(kind.class_names), 4))
            table.append([file, store(file, {"data": images[-1], key: labels[-1].tolist()})])
        monkeypatch.setattr(reader, attribute, table)
        written[split] = np.concatenate(images).reshape(-1, 3, 32, 32), np.concatenate(labels)
    meta = {**reader.meta, "md5": store(reader.meta["filename"], {reader.meta["key"]: list(kind.class_names)})}
    monkeypatch.setattr(reader, "meta", meta)
    return written
