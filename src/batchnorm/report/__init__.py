"""Records in, HTML out: a page a run with a picture of each chart, a book of studies; knows no torch."""

from batchnorm.report.book import write_book
from batchnorm.report.page import write_report

__all__ = ["write_book", "write_report"]
