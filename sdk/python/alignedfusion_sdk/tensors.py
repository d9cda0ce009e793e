"""Tensors of the protocol as torch tensors, through shared memory without copies."""
import mmap
import os
import struct

import torch

from .catalogue import DTYPES
from .errors import StageError
from .protocol import Tensor

TO_TORCH = {name: getattr(torch, attribute) for name, (attribute, _) in DTYPES.items()}
FROM_TORCH = {v: k for k, v in TO_TORCH.items()}
ALIGNMENT = 64
# Up to this size a tensor costs less inside the message than through shared memory.
IN_BAND_BYTES = 4096


def attach(request):
    """Maps the host's shared memory; StageError when it is not what the request says."""
    how = request.WhichOneof("how")
    if how == "inherited_fd":
        fd, close = request.inherited_fd, False
    elif how == "path":
        fd, close = os.open(request.path, os.O_RDWR | os.O_CLOEXEC), True
    else:
        raise StageError("Unimplemented", "unknown way to attach shared memory, want inherited_fd or path")
    try:
        size = os.fstat(fd).st_size
        if size != request.size or size == 0:
            raise StageError("InvalidArgument", "shared memory has %d bytes, the request says %d" % (size, request.size))
        return mmap.mmap(fd, size)
    except OSError as e:
        raise StageError("InvalidArgument", "file descriptor %d: %s" % (fd, e))
    finally:
        if close:
            os.close(fd)


def read(message, memory):
    """A protocol tensor as a torch tensor (BYTES: a list of bytes). Shared memory is not copied."""
    def wrong(why):
        raise StageError("InvalidArgument", why, port=message.name,
                         given="%s %s" % (message.dtype, list(message.shape)))
    shape = list(message.shape)
    count = 1
    for d in shape:
        if d < 0:
            wrong("negative size")
        count *= d
    if message.WhichOneof("payload") == "shared":
        offset, size = message.shared.offset, message.shared.size
        if memory is None:
            wrong("shared memory is not attached")
        if offset % ALIGNMENT or offset + size > len(memory):
            wrong("place %d+%d is not in the shared memory of %d bytes" % (offset, size, len(memory)))
        buffer, base = memory, offset
    else:
        raw = message.raw
        buffer, base, size = None, 0, len(raw)
    if message.dtype == "BYTES":
        data = memory[base:base + size] if buffer is not None else raw
        return _strings(data, count, wrong)
    dtype = TO_TORCH.get(message.dtype)
    if dtype is None:
        wrong("unknown dtype")
    if size != count * torch.empty(0, dtype=dtype).element_size():
        wrong("%d bytes of data" % size)
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    if buffer is None:
        buffer = bytearray(raw)
    return torch.frombuffer(buffer, dtype=dtype, count=count, offset=base).reshape(shape)


def _strings(data, count, wrong):
    out, at = [], 0
    while at < len(data):
        if at + 4 > len(data):
            wrong("BYTES element without a length")
        n = struct.unpack_from("<I", data, at)[0]
        if at + 4 + n > len(data):
            wrong("BYTES element of %d bytes" % n)
        out.append(bytes(data[at + 4:at + 4 + n]))
        at += 4 + n
    if len(out) != count:
        wrong("%d BYTES elements" % len(out))
    return out


class Slot:
    """The place in shared memory the host set aside for one reply."""

    def __init__(self, memory, ref):
        self.memory, self.at, self.end = None, 0, 0
        if memory is not None and ref.size and ref.offset % ALIGNMENT == 0 and ref.offset + ref.size <= len(memory):
            self.memory, self.at, self.end = memory, ref.offset, ref.offset + ref.size

    def write(self, name, t):
        """A torch tensor as a protocol tensor: in the slot while it has room, else in-band."""
        t = t.detach().cpu().contiguous()
        m = Tensor(name=name, dtype=FROM_TORCH[t.dtype], shape=list(t.shape))
        size = t.numel() * t.element_size()
        start = -(-self.at // ALIGNMENT) * ALIGNMENT
        if size > IN_BAND_BYTES and self.memory is not None and start + size <= self.end:
            torch.frombuffer(self.memory, dtype=t.dtype, count=t.numel(), offset=start).copy_(t.reshape(-1))
            self.at = start + size
            m.shared.offset, m.shared.size = start, size
        else:
            m.raw = t.reshape(-1).view(torch.uint8).numpy().tobytes() if size else b""
        return m
