"""Faults of a run: the way to the file and back."""

import pytest

from batchnorm.records import FaultRecord, Finding, Fix, append_fault, read_faults


def fault(layer="norm1", epoch=1, evidence=None):
    fix = Fix("consent", "recalibrate")
    finding = Finding("BN012", "slow", "warn", layer, "Slow.", evidence or {}, fix, "confirmed")
    return FaultRecord("batch", 0, epoch, finding)


def test_faults_come_back_in_order_and_each_once(tmp_path):
    assert read_faults(tmp_path) == ()
    whole = fault(evidence={"ratio": 4.5, "at": "norm1"})
    for one in (whole, fault(None), fault(epoch=2)):
        append_fault(tmp_path, one)
    assert read_faults(tmp_path) == (whole, fault(None))


@pytest.mark.parametrize("line", ['{"arm": "batch"}', '{"finding": {}}', '{"finding": {"fix": 3}}', "5"])
def test_a_line_that_is_no_fault_is_refused(tmp_path, line):
    (tmp_path / "faults.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"records: .*faults.jsonl, line 1: "):
        read_faults(tmp_path)
