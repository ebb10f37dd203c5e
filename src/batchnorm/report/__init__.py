"""Records in, HTML out: a page a run or diagnosis, pictures, a book of studies; knows no torch."""

from batchnorm.report.book import write_book
from batchnorm.report.diagnosis import render_diagnosis
from batchnorm.report.page import write_report

__all__ = ["render_diagnosis", "write_book", "write_report"]
