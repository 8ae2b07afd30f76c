"""Checkpoints on the disk: read strictly, written atomically, never loaded whole."""

from thermoq.checkpoint.header import DTYPE_BITS, Header, TensorInfo, read_header
from thermoq.checkpoint.layout import Checkpoint, open_checkpoint
from thermoq.checkpoint.reader import Component, MappedFiles, StoredTensor, stored_tensors

__all__ = [
    "DTYPE_BITS",
    "Checkpoint",
    "Component",
    "Header",
    "MappedFiles",
    "StoredTensor",
    "TensorInfo",
    "open_checkpoint",
    "read_header",
    "stored_tensors",
]
