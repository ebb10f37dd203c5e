"""Fashion-MNIST in memory, from the first source that has it."""

import dataclasses
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

from torch import Tensor

from batchnorm.data.download import MIRRORS, DataWarning, fetch
from batchnorm.data.files import OFFICIAL, SAMPLE, ChecksumError, read_all

__all__ = [
    "CLASS_NAMES",
    "FashionMNIST",
    "SampleWarning",
    "cache_directory",
    "load_embedded_sample",
    "load_fashion_mnist",
]

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

SYSTEM_DIRECTORY = Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist


class SampleWarning(DataWarning):
    """The embedded sample stands in for the whole set."""


@dataclasses.dataclass(frozen=True, eq=False)
class FashionMNIST:
    """Images of clothes in ten classes.

    Attributes:
        train_images: Shape ``(60000, 1, 28, 28)``, ``(6000, 1, 28, 28)`` in the sample; uint8.
        train_labels: Shape ``(60000,)`` or ``(6000,)``; int64, an index into `CLASS_NAMES`.
        test_images: Shape ``(10000, 1, 28, 28)`` or ``(1000, 1, 28, 28)``; uint8.
        test_labels: Shape ``(10000,)`` or ``(1000,)``; int64.
        source: Whether this is the whole set or the sample that travels in the package.
        origin: For people: the directory or address it came from.

    References:
        Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    source: Literal["fashion-mnist", "embedded-sample"]
    origin: str


def load_fashion_mnist(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    download: bool = True,
    mirrors: Sequence[str] = MIRRORS,
    progress: bool | None = None,
    notify: Callable[[DataWarning], object] = warnings.warn,
) -> FashionMNIST:
    """Load Fashion-MNIST from the first source that has it.

    In order: ``data_dir``, and then nothing else; the user's cache; Debian's package
    ``dataset-fashion-mnist``; the mirrors, into the cache; the sample inside the package. Every
    file is verified, wherever it lies; a bad one outside ``data_dir`` is told and passed over.

    Args:
        data_dir: Directory with the four files, gzipped or unpacked.
        download: Whether the mirrors may be asked.
        mirrors: Addresses of directories that hold the four files.
        progress: Whether to draw a bar for each download; None: if the error stream is a terminal.
        notify: Told of each source passed over for a fault (`DataWarning`) and of the sample
            standing in (`SampleWarning`).

    Returns:
        The data; ``source`` says whether it is the whole set.

    Raises:
        FileNotFoundError: If ``data_dir`` lacks a file.
        ChecksumError: If a file of ``data_dir`` is truncated, corrupt or another; a ValueError.
    """
    if data_dir is not None:
        return _read(Path(data_dir))
    cache = cache_directory()
    for directory in (cache, SYSTEM_DIRECTORY):
        try:
            return _read(directory)
        except FileNotFoundError:
            continue
        except (OSError, ChecksumError) as error:
            notify(DataWarning(f"{error}; passed over"))
    reason = "downloads are switched off"
    if download:
        bars = sys.stderr.isatty() if progress is None else progress
        try:
            fetched = fetch(OFFICIAL, mirrors, cache, progress=bars, notify=notify)
        except ImportError:
            reason = "downloads need pip install 'batchnorm[train]'"
        else:
            if fetched is not None:
                return _assemble(fetched[0], "fashion-mnist", fetched[1])
            reason = "no mirror gave them"
    notify(
        SampleWarning(
            "EMBEDDED SAMPLE of 6,000 training and 1,000 test images in use: accuracies are not those of "
            f"Fashion-MNIST. Its files are neither in {cache} nor in {SYSTEM_DIRECTORY} (Debian's "
            f"dataset-fashion-mnist), and {reason}."
        )
    )
    return load_embedded_sample()


def load_embedded_sample() -> FashionMNIST:
    """Load the sample that travels in the package, for tests and for want of the whole set.

    The first 600 training and the first 100 test images of each class, in their order.

    Example:
        >>> sample = load_embedded_sample()
        >>> sample.source, tuple(sample.train_images.shape), sample.test_labels.bincount().unique().tolist()
        ('embedded-sample', (6000, 1, 28, 28), [100])
    """
    directory = resources.files("batchnorm.data") / "sample"
    return _assemble(read_all(directory, SAMPLE), "embedded-sample", "the sample inside the package")


def cache_directory() -> Path:
    """Where downloads are kept: ``fashion-mnist`` in ``$BATCHNORM_CACHE`` or the platform's cache."""
    chosen = os.environ.get("BATCHNORM_CACHE")
    if chosen:
        base = chosen
    elif sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "~/AppData/Local") + "/batchnorm"
    elif sys.platform == "darwin":
        base = "~/Library/Caches/batchnorm"
    else:
        base = (os.environ.get("XDG_CACHE_HOME") or "~/.cache") + "/batchnorm"
    return Path(os.path.expanduser(base)) / "fashion-mnist"


def _read(directory: Path) -> FashionMNIST:
    return _assemble(read_all(directory, OFFICIAL), "fashion-mnist", str(directory))


def _assemble(
    arrays: Mapping[str, Tensor], source: Literal["fashion-mnist", "embedded-sample"], origin: str
) -> FashionMNIST:
    return FashionMNIST(
        train_images=arrays["train_images"].unsqueeze(1),
        train_labels=arrays["train_labels"].long(),
        test_images=arrays["test_images"].unsqueeze(1),
        test_labels=arrays["test_labels"].long(),
        source=source,
        origin=origin,
    )
