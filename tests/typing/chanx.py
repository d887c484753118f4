"""How chanx extends the consumers, only for type checkers.

chanx redefines some methods in a class that comes before the library's in the bases.
Type checkers compare the two where the classes are combined. In chanx that is in a file
that is not checked here, so this file combines them again.
"""

from chanx.core.websocket import ChanxWebsocketConsumerMixin

from fast_channels.consumer import AsyncJsonWebsocketConsumer


class Consumer(ChanxWebsocketConsumerMixin, AsyncJsonWebsocketConsumer):  # type: ignore[misc] # its join_group() has no arguments for resuming
    channel_layer_alias: str  # pyright: ignore[reportIncompatibleVariableOverride] # as in chanx
