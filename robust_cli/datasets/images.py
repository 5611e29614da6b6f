"""Labelled images as every room sees them: bytes (or floats in [0, 1]) with the index each has in its data set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch

from robust_cli.messages import UserError


@dataclass(frozen=True)
class Images:
    """A split of a data set, or a named subset of it.

    pixels: uint8 [N, C, H, W] (0..255), or float32 in [0, 1]; labels: int64 [N]; indices: int64 [N], each image's index in
    the data set's split, >= 0, each once. Raises UserError on pixels outside [0, 1], indices that repeat, or shapes that
    do not agree.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    class_names: tuple[str, ...]
    subset: str = "all"

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or not len(self.pixels) == len(self.labels) == len(self.indices):
            raise UserError(f"images: expected [N, channels, height, width] with N labels and indices, got pixels "
                            f"{list(self.pixels.shape)}, {len(self.labels)} labels, {len(self.indices)} indices")
        if len(self.indices) and (len(self.indices.unique()) < len(self.indices) or int(self.indices.min()) < 0):
            raise UserError("images: expected an index >= 0 of its own for each image, which keys its noise, found "
                            f"{len(self.indices.unique())} different ones of {len(self.indices)} images, the smallest "
                            f"{int(self.indices.min())}")
        if self.pixels.dtype != torch.uint8 and len(self.pixels):
            low, high = float(self.pixels.min()), float(self.pixels.max())
            if not (low >= 0 and high <= 1):  # also catches NaN
                raise UserError(f"images: expected values in [0, 1], found {low:g} to {high:g}; "
                                "divide them by their range where the data set is made")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def to(self, device: torch.device | str) -> Images:
        """The same images, resident on a device."""
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device), indices=self.indices.to(device))

    def float(self, positions: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """The images at some positions as float32 in [0, 1], [n, C, H, W]."""
        chosen = self.pixels[positions]
        return chosen.float() / 255 if chosen.dtype == torch.uint8 else chosen.float()

    def select(self, positions: torch.Tensor, subset: str) -> Images:
        """The images at some positions, as a subset with a name."""
        positions = positions.to(self.pixels.device)
        return replace(self, pixels=self.pixels[positions], labels=self.labels[positions], indices=self.indices[positions],
                       subset=subset)

    def checksum(self) -> str:
        """SHA-256 over pixels, labels and indices, for the record of a run."""
        digest = hashlib.sha256()
        for part in (self.pixels, self.labels, self.indices):
            digest.update(part.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()
