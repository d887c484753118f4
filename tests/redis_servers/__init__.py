"""Real Redis and Valkey servers for the tests, without Docker.

`fixtures` is a pytest plugin that provides them; the other modules don't depend on
pytest, so benchmarks can use them too.
"""
