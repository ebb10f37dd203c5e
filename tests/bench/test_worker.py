import dataclasses
import io
import json
import math
import sys

import torch

from batchnorm.bench import worker
from batchnorm.bench.measure import Timings
from batchnorm.records import BenchRecord
from tests.bench.plans import plan


def test_records_hold_medians_and_quantiles_of_the_pairs(monkeypatch):
    timings = Timings((1.0, 2.0, 3.0, 4.0, 5.0, 6.0), (2.0, 8.0, 6.0, 8.0, 10.0, 24.0))
    monkeypatch.setattr(worker, "measure_pair", lambda ours, peer, pairs: timings)
    rows = list(worker.measure(plan(pairs=6), threads=1, huge_pages=False))
    assert len(rows) == len(plan())
    assert [row.case for row in rows[:4]] == ["relu", "relu", "predict", "predict"]
    assert [row.peer for row in rows[:4]] == ["torch", "copy", "torch", "copy"]
    row = rows[0]
    assert (row.seconds_p20, row.seconds, row.seconds_p80) == (2.0, 3.5, 5.0)
    assert (row.ratio_p20, row.ratio, row.ratio_p80) == (2.0, 2.0, 4.0)
    assert (row.peer_seconds, row.pairs, row.huge_pages, row.threads) == (8.0, 6, False, 1)
    assert (row.shape, row.layout, row.bytes_moved) == ((4, 3, 5, 5), "contiguous", 8 * 300 * 4)
    assert row.correct
    assert 0 < row.error < 1


def test_what_is_wrong_is_not_timed(monkeypatch):
    monkeypatch.setattr(worker, "largest_error", lambda problem, backend: 12.0)
    monkeypatch.setattr(worker, "measure_pair", None)
    rows = list(worker.measure(plan(), threads=1, huge_pages=True))
    assert len(rows) == len(plan())
    for row in rows:
        assert (row.correct, row.error, row.pairs) == (False, 12.0, 0)
        assert math.isnan(row.ratio)
        assert math.isnan(row.seconds)


def test_the_process_reads_a_job_and_prints_a_record_a_line(monkeypatch, capsys):
    before = torch.get_num_threads()
    job = {"plan": dataclasses.asdict(plan(peers=("copy",))), "threads": 2, "huge_pages": True}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(job)))
    try:
        worker.main()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    rows = [BenchRecord.from_dict(json.loads(line)) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 6
    assert {(row.threads, row.huge_pages, row.peer, row.pairs) for row in rows} == {(2, True, "copy", 1)}
