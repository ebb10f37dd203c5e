"""Our kernels against torch's, a compiled module and a copy of the same bytes, side by side."""

from batchnorm.bench.plan import BenchPlan
from batchnorm.bench.run import run_bench

__all__ = ["BenchPlan", "run_bench"]
