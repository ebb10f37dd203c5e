"""Model in, model out: population statistics, recalibration, conversion, folding, export."""

from batchnorm.surgery.borrow import swapped_statistics
from batchnorm.surgery.convert import ConversionReport, convert, revert
from batchnorm.surgery.export import ExportReport, export
from batchnorm.surgery.fold import FoldReport, fold
from batchnorm.surgery.pool import LayerStatistics
from batchnorm.surgery.population import population_statistics
from batchnorm.surgery.rank_statistics import reduce_running_stats
from batchnorm.surgery.recalibrate import LayerChange, RecalibrationReport, recalibrate
from batchnorm.surgery.recalibrate_ranks import recalibrate_ranks
from batchnorm.surgery.remains import Folded, ScaleShift

__all__ = [
    "ConversionReport",
    "ExportReport",
    "FoldReport",
    "Folded",
    "LayerChange",
    "LayerStatistics",
    "RecalibrationReport",
    "ScaleShift",
    "convert",
    "export",
    "fold",
    "population_statistics",
    "recalibrate",
    "recalibrate_ranks",
    "reduce_running_stats",
    "revert",
    "swapped_statistics",
]
