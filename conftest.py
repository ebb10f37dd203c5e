"""Collect the Python examples of the Markdown pages as tests."""

import importlib.util

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

pytest_collect_file = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()], patterns=["*.md"]).pytest()

# The modules of kernels cannot be imported to look for examples where Triton is not installed.
collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["src/batchnorm/ops/triton/*.py"]
