"""Data sets that make whole batches: arrays of one's own, image folders, the well-known ones."""

from vaekit.datasets.arrays import ArrayDataset, from_tensors
from vaekit.datasets.batches import Batch, batches, is_batch, loader, size, unpack
from vaekit.datasets.folders import image_folder
from vaekit.datasets.known import celeba, cifar10, digits, fashion_mnist, kmnist, mnist

__all__ = [
    "ArrayDataset",
    "Batch",
    "batches",
    "celeba",
    "cifar10",
    "digits",
    "fashion_mnist",
    "from_tensors",
    "image_folder",
    "is_batch",
    "kmnist",
    "loader",
    "mnist",
    "size",
    "unpack",
]
