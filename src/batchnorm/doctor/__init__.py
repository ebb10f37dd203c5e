"""Model in, findings out: faults of batch normalization, named, proved, mended."""

from batchnorm.doctor.diagnose import diagnose
from batchnorm.doctor.report import LayerGap, Report
from batchnorm.doctor.settings import Settings

__all__ = ["LayerGap", "Report", "Settings", "diagnose"]
