"""The code in README.rst runs as it stands."""

from pathlib import Path

from sybil import Document, Sybil
from sybil.parsers.rest import PythonCodeBlockParser

_README = Path(__file__).parents[2] / "README.rst"


def _run_blocks() -> Document:
    sybil = Sybil(parsers=[PythonCodeBlockParser()], path=str(_README.parent))
    document = sybil.parse(_README)
    for example in document.examples():
        example.evaluate()
    return document


async def test_readme_test_passes() -> None:
    """The test that README.rst shows passes on the chat that it shows."""
    namespace = _run_blocks().namespace
    await namespace["test_a_message_reaches_everybody_in_the_room"]()
