"""Model in, findings out: faults of batch normalization, named, proved, mended."""

from batchnorm.doctor.callbacks import lightning_callback, transformers_callback
from batchnorm.doctor.diagnose import diagnose
from batchnorm.doctor.fix import FixReport, Mended
from batchnorm.doctor.report import LayerGap, Report
from batchnorm.doctor.settings import Settings
from batchnorm.doctor.watch import BatchNormWarning, Watch

__all__ = [
    "BatchNormWarning",
    "FixReport",
    "LayerGap",
    "Mended",
    "Report",
    "Settings",
    "Watch",
    "diagnose",
    "lightning_callback",
    "transformers_callback",
]
