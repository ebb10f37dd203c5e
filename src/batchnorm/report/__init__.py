"""Records in, one self-contained HTML page out, and a picture of each chart; knows no torch."""

from batchnorm.report.page import write_report

__all__ = ["write_report"]
