"""The library's layers together with those of channels_redis in Django."""
