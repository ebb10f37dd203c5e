import dataclasses
import json
import math

import pytest

from batchnorm.records import BenchRecord, summarize

RECORD = BenchRecord(
    case="relu",
    shape=(64, 16, 8, 8),
    dtype="float32",
    layout="contiguous",
    threads=1,
    huge_pages=True,
    backend="native",
    peer="torch",
    bytes_moved=2_097_152,
    seconds=1e-3,
    seconds_p20=0.9e-3,
    seconds_p80=1.2e-3,
    peer_seconds=2e-3,
    ratio=2.0,
    ratio_p20=1.9,
    ratio_p80=2.1,
    pairs=11,
    error=0.1,
    correct=True,
)
WRONG = dataclasses.replace(
    RECORD, shape=(2, 2), ratio=math.nan, seconds=math.nan, pairs=0, error=math.inf, correct=False
)


def test_a_record_is_read_back_as_it_was_written():
    row = json.loads(json.dumps(RECORD.to_dict(), allow_nan=False))
    assert list(row) == [field.name for field in dataclasses.fields(BenchRecord)]
    assert BenchRecord.from_dict(row) == RECORD


def test_what_was_not_timed_is_null_in_json_and_nan_in_the_record():
    row = json.loads(json.dumps(WRONG.to_dict(), allow_nan=False))
    assert (row["ratio"], row["error"]) == (None, None)
    assert math.isnan(BenchRecord.from_dict(row).ratio)


def test_a_summary_is_the_geometric_mean_over_shapes_with_the_worst():
    other = dataclasses.replace(RECORD, shape=(8, 8), ratio=0.5)
    [summary] = summarize([RECORD, other])
    assert summary.ratio == pytest.approx(1.0)
    assert summary.worst == other


def test_memory_is_a_geometric_mean_too_and_none_unless_every_record_counted_it():
    counted = dataclasses.replace(RECORD, memory=2.0, peer_memory=4.0)
    more = dataclasses.replace(counted, memory=8.0)
    assert summarize([counted, more])[0].memory == pytest.approx(1.0)
    assert summarize([counted, RECORD])[0].memory is None


@pytest.mark.parametrize(
    "change",
    [
        {"case": "x"},
        {"layout": "x"},
        {"dtype": "x"},
        {"threads": 2},
        {"huge_pages": False},
        {"peer": "x"},
        {"device": "x"},
    ],
)
def test_what_differs_in_more_than_the_shape_is_kept_apart(change):
    other = dataclasses.replace(RECORD, **change)
    assert [summary.worst for summary in summarize([RECORD, other, RECORD])] == [RECORD, other]


def test_one_wrong_shape_leaves_no_ratio():
    [summary] = summarize([RECORD, WRONG, RECORD])
    assert math.isnan(summary.ratio)
    assert summary.worst is WRONG
