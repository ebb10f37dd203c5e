import gzip
import subprocess
import sys
from importlib import resources
from pathlib import Path

import torch

from batchnorm.data import load_embedded_sample, load_fashion_mnist
from batchnorm.data.files import SAMPLE

TOOL = Path(__file__).parents[2] / "tools" / "make_sample.py"
SHIPPED = resources.files("batchnorm.data") / "sample"


def test_the_sample_is_balanced_and_says_what_it_is() -> None:
    sample = load_embedded_sample()
    assert sample.source == "embedded-sample"
    assert sample.origin == "the sample inside the package"
    assert sample.train_images.shape == (6000, 1, 28, 28)
    assert sample.test_images.shape == (1000, 1, 28, 28)
    assert sample.train_labels.bincount().tolist() == [600] * 10
    assert sample.test_labels.bincount().tolist() == [100] * 10


def test_no_image_is_there_twice() -> None:
    sample = load_embedded_sample()
    images = torch.cat([sample.train_images, sample.test_images]).flatten(1)
    assert len({image.numpy().tobytes() for image in images}) == 7000


def test_it_takes_less_than_4_mb_and_carries_its_licence() -> None:
    names = {file.name for file in SHIPPED.iterdir()}
    assert names == {"LICENSE", *(f"{file.name}.gz" for file in SAMPLE.values())}
    assert sum(len(file.read_bytes()) for file in SHIPPED.iterdir()) < 4_000_000
    licence = (SHIPPED / "LICENSE").read_text(encoding="utf-8")
    assert "The MIT License (MIT) Copyright © 2017 Zalando SE" in licence
    assert "this permission notice shall be included" in licence


def test_it_holds_the_first_images_of_each_class(debian: Path) -> None:
    whole = load_fashion_mnist(debian)
    sample = load_embedded_sample()
    for split, count in (("train", 600), ("test", 100)):
        labels, images = getattr(whole, f"{split}_labels"), getattr(whole, f"{split}_images")
        for c in range(10):
            chosen = getattr(sample, f"{split}_images")[getattr(sample, f"{split}_labels") == c]
            assert torch.equal(chosen, images[labels == c][:count])


def test_the_tool_makes_the_sample_again(debian: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, TOOL, tmp_path, "--data-dir", debian], check=True, timeout=300)
    for file in SAMPLE.values():
        name = f"{file.name}.gz"
        assert gzip.decompress((tmp_path / name).read_bytes()) == gzip.decompress(
            (SHIPPED / name).read_bytes()
        )
