#!/usr/bin/env python3
"""Writes the .npz fixtures with numpy, as users would."""
import numpy as np

np.savez_compressed(
    "truth.npz", image_ids=np.array(["a", "bé", "c"]), image=np.array([0, 1]), ignore=np.array([False, True]),
    boxes=np.array([[0, 0, 10, 10], [5, 5, 9, 9]], np.float32))
np.savez(
    "predictions.npz", image=np.array([0, 2, 1], np.int32), scores=np.array([0.9, 0.5, 0.25], np.float32),
    boxes=np.array([[0, 0, 10, 9], [1, 1, 2, 2], [5, 5, 9, 9]], np.float64))
np.savez("predictions_named.npz", image=np.array([b"a", b"c"]), scores=np.array([0.9, 0.5]), boxes=np.zeros((2, 4), np.int16))
np.savez("predictions_own_list.npz", image=np.array([0]), image_ids=np.array(["c", "a"]), scores=np.array([0.5]), boxes=np.array([[0, 0, 1, 1]]))
np.savez("truth_3d.npz", image_ids=np.array(["a"]), image=np.array([0]), boxes=np.array([[0, 1, 10, 11, 5, 8]], np.int64))
np.savez("predictions_3d.npz", image=np.array([0]), scores=np.array([1.0]), boxes=np.array([[0, 1, 10, 11, 5, 8]], np.uint8))
np.savez("truth_points.npz", image_ids=np.array(["a", "b"]), image=np.array([1]), points=np.array([[1.0, 2, 3]]), radius=np.array([4.0]))
np.savez("predictions_points.npz", image=np.array(["b"]), scores=np.array([1.0]), points=np.array([[1.0, 2, 5]], np.float32))
np.savez("bad_shape.npz", image=np.array([0]), scores=np.array([1.0]), boxes=np.zeros((1, 5)))
np.savez("bad_rows.npz", image=np.array([0]), scores=np.array([1.0, 2.0]), boxes=np.zeros((1, 4)))
np.savez("bad_nan.npz", image=np.array([0, 0]), scores=np.array([np.nan, 1]), boxes=np.array([[0, 0, 1, 1], [0, 0, np.inf, 1]]))
np.savez("bad_image.npz", image=np.array([3, -1]), scores=np.array([1.0, 1]), boxes=np.zeros((2, 4)))
np.savez("bad_type.npz", image=np.array([0.5]), scores=np.array([1.0]), boxes=np.zeros((1, 4)))
