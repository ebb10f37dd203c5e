"""Model in, model out: population statistics, recalibration, folding, export."""

from batchnorm.surgery.borrow import swapped_statistics
from batchnorm.surgery.export import ExportReport, export
from batchnorm.surgery.fold import FoldReport, fold
from batchnorm.surgery.pool import LayerStatistics
from batchnorm.surgery.population import population_statistics
from batchnorm.surgery.recalibrate import LayerChange, RecalibrationReport, recalibrate
from batchnorm.surgery.remains import Folded, ScaleShift

__all__ = [
    "ExportReport",
    "FoldReport",
    "Folded",
    "LayerChange",
    "LayerStatistics",
    "RecalibrationReport",
    "ScaleShift",
    "export",
    "fold",
    "population_statistics",
    "recalibrate",
    "swapped_statistics",
]
