"""Fashion-MNIST: where it comes from, and batches of it."""

from batchnorm.data.batches import Batches
from batchnorm.data.download import MIRRORS, DataWarning
from batchnorm.data.fashion_mnist import (
    CLASS_NAMES,
    FashionMNIST,
    SampleWarning,
    cache_directory,
    load_embedded_sample,
    load_fashion_mnist,
)
from batchnorm.data.files import ChecksumError

__all__ = [
    "CLASS_NAMES",
    "MIRRORS",
    "Batches",
    "ChecksumError",
    "DataWarning",
    "FashionMNIST",
    "SampleWarning",
    "cache_directory",
    "load_embedded_sample",
    "load_fashion_mnist",
]
