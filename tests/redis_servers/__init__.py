"""Real Redis and Valkey servers for the tests, without Docker.

`fixtures` is the pytest plugin that hands them out; the other modules have no part of
pytest, and may be used by benchmarks too.
"""
