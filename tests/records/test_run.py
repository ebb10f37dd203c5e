import dataclasses
import json
import math

import pytest

from batchnorm.records import QUANTILE_LEVELS, EpochRecord, LayerRecord, RunRecord, append_line, read_run

EPOCHS = tuple(
    EpochRecord(arm, seed, epoch, 0.5 / epoch, 0.8, 0.7, 0.75, 1000.0)
    for arm in ("none", "batch")
    for seed in (0, 1)
    for epoch in (1, 2)
)
LAYER = LayerRecord("batch", 0, 1, "norm1", tuple(QUANTILE_LEVELS), running_mean=(0.0, math.nan))


def write(path, epochs=EPOCHS, layers=(LAYER,)):
    (path / "config.json").write_text('{"model": "lenet"}')
    (path / "environment.json").write_text('{"data": "fashion-mnist"}')
    for row in epochs:
        append_line(path / "metrics.jsonl", json.dumps(row.to_dict()))
    for row in layers:
        append_line(path / "layers.jsonl", json.dumps(row.to_dict()))
    return path


def test_a_run_is_read_back_as_it_was_written(tmp_path):
    run = read_run(write(tmp_path))
    assert run.epochs == EPOCHS
    assert run.layers[0].input_quantiles == QUANTILE_LEVELS
    assert math.isnan(run.layers[0].running_mean[1])
    assert run.config == {"model": "lenet"}
    assert (run.arms, run.seeds("batch")) == (("none", "batch"), (0, 1))


def test_each_arm_has_its_own_seeds(tmp_path):
    run = read_run(write(tmp_path, epochs=[row for row in EPOCHS if row.arm == "batch" or row.seed == 1]))
    assert (run.seeds("none"), run.seeds("batch")) == ((1,), (0, 1))


def test_the_summary_has_the_last_epoch_and_all(tmp_path):
    summary = read_run(write(tmp_path)).summary()
    seed = summary["arms"]["batch"]["seeds"]["1"]
    assert summary["data"] == "fashion-mnist"
    assert seed["loss"] == 0.25
    assert [row["loss"] for row in seed["epochs"]] == [0.5, 0.25]
    assert set(seed["epochs"][0]) == {
        "loss",
        "train_accuracy",
        "test_accuracy_running",
        "test_accuracy_recalibrated",
        "images_per_second",
    }


def test_a_diverged_loss_is_null_in_json_and_nan_in_the_record(tmp_path):
    diverged = dataclasses.replace(EPOCHS[0], loss=math.inf)
    run = read_run(write(tmp_path, epochs=[diverged]))
    assert math.isnan(run.epochs[0].loss)
    json.dumps(run.summary(), allow_nan=False)


def test_an_unfinished_last_line_is_dropped_and_another_is_an_error(tmp_path):
    write(tmp_path)
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"arm": "no')
    assert read_run(tmp_path).epochs == EPOCHS
    metrics.write_text("{\n" + metrics.read_text())
    with pytest.raises(ValueError, match=r"metrics.jsonl expected JSON on line 1"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"5", "metrics.jsonl, line 1: expected an object, got 5"),
        (b'{"loss": "big"}', "metrics.jsonl, line 1: loss expected float, got 'big'"),
        (b'{"seed": null}', "metrics.jsonl, line 1: seed expected int, got None"),
        (b'{"speed": 1}', "metrics.jsonl, line 1: .* unexpected keyword argument 'speed'"),
        (b"\x80\x81", "metrics.jsonl expected JSON on line 1, got 'utf-8' codec can't decode"),
    ],
)
def test_a_line_that_is_no_row_is_named_with_its_file(tmp_path, line, message):
    write(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(line + b"\n")
    with pytest.raises(ValueError, match=message):
        read_run(tmp_path)


def test_a_list_with_something_else_in_it_is_no_row(tmp_path):
    write(tmp_path)
    (tmp_path / "layers.jsonl").write_text('{"running_mean": [0.5, "x"]}\n')
    with pytest.raises(ValueError, match=r"layers.jsonl, line 1: running_mean expected float, got 'x'"):
        read_run(tmp_path)


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a run with config.json and environment.json, got"):
        read_run(tmp_path)
    write(tmp_path)
    (tmp_path / "environment.json").write_text("[]")
    with pytest.raises(ValueError, match=r"environment.json expected a JSON object, got list"):
        read_run(tmp_path)


def test_no_run_record_is_without_curve():
    run = RunRecord("r", {}, {}, "fashion-mnist", EPOCHS, ())
    assert [row.epoch for row in run.curve("none", 1)] == [1, 2]
