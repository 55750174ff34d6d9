"""CacheNet: an inference cache for cameras."""
