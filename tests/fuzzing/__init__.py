"""Properties that hold for any input, tested with hypothesis.

The short form runs with every change, and always uses the same input. Run the long
form after a change of the code that it tests::

    pytest tests/fuzzing --hypothesis-profile=long
"""
