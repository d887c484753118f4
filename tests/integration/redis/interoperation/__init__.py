"""Our layers beside those of channels_redis, which Django processes use."""
