import dataclasses
import gzip
import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from batchnorm.data import (
    CLASS_NAMES,
    ChecksumError,
    DataWarning,
    FashionMNIST,
    SampleWarning,
    cache_directory,
    fashion_mnist,
    load_fashion_mnist,
)
from batchnorm.data.files import OFFICIAL, SAMPLE, DataFile

Fill = Callable[..., Path]
IMAGES = "train-images-idx3-ubyte"
LABELS = "train-labels-idx1-ubyte"


def assert_holds(data: FashionMNIST, files: dict[str, bytes]) -> None:
    """Compare with a second way to read the files: NumPy and the last bytes of each."""
    for key, file in SAMPLE.items():
        content = gzip.decompress(files[f"{file.name}.gz"])
        expected = np.frombuffer(content, np.uint8)[-int(np.prod(file.shape)) :].reshape(file.shape)
        array = getattr(data, key)
        images = key.endswith("images")
        assert array.dtype == (torch.uint8 if images else torch.int64)
        np.testing.assert_array_equal(array.numpy(), expected[:, None] if images else expected)


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def flip(raw: bytes) -> bytes:
    middle = len(raw) // 2
    return raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :]


# Sources and their order


def test_packed_and_unpacked_files_are_the_same_data(
    fill: Fill, official: dict[str, bytes], tmp_path: Path
) -> None:
    packed = load_fashion_mnist(fill(tmp_path / "packed"))
    (tmp_path / "unpacked").mkdir()
    for name, raw in official.items():
        (tmp_path / "unpacked" / name.removesuffix(".gz")).write_bytes(gzip.decompress(raw))
    unpacked = load_fashion_mnist(str(tmp_path / "unpacked"))
    assert_holds(packed, official)
    assert_holds(unpacked, official)
    assert (packed.source, packed.origin) == ("fashion-mnist", str(tmp_path / "packed"))


def test_sources_are_asked_in_order(
    fill: Fill, official: dict[str, bytes], mirror: Callable, cache: Path, tmp_path: Path, notices: list
) -> None:
    server = mirror(official)
    sources = [fill(tmp_path / "own"), fill(cache), fill(tmp_path / "system")]
    own = sources[0]

    def origin(data_dir: Path | None = None, download: bool = True) -> str:
        return load_fashion_mnist(
            data_dir, download=download, mirrors=[server.address], notify=notices.append
        ).origin

    assert origin(own) == str(own)
    for directory in sources[1:]:
        assert origin() == str(directory)
        next(directory.iterdir()).unlink()  # one missing file is enough to go on
    assert server.asked == []
    assert notices == []
    assert origin(download=False) == "the sample inside the package"
    assert len(notices) == 1
    assert origin() == server.address
    assert len(server.asked) == 1  # the cache had the other three
    assert len(notices) == 1


@pytest.mark.parametrize("name", [file.name for file in OFFICIAL.values()])
def test_a_directory_of_ones_own_must_have_every_file(
    fill: Fill, cache: Path, tmp_path: Path, name: str
) -> None:
    fill(cache)  # would do, but was not asked for
    own = fill(tmp_path / "own", {f"{name}.gz": None})
    expected = (
        rf"load_fashion_mnist: data_dir expected {name}\[\.gz\] in {re.escape(str(own))}, got no such file"
    )
    with pytest.raises(FileNotFoundError, match=f"^{expected}$"):
        load_fashion_mnist(own)


@pytest.mark.parametrize("kind", ["absent", "file"])
def test_a_directory_of_ones_own_must_be_one(tmp_path: Path, kind: str) -> None:
    own = tmp_path / "own"
    if kind == "file":
        own.write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"data_dir expected .*own, got no such file"):
        load_fashion_mnist(own)


# Files that are not what they are called


@pytest.mark.parametrize(
    ("name", "spoil", "measured"),
    [
        (f"{IMAGES}.gz", cut, "still packed: Compressed file ended before .*"),
        (f"{IMAGES}.gz", lambda raw: raw[:-1], "still packed: Compressed file ended before .*"),
        (f"{IMAGES}.gz", flip, "still packed: .*"),
        (f"{IMAGES}.gz", lambda raw: gzip.compress(b"another"), "7 bytes of 4704016"),
        (f"{LABELS}.gz", lambda raw: gzip.compress(gzip.decompress(raw) + b"more"), "6012 bytes of 6008"),
        (f"{IMAGES}.gz", lambda raw: b"<html>Sign in to the network</html>", "35 bytes of 4704016"),
        (f"{IMAGES}.gz", lambda raw: raw[:10] + b"\xff" + raw[11:], "still packed: .*invalid block type"),
        (f"{LABELS}.gz", lambda raw: b"", "0 bytes of 6008"),
        (f"{LABELS}.gz", lambda raw: gzip.compress(flip(gzip.decompress(raw))), "6008 bytes of 6008"),
        (LABELS, lambda raw: gzip.decompress(raw)[:-1], "6007 bytes of 6008"),
    ],
)
def test_a_spoilt_file_is_refused_by_name_with_both_checksums(
    fill: Fill,
    official: dict[str, bytes],
    tmp_path: Path,
    name: str,
    spoil: Callable[[bytes], bytes],
    measured: str,
) -> None:
    packed = f"{name.removesuffix('.gz')}.gz"
    own = fill(tmp_path / "own", {packed: None, name: spoil(official[packed])})
    with pytest.raises(ChecksumError) as caught:
        load_fashion_mnist(own)
    error = caught.value
    right = hashlib.sha256(gzip.decompress(official[packed])).hexdigest()
    assert isinstance(error, ValueError)
    assert (error.where, error.expected) == (str(own / name), right)
    assert re.fullmatch(
        rf"load_fashion_mnist: {re.escape(error.where)} expected SHA-256 {right} once unpacked, "
        rf"got {error.found} \({measured}\)",
        str(error),
    )


def test_the_checksum_found_is_that_of_the_file_when_unpacked(
    fill: Fill, official: dict[str, bytes], tmp_path: Path
) -> None:
    own = fill(tmp_path / "own", {f"{IMAGES}.gz": official[f"{LABELS}.gz"]})
    with pytest.raises(ChecksumError) as caught:
        load_fashion_mnist(own)
    assert caught.value.found == SAMPLE["train_labels"].sha256


def test_the_checksum_found_is_that_of_the_file_as_it_lies_when_it_does_not_unpack(
    fill: Fill, official: dict[str, bytes], tmp_path: Path
) -> None:
    broken = official[f"{IMAGES}.gz"][:10] + b"\xff\xff"
    own = fill(tmp_path / "own", {f"{IMAGES}.gz": broken})
    with pytest.raises(ChecksumError) as caught:
        load_fashion_mnist(own)
    assert caught.value.found == hashlib.sha256(broken).hexdigest()


@pytest.mark.parametrize("where", ["cache", "system"])
def test_a_spoilt_file_elsewhere_is_told_and_passed_over(
    fill: Fill, official: dict[str, bytes], mirror: Callable, cache: Path, tmp_path: Path, where: str
) -> None:
    notices: list[DataWarning] = []
    directory = cache if where == "cache" else tmp_path / "system"
    fill(directory, {f"{IMAGES}.gz": cut(official[f"{IMAGES}.gz"])})
    server = mirror(official)
    data = load_fashion_mnist(mirrors=[server.address], notify=notices.append)
    assert_holds(data, official)
    assert (data.source, data.origin) == ("fashion-mnist", server.address)
    (notice,) = notices
    assert type(notice) is DataWarning
    assert f"{directory / IMAGES}.gz expected SHA-256 {SAMPLE['train_images'].sha256}" in str(notice)
    assert str(notice).endswith("; passed over")
    if where == "cache":  # mended, by fetching the one file
        assert server.asked == [f"{IMAGES}.gz"]
        assert load_fashion_mnist(notify=notices.append).origin == str(cache)
        assert len(notices) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, for a file that even root cannot read")
def test_an_unreadable_source_is_told_and_passed_over(fill: Fill, cache: Path, tmp_path: Path) -> None:
    notices: list[DataWarning] = []
    cache.mkdir(parents=True)
    (cache / f"{IMAGES}.gz").symlink_to("/proc/self/mem")
    system = fill(tmp_path / "system")
    assert load_fashion_mnist(notify=notices.append).origin == str(system)
    assert len(notices) == 1
    assert "Input/output error" in str(notices[0])


# The sample, for want of anything better


def test_the_sample_warns_in_one_line_and_is_marked(cache: Path, tmp_path: Path) -> None:
    with pytest.warns(SampleWarning) as caught:
        data = load_fashion_mnist(download=False)
    assert data.source == "embedded-sample"
    assert len(data.train_images) == 6000
    assert [str(warning.message) for warning in caught] == [
        "EMBEDDED SAMPLE of 6,000 training and 1,000 test images in use: accuracies are not those of "
        f"Fashion-MNIST. Its files are neither in {cache} nor in {tmp_path / 'system'} (Debian's "
        "dataset-fashion-mnist), and downloads are switched off."
    ]


def test_without_pooch_the_notice_names_the_extra(monkeypatch: pytest.MonkeyPatch, notices: list) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    data = load_fashion_mnist(notify=notices.append)
    assert data.source == "embedded-sample"
    (notice,) = notices
    assert isinstance(notice, SampleWarning)
    assert str(notice).endswith("and downloads need pip install 'batchnorm[train]'.")


# The cache's place


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "HOME/.cache/batchnorm"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/batchnorm"),
        ("linux", {"XDG_CACHE_HOME": ""}, "HOME/.cache/batchnorm"),
        ("linux", {"BATCHNORM_CACHE": "/chosen", "XDG_CACHE_HOME": "/xdg"}, "/chosen"),
        ("linux", {"BATCHNORM_CACHE": "~/chosen"}, "HOME/chosen"),
        ("darwin", {}, "HOME/Library/Caches/batchnorm"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/batchnorm"),
    ],
)
def test_the_cache_is_where_the_platform_or_the_user_says(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], expected: str
) -> None:
    for name in ("BATCHNORM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setattr(sys, "platform", platform)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_directory() == Path(expected.replace("HOME", "/home/someone")) / "fashion-mnist"


# The real set


def official_archive(debian: Path, file: DataFile, seconds: int) -> bytes:
    """The official .gz out of Debian's, which differs in the header only.

    Debian drops the file's name from the gzip header and sets its time (RFC 1952, section 2.3).
    """
    raw = (debian / f"{file.name}.gz").read_bytes()
    return (
        b"\x1f\x8b\x08\x08"
        + seconds.to_bytes(4, "little")
        + b"\x00\x03"
        + file.name.encode()
        + b"\0"
        + raw[10:]
    )


# As the data set's README gives them, and the time in each header (31 August 2017).
PUBLISHED = {
    "train_images": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", 1504176606),
    "train_labels": ("25c81989df183df01b3e8a0aad5dffbe", 1504176606),
    "test_images": ("bef4ecab320f06d8554ea6380940ec79", 1504176627),
    "test_labels": ("bb300cfdad3c16e7a12a480ee83cd310", 1504176627),
}


def test_debians_files_are_the_official_ones_and_come_through_a_mirror(
    debian: Path, mirror: Callable, cache: Path, notices: list
) -> None:
    archives = {}
    for key, (md5, seconds) in PUBLISHED.items():
        archive = official_archive(debian, OFFICIAL[key], seconds)
        assert hashlib.md5(archive).hexdigest() == md5
        archives[f"{OFFICIAL[key].name}.gz"] = archive
    server = mirror(archives)
    fetched = load_fashion_mnist(mirrors=[server.address], notify=notices.append)
    assert notices == []
    assert fetched.origin == server.address
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == archives


def test_the_whole_set(debian: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "SYSTEM_DIRECTORY", debian)
    data = load_fashion_mnist()
    assert (data.source, data.origin) == ("fashion-mnist", str(debian))
    assert data.train_images.shape == (60000, 1, 28, 28)
    assert data.test_images.shape == (10000, 1, 28, 28)
    assert data.train_labels.bincount().tolist() == [6000] * 10
    assert data.test_labels.bincount().tolist() == [1000] * 10
    assert [CLASS_NAMES[label] for label in data.train_labels[:4]] == [
        "Ankle boot",
        "T-shirt/top",
        "T-shirt/top",
        "Dress",
    ]
    # Mean and standard deviation of the training pixels as published everywhere: 0.2860, 0.3530.
    pixels = data.train_images.double() / 255
    assert (round(pixels.mean().item(), 4), round(pixels.std().item(), 4)) == (0.2860, 0.3530)
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.source = "embedded-sample"  # type: ignore[misc]


def test_pooch_and_rich_are_imported_only_to_download() -> None:
    code = (
        "import sys, batchnorm.data as data; data.load_fashion_mnist(download=False, notify=id)\n"
        "print(sorted({'pooch', 'requests', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.strip() == "[]"
