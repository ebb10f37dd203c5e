"""Model in, model out: population statistics, recalibration."""

from batchnorm.surgery.borrow import swapped_statistics
from batchnorm.surgery.pool import LayerStatistics
from batchnorm.surgery.population import population_statistics
from batchnorm.surgery.rank_statistics import reduce_running_stats
from batchnorm.surgery.recalibrate import LayerChange, RecalibrationReport, recalibrate

__all__ = [
    "LayerChange",
    "LayerStatistics",
    "RecalibrationReport",
    "population_statistics",
    "recalibrate",
    "reduce_running_stats",
    "swapped_statistics",
]
