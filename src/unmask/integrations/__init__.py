"""Thin faces of the decoder and its policies for other people's programs."""
