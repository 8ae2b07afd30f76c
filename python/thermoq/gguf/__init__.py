"""GGUF files of quantized checkpoints, without a second rounding (docs/gguf.md)."""
