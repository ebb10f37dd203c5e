"""Each chart as SVG and PNG."""

import dataclasses
import struct
import xml.etree.ElementTree as ElementTree

import pytest

from batchnorm.report import write_report
from batchnorm.report.pictures import picture_specs, write_pictures
from batchnorm.report.vega import vl_convert
from tests.report import synthetic

NAMES = ("loss", "accuracy", "inputs", "statistics", "affine")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    run = synthetic.run(epochs=3, data="embedded-sample")
    return write_report(run, tmp_path_factory.mktemp("run")).parent / "charts"


def test_every_chart_is_there_twice(pictures):
    assert sorted(file.name for file in pictures.iterdir()) == sorted(
        f"{name}.{kind}" for name in NAMES for kind in ("png", "svg")
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_has_marks_on_white_and_carries_the_loud_mark(pictures, name):
    svg = (pictures / f"{name}.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(svg)
    paths = [e for e in root.iter() if e.tag.endswith("path") and len(e.get("d", "")) > 10]
    assert len(paths) > 10
    assert "EMBEDDED SAMPLE" in svg
    assert "var(" not in svg
    assert "#ffffff" in svg
    assert "NaN" not in svg


@pytest.mark.parametrize("name", NAMES)
def test_the_png_is_twice_as_large_as_the_svg(pictures, name):
    root = ElementTree.fromstring((pictures / f"{name}.svg").read_text(encoding="utf-8"))
    content = (pictures / f"{name}.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert (width, height) == (2 * float(root.get("width")), 2 * float(root.get("height")))


def test_the_whole_data_set_has_no_mark():
    specs = picture_specs(synthetic.run(epochs=1))
    assert tuple(specs) == NAMES
    assert not any("subtitle" in spec["title"] for spec in specs.values())


@pytest.mark.parametrize(
    ("run", "names"),
    [
        (synthetic.run(arms=("none",), seeds=(0,), epochs=1), NAMES[:3]),
        (synthetic.run(layers={}, epochs=1), NAMES[:2]),
        (synthetic.run(diverged=[("none", 0), ("none", 1), ("none", 2)]), NAMES),
        (synthetic.run(epochs=0), ()),
    ],
    ids=["no normalization", "no layers", "diverged", "no epoch"],
)
def test_unusual_runs_have_the_pictures_they_can(tmp_path, run, names):
    paths = write_pictures(run, tmp_path / "charts")
    assert [path.name for path in paths] == [f"{name}.{kind}" for name in names for kind in ("svg", "png")]
    assert all(path.stat().st_size > 2000 for path in paths)


def test_an_axis_of_a_network_that_diverges_has_short_numbers():
    run = synthetic.run(seeds=(0,), epochs=3)
    epochs = tuple(dataclasses.replace(row, loss=10.0 ** (6 * row.epoch)) for row in run.epochs)
    svg = vl_convert().vegalite_to_svg(picture_specs(dataclasses.replace(run, epochs=epochs))["loss"])
    shown = [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("}text")]
    assert "1e+18" in shown
    assert "0" in shown
    assert max(map(len, shown)) == len("Training loss by epoch")


def test_a_deep_network_is_pictured_by_some_layers():
    specs = picture_specs(synthetic.deep(seeds=(0,), epochs=1))
    assert len(specs["statistics"]["concat"]) == 6 * 2
    assert "some layers" in specs["statistics"]["title"]["text"]
