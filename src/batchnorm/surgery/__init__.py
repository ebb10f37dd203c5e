"""Model in, model out: population statistics, recalibration, conversion."""

from batchnorm.surgery.borrow import swapped_statistics
from batchnorm.surgery.convert import ConversionReport, convert, revert
from batchnorm.surgery.pool import LayerStatistics
from batchnorm.surgery.population import population_statistics
from batchnorm.surgery.rank_statistics import reduce_running_stats
from batchnorm.surgery.recalibrate import LayerChange, RecalibrationReport, recalibrate

__all__ = [
    "ConversionReport",
    "LayerChange",
    "LayerStatistics",
    "RecalibrationReport",
    "convert",
    "population_statistics",
    "recalibrate",
    "reduce_running_stats",
    "revert",
    "swapped_statistics",
]
