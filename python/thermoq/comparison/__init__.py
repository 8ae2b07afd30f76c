"""Comparing quantized models: the phases beside one another, with what their figures are worth."""
