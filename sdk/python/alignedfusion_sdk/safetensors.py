"""safetensors files: an 8-byte header length, JSON, the tensors' bytes. Nothing in them can run."""
import json
import os
import struct
import tempfile

import torch

from .catalogue import DTYPES

_TO_TORCH = {name: getattr(torch, attribute) for attribute, name in DTYPES.values()}
_FROM_TORCH = {v: k for k, v in _TO_TORCH.items()}
_MAX_HEADER = 100_000_000


def write(path, tensors, metadata=None):
    """Stores tensors (name -> torch tensor) under a temporary name, syncs, renames."""
    header, at, chunks = {}, 0, []
    if metadata:
        header["__metadata__"] = metadata
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        raw = t.reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b""
        header[name] = {"dtype": _FROM_TORCH[t.dtype], "shape": list(t.shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
        chunks.append(raw)
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    folder = os.path.dirname(path) or "."
    fd, temporary = tempfile.mkstemp(dir=folder, prefix="." + os.path.basename(path))
    try:
        with os.fdopen(fd, "wb") as f:
            f.write(struct.pack("<Q", len(text)))
            f.write(text)
            for raw in chunks:
                f.write(raw)
            f.flush()
            os.fchmod(f.fileno(), 0o644)
            os.fsync(f.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read(path):
    """Returns (name -> torch tensor, metadata); ValueError for a broken file."""
    with open(path, "rb") as f:
        raw = f.read()
    if len(raw) < 8:
        raise ValueError("%s: too short for a safetensors file" % path)
    n = struct.unpack("<Q", raw[:8])[0]
    if n > min(_MAX_HEADER, len(raw) - 8):
        raise ValueError("%s: header of %d bytes in a file of %d" % (path, n, len(raw)))
    header = json.loads(raw[8:8 + n])
    metadata = header.pop("__metadata__", {})
    data, out = memoryview(raw)[8 + n:], {}
    for name, e in header.items():
        begin, end = e["data_offsets"]
        dtype = _TO_TORCH.get(e["dtype"])
        count = 1
        for d in e["shape"]:
            count *= d
        if dtype is None or not 0 <= begin <= end <= len(data) or (end - begin) != count * torch.empty(0, dtype=dtype).element_size():
            raise ValueError("%s: tensor %r: %s" % (path, name, e))
        out[name] = (torch.frombuffer(bytearray(data[begin:end]), dtype=dtype).reshape(e["shape"])
                     if count else torch.empty(e["shape"], dtype=dtype))
    return out, metadata
