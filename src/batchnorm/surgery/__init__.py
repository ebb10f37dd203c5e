"""Model in, model out: population statistics, recalibration."""

from batchnorm.surgery.borrow import swapped_statistics
from batchnorm.surgery.pool import LayerStatistics
from batchnorm.surgery.population import population_statistics
from batchnorm.surgery.recalibrate import LayerChange, RecalibrationReport, recalibrate

__all__ = [
    "LayerChange",
    "LayerStatistics",
    "RecalibrationReport",
    "population_statistics",
    "recalibrate",
    "swapped_statistics",
]
