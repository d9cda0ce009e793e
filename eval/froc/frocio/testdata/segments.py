"""Writes segments.json: random segmentations of small images and their pixels as pycocotools draws them.

    pip install pycocotools==2.0.11
    python3 segments.py
"""
import json, random

from pycocotools import mask

rng, out = random.Random(5), []
while len(out) < 150:
    h, w = rng.randint(3, 24), rng.randint(3, 24)
    beyond = rng.choice([0, 0, 3])
    place = rng.choice([lambda most: rng.randint(-beyond, most + beyond), lambda most: round(rng.uniform(-beyond, most + beyond), 2)])
    polygons = [[place(w) if i % 2 == 0 else place(h) for i in range(2 * rng.randint(3, 7))] for _ in range(rng.choice([1, 1, 2]))]
    runs = mask.merge(mask.frPyObjects(polygons, h, w))
    pixels = [int(i) for i in mask.decode(runs).reshape(-1).nonzero()[0]]
    if pixels:
        out.append({"height": h, "width": w, "polygons": polygons, "packed": {"size": [h, w], "counts": runs["counts"].decode()}, "pixels": pixels})
with open("segments.json", "w") as f:
    json.dump(out, f, separators=(",", ":"))
