"""Frozen records that cross layers; standard library only."""

from batchnorm.records.bench import BenchRecord, BenchSummary, summarize
from batchnorm.records.error_line import error_line
from batchnorm.records.faults import FaultRecord, append_fault, read_faults
from batchnorm.records.files import (
    append_line,
    atomic_file,
    read_object,
    read_records,
    remove_unfinished,
    write_atomic,
)
from batchnorm.records.finding import SEVERITIES, Finding, Fix
from batchnorm.records.optional import NotInstalledError, import_optional
from batchnorm.records.run import QUANTILE_LEVELS, EpochRecord, LayerRecord, RunRecord, read_run
from batchnorm.records.some_of import some_of
from batchnorm.records.study import (
    VERDICTS,
    EffectRecord,
    Figure,
    TrialRecord,
    VerdictRecord,
    read_verdicts,
)

__all__ = [
    "QUANTILE_LEVELS",
    "SEVERITIES",
    "VERDICTS",
    "BenchRecord",
    "BenchSummary",
    "EffectRecord",
    "EpochRecord",
    "FaultRecord",
    "Figure",
    "Finding",
    "Fix",
    "LayerRecord",
    "NotInstalledError",
    "RunRecord",
    "TrialRecord",
    "VerdictRecord",
    "append_fault",
    "append_line",
    "atomic_file",
    "error_line",
    "import_optional",
    "read_faults",
    "read_object",
    "read_records",
    "read_run",
    "read_verdicts",
    "remove_unfinished",
    "some_of",
    "summarize",
    "write_atomic",
]
