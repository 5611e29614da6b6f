"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017): 60000 training and 10000 test images, 28x28, grey.

The default mean 0.5 and standard deviation 1 are AMR's (ICLR 2020 submission).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from robust_cli.datasets.dataset import MNIST_BUDGETS
from robust_cli.datasets.stored import Stored

_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True, kw_only=True)
class Mnist(Stored):
    """Handwritten digits. Files: ROOT/MNIST/raw/train-images-idx3-ubyte and its three neighbours, unpacked."""

    title = "MNIST"
    torchvision_name = "MNIST"
    files = tuple(f"MNIST/raw/{file}" for file in _FILES)
    shape = (1, 28, 28)
    class_names = tuple("0123456789")
    budgets = MNIST_BUDGETS

    mean: list[float] = field(default_factory=lambda: [0.5])
    std: list[float] = field(default_factory=lambda: [1.0])


@dataclass(frozen=True, kw_only=True)
class FashionMnist(Stored):
    """Articles of clothing. Files: ROOT/FashionMNIST/raw/train-images-idx3-ubyte and its three neighbours, unpacked."""

    title = "Fashion-MNIST"
    torchvision_name = "FashionMNIST"
    files = tuple(f"FashionMNIST/raw/{file}" for file in _FILES)
    shape = (1, 28, 28)
    class_names = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
    budgets = MNIST_BUDGETS

    mean: list[float] = field(default_factory=lambda: [0.5])
    std: list[float] = field(default_factory=lambda: [1.0])
