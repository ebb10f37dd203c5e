"""Make the sample that travels in the package from the whole of Fashion-MNIST.

    python tools/make_sample.py OUT [--data-dir DIR]

Takes the first 600 training and the first 100 test images of each class and keeps their order, so
nothing is drawn by chance or chosen by hand. Prints the checksums that `batchnorm.data.files.SAMPLE`
holds. The content is the same everywhere; the gzipped bytes may vary with the version of zlib.
"""

import argparse
import gzip
import hashlib
from pathlib import Path

import torch
from torch import Tensor

from batchnorm.data import CLASS_NAMES, load_fashion_mnist
from batchnorm.data.files import OFFICIAL

PER_CLASS = {"train": 600, "test": 100}


def first_of_each_class(labels: Tensor, count: int) -> Tensor:
    """Indices of the first ``count`` items of every class, ascending."""
    return torch.cat([(labels == c).nonzero()[:count, 0] for c in range(len(CLASS_NAMES))]).sort().values


def idx_bytes(array: Tensor) -> bytes:
    """A uint8 array in IDX format: two zero bytes, type 8 (uint8), rank, big-endian sizes, the bytes."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.dim()]) + sizes + array.numpy().tobytes()


def main() -> None:
    """Write the four files."""
    parser = argparse.ArgumentParser(description="Make the embedded sample.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    data = load_fashion_mnist(arguments.data_dir)
    if data.source != "fashion-mnist":
        parser.error("the whole of Fashion-MNIST is needed")
    for split, count in PER_CLASS.items():
        labels = getattr(data, f"{split}_labels")
        chosen = first_of_each_class(labels, count)
        images = getattr(data, f"{split}_images")[chosen, 0]
        for key, array in ((f"{split}_images", images), (f"{split}_labels", labels[chosen].byte())):
            content = idx_bytes(array)
            target = arguments.out / f"{OFFICIAL[key].name}.gz"
            target.write_bytes(gzip.compress(content, 9, mtime=0))
            print(key, tuple(array.shape), hashlib.sha256(content).hexdigest(), target.stat().st_size)


if __name__ == "__main__":
    main()
