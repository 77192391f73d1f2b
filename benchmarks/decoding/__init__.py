"""What ``benchmarks/decode.py`` is made of: the engines, one module per family, and the bars they are held against."""
