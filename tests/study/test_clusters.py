"""The same trials on a real cluster on this machine."""

import os

import pytest

from tests.study import small
from tests.study.test_run import run, timeless


def on_cluster(executor, tmp_path):
    failing = small.study(tmp_path / "log", fails={(1.0, 1)})
    verdict, observer = run(failing, tmp_path / "failing", jobs=2, executor=executor)
    assert verdict.failed == 1
    assert len(observer.trials) == 6
    assert str(os.getpid()) not in {line.split()[2] for line in small.lines(tmp_path / "log")}
    run(small.study(), tmp_path / "there", jobs=2, executor=executor)
    run(small.study(), tmp_path / "here")
    assert timeless(tmp_path / "there") == timeless(tmp_path / "here")


@pytest.mark.filterwarnings("default")  # Dask's and Ray's own
def test_dask(tmp_path):
    on_cluster("dask", tmp_path)


@pytest.mark.filterwarnings("default")
def test_ray(tmp_path):
    pytest.importorskip("ray", reason="no Ray installed")
    on_cluster("ray", tmp_path)
