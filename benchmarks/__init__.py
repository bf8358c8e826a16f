"""Speed, side by side with other libraries: ``python benchmarks/tabular.py --help``."""
