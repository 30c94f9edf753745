"""Data sets that make whole batches: arrays of one's own, image folders, the well-known ones."""

from vaekit.datasets.arrays import ArrayDataset, from_tensors
from vaekit.datasets.batches import Batch, batches, is_batch, loader, size, unpack
from vaekit.datasets.folders import image_folder
from vaekit.datasets.known import celeba, cifar10, digits, fashion_mnist, kmnist, mnist
from vaekit.datasets.sprites import FactorDataset, dsprites, sprites
from vaekit.datasets.synthetic import correlated_gaussian, two_moons

__all__ = [
    "ArrayDataset",
    "Batch",
    "FactorDataset",
    "batches",
    "celeba",
    "cifar10",
    "correlated_gaussian",
    "digits",
    "dsprites",
    "fashion_mnist",
    "from_tensors",
    "image_folder",
    "is_batch",
    "kmnist",
    "loader",
    "mnist",
    "size",
    "sprites",
    "two_moons",
    "unpack",
]
