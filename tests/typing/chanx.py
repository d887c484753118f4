"""What chanx makes of our consumers, which only type checkers read.

chanx defines some of our methods once more, in a class that it puts in front of ours.
Type checkers compare the two where the classes meet. In chanx that is in a file which
they do not check here, so it is done here again.
"""

from chanx.core.websocket import ChanxWebsocketConsumerMixin

from fast_channels.consumer import AsyncJsonWebsocketConsumer


class Consumer(ChanxWebsocketConsumerMixin, AsyncJsonWebsocketConsumer):
    channel_layer_alias: str  # pyright: ignore[reportIncompatibleVariableOverride] # as in chanx
