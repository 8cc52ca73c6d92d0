"""Measurements. Each module is a command that writes JSON with machine, versions, seed and data."""
