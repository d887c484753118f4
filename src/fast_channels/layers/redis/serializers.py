"""The serializers, under the name that their module has in channels_redis."""

from fast_channels.layers import serializers
from fast_channels.layers.serializers import *  # noqa: F403 # all that is public

__all__: list[str] = []
__all__ += serializers.__all__
