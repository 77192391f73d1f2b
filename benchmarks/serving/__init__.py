"""The parts of ``benchmarks/serve.py``: the servers, their clients and the load that these make."""
