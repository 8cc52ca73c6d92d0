"""Trained weights and their cards; data only, read through ``stream_ann.weights``."""
