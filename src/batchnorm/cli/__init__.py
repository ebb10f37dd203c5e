"""The command line: parse arguments, call one function, print, choose an exit code."""

from batchnorm.cli.app import main

__all__ = ["main"]
