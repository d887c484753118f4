"""Properties that hold for whatever arrives, with input that hypothesis makes up.

The short form runs with every change, and always tries the same input. Run the long
form after a change of what it tests::

    pytest tests/fuzzing --hypothesis-profile=long
"""
