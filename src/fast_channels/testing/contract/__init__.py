"""The tests that every channel layer passes, for layers of your own too.

They need pytest and pytest-asyncio: install the extra ``testing``.
"""

from .base import LayerOptions, LayerPair
from .channels import ChannelTests
from .consumers import ConsumerTests
from .groups import GroupTests
from .history import HistoryTests
from .lifetime import LifetimeTests
from .listening import ListeningTests
from .messages import MessageTests
from .names import NameTests

__all__ = ["LayerContract", "LayerOptions", "LayerPair"]


class LayerContract(
    ChannelTests,
    GroupTests,
    ListeningTests,
    HistoryTests,
    MessageTests,
    NameTests,
    ConsumerTests,
    LifetimeTests,
):
    """The tests of a layer: derive a class from it, whose name starts with ``Test``.

    The class needs a fixture ``layers``, which returns two new layers that reach one
    another, as the layers of two processes do. A layer that connects no processes is
    returned twice. The fixture ``options`` has the options for both. After a test the
    layers are closed, and then the rest of ``layers`` runs.

    The attributes of the class are flags, one for each way in which layers differ. A
    layer that differs from the default sets the flag, and the tests prove that it does
    what the flag says.
    """
