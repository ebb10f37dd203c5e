"""Frozen records that cross layers; standard library only."""

from batchnorm.records.bench import BenchRecord, BenchSummary, summarize
from batchnorm.records.files import append_line, atomic_file, write_atomic
from batchnorm.records.finding import SEVERITIES, Finding, Fix
from batchnorm.records.run import QUANTILE_LEVELS, EpochRecord, LayerRecord, RunRecord, read_run

__all__ = [
    "QUANTILE_LEVELS",
    "SEVERITIES",
    "BenchRecord",
    "BenchSummary",
    "EpochRecord",
    "Finding",
    "Fix",
    "LayerRecord",
    "RunRecord",
    "append_line",
    "atomic_file",
    "read_run",
    "summarize",
    "write_atomic",
]
