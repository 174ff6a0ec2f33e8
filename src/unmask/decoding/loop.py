"""Stand-ins until nothing uses them."""

from unmask.decoding.options import DecodeOptions


def check_arguments(n, length, block_length, temperature, batch_size):
    DecodeOptions(max_new_tokens=length, block_length=block_length, temperature=temperature)


def check_cache(model, cache, refresh, cfg_scale):
    DecodeOptions(cache=cache, cache_refresh=refresh, cfg_scale=cfg_scale)
