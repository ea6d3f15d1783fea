"""Tables as tensors, so that the results that an interrupted job keeps (`stages/resume.py`) may hold both."""

from __future__ import annotations

import pyarrow as pa
import torch
from torch import Tensor


def packed(table: pa.Table) -> Tensor:
    """A table as a tensor of bytes, uint8 [n]."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return torch.frombuffer(bytearray(sink.getvalue()), dtype=torch.uint8)


def unpacked(content: Tensor) -> pa.Table:
    """The table in a tensor that `packed` made."""
    return pa.ipc.open_stream(pa.py_buffer(content.numpy())).read_all()
