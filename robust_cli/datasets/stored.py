"""Data sets kept as files on the user's disk, read and fetched through torchvision."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import os
import pickle
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

import torch

from robust_cli.datasets.dataset import Dataset
from robust_cli.datasets.images import Images
from robust_cli.messages import UserError, check

# What torchvision's readers raise on files that are cut off, garbled or another format, and its downloads on no network.
_UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, AssertionError, KeyError, IndexError, EOFError, AttributeError,
               ImportError, pickle.UnpicklingError)


@dataclass(frozen=True, kw_only=True)
class Stored(Dataset):
    """A data set of torchvision's. root: the folder that holds ``files`` (see `root_folder`); download: fetch them."""

    title: ClassVar[str]
    torchvision_name: ClassVar[str]
    files: ClassVar[tuple[str, ...]]

    root: str | None = None
    download: bool = False

    def split(self, name: Literal["train", "test"]) -> Images:
        """The published training or test images, uint8 [N, C, H, W], in the files' order.

        Raises UserError when the files are missing, damaged or cannot be fetched, or torchvision does not work.
        """
        check(name in ("train", "test"), "split", "train or test", name)
        folder = root_folder(self.root)
        if not self.download:
            self._require_files(folder)
        files = folder / self.files[0]
        absent = [path for path in files.parents if not path.exists()]  # a download makes them
        reader = getattr(_torchvision_datasets(), self.torchvision_name)
        try:
            with _progress_on_terminals_only():
                found = reader(str(folder), train=name == "train", download=self.download)
            return self._images(found)
        except _UNREADABLE as error:
            _remove_empty(absent)
            raise self._unreadable(folder, error) from error

    def _missing(self, folder: Path) -> list[str]:
        return [file for file in self.files if not (folder / file).is_file()]

    def _require_files(self, folder: Path) -> None:
        if missing := self._missing(folder):
            raise UserError(f"{self.title}: not found in {folder} ({missing[0]} is not there); say where it is with "
                            "dataset.root=FOLDER or the environment variable ROBUST_DATA, or fetch it with "
                            "dataset.download=true")

    def _images(self, found: Any) -> Images:
        """torchvision's arrays as Images. Raises ValueError on what the files should not hold."""
        pixels, labels = torch.as_tensor(found.data), torch.as_tensor(found.targets, dtype=torch.int64)
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
        if tuple(pixels.shape[1:]) != self.shape or pixels.dtype != torch.uint8 or not len(pixels):
            raise ValueError(f"expected bytes [images, {', '.join(map(str, self.shape))}], "
                             f"found {pixels.dtype} {list(pixels.shape)}")
        if len(labels) != len(pixels):
            raise ValueError(f"expected a label for each image, found {len(labels)} labels for {len(pixels)} images")
        lowest, highest, classes = int(labels.min()), int(labels.max()), len(self.class_names)
        if lowest < 0 or highest >= classes:
            raise ValueError(f"expected labels 0 to {classes - 1}, found {lowest} to {highest}")
        return Images(pixels, labels, torch.arange(len(labels)), self.class_names)

    def _unreadable(self, folder: Path, error: BaseException) -> UserError:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if self.download and self._missing(folder):
            return UserError(f"{self.title}: could not be fetched into {folder}: {reason}; check the connection and that "
                             "the folder can be written to, or put the files there yourself")
        place = (folder / self.files[0]).parent
        return UserError(f"{self.title}: the files in {place} are damaged or of another format: {reason}; delete that "
                         "folder and fetch them again with dataset.download=true")


def _remove_empty(folders: Iterable[Path]) -> None:
    """Take away what a failed download made, the innermost first, as far as nothing is in it."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def root_folder(root: str | None) -> Path:
    """The folder of all stored data sets: ``root``, else $ROBUST_DATA, else ``robust`` in the user's cache folder."""
    named = root or os.environ.get("ROBUST_DATA")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(named) if named else Path(cache) / "robust"
    return folder.expanduser().absolute()


def _torchvision_datasets() -> ModuleType:
    """torchvision.datasets, imported only where it is needed: it takes seconds and fails where it does not fit torch."""
    try:
        return importlib.import_module("torchvision.datasets")
    except ModuleNotFoundError as error:
        raise UserError(f"torchvision is needed to read this data set and {error.name} is missing: "
                        "pip install torchvision") from error
    except (RuntimeError, ImportError, OSError, AttributeError) as error:  # such as 'operator torchvision::nms does not exist'
        try:
            version = importlib.metadata.version("torchvision")
        except importlib.metadata.PackageNotFoundError:
            version = "(of unknown version)"
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"torchvision {version} does not work with torch {torch.__version__} ({reason}); install two that belong "
                        "together, from one source: pip install --upgrade torch torchvision") from error


def _progress_on_terminals_only() -> contextlib.AbstractContextManager[object]:
    """torchvision draws its download's bar with control characters, which a log off a terminal must not have."""
    return contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
