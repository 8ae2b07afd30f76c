"""Quantized models that run: torch modules whose time parameters follow the current timestep."""
