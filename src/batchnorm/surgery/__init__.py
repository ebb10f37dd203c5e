"""Model in, model out: population statistics, recalibration, folding."""

from batchnorm.surgery.borrow import swapped_statistics
from batchnorm.surgery.fold import FoldReport, fold
from batchnorm.surgery.pool import LayerStatistics
from batchnorm.surgery.population import population_statistics
from batchnorm.surgery.recalibrate import LayerChange, RecalibrationReport, recalibrate
from batchnorm.surgery.remains import Folded, ScaleShift

__all__ = [
    "FoldReport",
    "Folded",
    "LayerChange",
    "LayerStatistics",
    "RecalibrationReport",
    "ScaleShift",
    "fold",
    "population_statistics",
    "recalibrate",
    "swapped_statistics",
]
