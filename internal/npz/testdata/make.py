"""Writes all.npz with NumPy: one array of every kind the package reads.

Run from this folder: /usr/bin/python3 make.py
"""
import numpy as np

np.savez(
    "all.npz",
    f16=np.array([[0.5, -2.0, 65504.0]], np.float16),
    f32=np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7,
    f64=np.array([np.pi, -np.inf, np.nan]),
    i8=np.array([[-128, 127]], np.int8),
    i16=np.array([-300, 300], np.int16),
    i32=np.array([1 << 30], np.int32),
    i64=np.array([-(1 << 60), 7]),
    u8=np.array([0, 255], np.uint8),
    flag=np.array([True, False]),
    text=np.array(["métastase", "", "肝"]),
    bytes=np.array([b"liver", b"ab"]),
    scalar=np.float32(2.5),
    empty=np.zeros((0, 4), np.float32),
    **{"tokens.ct": np.ones((1, 2, 2), np.float32)},
)
np.savez_compressed("compressed.npz", x=np.zeros((4, 5), np.float32))
np.savez("complex.npz", x=np.ones(2, np.complex64))
