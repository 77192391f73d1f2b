"""The HTTP server. What it is made of, and in which order a request meets it: ``server.py``."""
