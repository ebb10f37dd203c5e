"""The four files of Fashion-MNIST, known by what they hold, so that nothing else passes for them.

A file is recognized by the SHA-256 of its *unpacked* content. Debian's package, the official
mirrors and an unpacked copy differ as files and agree in content; one checksum serves them all.
"""

import dataclasses
import gzip
import hashlib
import math
import zlib
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

__all__ = ["OFFICIAL", "SAMPLE", "ChecksumError", "DataFile", "decode", "read", "read_all"]


@dataclasses.dataclass(frozen=True)
class DataFile:
    """One file in MNIST's IDX format: a magic number, the sizes of an array, its bytes.

    Attributes:
        name: File name; a gzipped copy has ``.gz`` behind it.
        shape: Sizes of the uint8 array inside.
        sha256: Of the unpacked file, header and all.
    """

    name: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def header_bytes(self) -> int:
        """Length of the header: the magic number and one 32-bit size per dimension."""
        return 4 + 4 * len(self.shape)

    @property
    def total_bytes(self) -> int:
        """Length of the unpacked file."""
        return self.header_bytes + math.prod(self.shape)


# Keyed by the field of `FashionMNIST` that each file fills.
OFFICIAL: Mapping[str, DataFile] = MappingProxyType(
    {
        "train_images": DataFile(
            "train-images-idx3-ubyte",
            (60000, 28, 28),
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        "train_labels": DataFile(
            "train-labels-idx1-ubyte",
            (60000,),
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        "test_images": DataFile(
            "t10k-images-idx3-ubyte",
            (10000, 28, 28),
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        "test_labels": DataFile(
            "t10k-labels-idx1-ubyte",
            (10000,),
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    }
)

# Made from the official files by tools/make_sample.py.
SAMPLE: Mapping[str, DataFile] = MappingProxyType(
    {
        "train_images": DataFile(
            "train-images-idx3-ubyte",
            (6000, 28, 28),
            "cf313073c7eb485392848071d5c433571d7166043e971e3345b095cc30518084",
        ),
        "train_labels": DataFile(
            "train-labels-idx1-ubyte",
            (6000,),
            "097b93fbcf9bd5bc648b1a457ddc55c9e4ab49afb33f9ecae8ce068399a75e3a",
        ),
        "test_images": DataFile(
            "t10k-images-idx3-ubyte",
            (1000, 28, 28),
            "7cee33c3c6414b1b86c25e665a6c4f41584269de3b7cc9768b1d351922845eef",
        ),
        "test_labels": DataFile(
            "t10k-labels-idx1-ubyte",
            (1000,),
            "3128d790775889812b73c4f13923559c8b9e281d112c6ea7862acf60a206a909",
        ),
    }
)


class ChecksumError(ValueError):
    """A file is not what its name promises: truncated, corrupt, or another file.

    Attributes:
        where: Path or address of the file.
        expected: SHA-256 of the right content, unpacked.
        found: SHA-256 of what came instead; of the file as it lies if it does not unpack.
    """

    def __init__(self, where: str, expected: str, found: str, measured: str) -> None:
        super().__init__(
            f"load_fashion_mnist: {where} expected SHA-256 {expected} once unpacked, got {found} ({measured})"
        )
        self.where = where
        self.expected = expected
        self.found = found


def decode(raw: bytes, file: DataFile, where: str) -> Tensor:
    """Unpack and verify the bytes of one file.

    Args:
        raw: The file as it lies, gzipped or not; its first bytes tell which.
        file: What it should be.
        where: Path or address, for the error.

    Returns:
        The array, uint8, of ``file.shape``.

    Raises:
        ChecksumError: If the content is any other.
    """
    content = raw
    if raw.startswith(b"\x1f\x8b"):  # gzip
        try:
            content = gzip.decompress(raw)
        except (EOFError, OSError, zlib.error) as error:
            found = hashlib.sha256(raw).hexdigest()
            raise ChecksumError(where, file.sha256, found, f"still packed: {error}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise ChecksumError(where, file.sha256, found, f"{len(content)} bytes of {file.total_bytes}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=file.header_bytes).view(file.shape)


def read(directory: Path | Traversable, file: DataFile) -> Tensor:
    """Read and verify one file of a directory, gzipped or not.

    Raises:
        FileNotFoundError: If it is not there.
        ChecksumError: If it is not what its name promises.
        OSError: As the file system reports it.
    """
    for name in (f"{file.name}.gz", file.name):
        path = directory / name
        if path.is_file():
            return decode(path.read_bytes(), file, str(path))
    raise FileNotFoundError(
        f"load_fashion_mnist: data_dir expected {file.name}[.gz] in {directory}, got no such file"
    )


def read_all(directory: Path | Traversable, files: Mapping[str, DataFile]) -> dict[str, Tensor]:
    """Read every file of a directory; the arrays keep the keys of ``files``. Raises as `read` does."""
    return {key: read(directory, file) for key, file in files.items()}
