"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50000 training and 10000 test images, 32x32, colour.

The default means and standard deviations are AMR's (ICLR 2020 submission). Its code divided the variance of the training
noise by the range of the standardised images, where it should have multiplied; here noise is in pixel units throughout.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from robust_cli.datasets.dataset import CIFAR_BUDGETS
from robust_cli.datasets.stored import Stored

_FILES_10 = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch", "batches.meta")
_CLASSES_100 = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle "
    "caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish "
    "forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle "
    "mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine "
    "possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar "
    "sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale "
    "willow_tree wolf woman worm"
)


@dataclass(frozen=True, kw_only=True)
class Cifar10(Stored):
    """Ten kinds of objects and animals. Files: ROOT/cifar-10-batches-py/data_batch_1 and its neighbours."""

    title = "CIFAR-10"
    torchvision_name = "CIFAR10"
    files = tuple(f"cifar-10-batches-py/{file}" for file in _FILES_10)
    shape = (3, 32, 32)
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    budgets = CIFAR_BUDGETS

    mean: list[float] = field(default_factory=lambda: [0.4915, 0.4823, 0.4468])
    std: list[float] = field(default_factory=lambda: [0.2470, 0.2435, 0.2616])


@dataclass(frozen=True, kw_only=True)
class Cifar100(Stored):
    """A hundred kinds of objects and animals (the fine labels). Files: ROOT/cifar-100-python/train, test and meta."""

    title = "CIFAR-100"
    torchvision_name = "CIFAR100"
    files = ("cifar-100-python/train", "cifar-100-python/test", "cifar-100-python/meta")
    shape = (3, 32, 32)
    class_names = tuple(_CLASSES_100.split())
    budgets = CIFAR_BUDGETS

    mean: list[float] = field(default_factory=lambda: [0.5072, 0.4867, 0.4412])
    std: list[float] = field(default_factory=lambda: [0.2673, 0.2564, 0.2762])
