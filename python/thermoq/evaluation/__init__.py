"""How far a quantized model is from the one it was made of; running them needs the torch extra."""
