from fast_channels.layers import InMemoryChannelLayer, register_channel_layer


def register_layers():
    register_channel_layer("chat", InMemoryChannelLayer())
