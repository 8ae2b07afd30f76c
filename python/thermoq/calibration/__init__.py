"""Calibration: what a model's layers see along its own trajectory, measured, kept, and used."""
