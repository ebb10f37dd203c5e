"""``batchnorm train --watch``: the page can be read while the training runs, and the rest is as ever."""

import json
import os
import subprocess
import sys
import urllib.request

from tests.cli.test_train import SMALL

LONG = [*SMALL, "--epochs", "30", "--arms", "batch", "--out", "here", "--json"]


def test_a_training_is_watched_while_it_runs(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "batchnorm", *LONG, "--watch"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert process.stderr is not None
    word, url = process.stderr.readline().split()
    assert word == "watch"
    with urllib.request.urlopen(f"{url}events", timeout=60) as events:
        seen = []
        while not {"event: progress", "event: epoch"} <= set(seen):
            seen.append(events.readline().decode().strip())
        with urllib.request.urlopen(url, timeout=60) as page:
            assert b"EventSource" in page.read()
        assert process.poll() is None
        rest = events.read()
    assert b"event: over" in rest
    printed, complaints = process.communicate(timeout=60)
    assert process.returncode == 0
    assert complaints == ""
    assert len(json.loads(printed)["arms"]["batch"]["seeds"]["0"]["epochs"]) == 30
