"""``python -m batchnorm``, the same as ``batchnorm``."""

from batchnorm.cli import main

main()
