#!/usr/bin/env python3
"""Writes coco_truth.json, coco_results.json and coco_expected.json.

The expected average precisions come from COCOeval of github.com/cocodataset/cocoapi
(PythonAPI/pycocotools/cocoeval.py), run with useCats = 0, area "all" and 100
detections per image. Its compiled mask module is replaced by the two lines of
box IoU that boxes need.

Usage: python3 coco.py PATH/TO/cocoapi/PythonAPI/pycocotools/cocoeval.py
"""
import importlib.util
import json
import random
import sys
import types

import numpy as np

np.float = float  # cocoeval.py is older than numpy 1.24


def iou(detections, truths, crowd):
    out = np.zeros((len(detections), len(truths)))
    for i, (x, y, w, h) in enumerate(detections):
        for j, (a, b, c, d) in enumerate(truths):
            iw = max(min(x + w, a + c) - max(x, a), 0)
            ih = max(min(y + h, b + d) - max(y, b), 0)
            inter = iw * ih
            out[i, j] = inter / (w * h if crowd[j] else w * h + c * d - inter)
    return out


def load(path):
    package = types.ModuleType("pycocotools")
    package.__path__ = []
    mask = types.ModuleType("pycocotools.mask")
    mask.iou = iou
    sys.modules["pycocotools"], sys.modules["pycocotools.mask"], package.mask = package, mask, mask
    spec = importlib.util.spec_from_file_location("pycocotools.cocoeval", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Annotations:
    """The part of pycocotools.coco.COCO that COCOeval calls."""

    def __init__(self, images, annotations):
        self.images, self.annotations = images, annotations

    def getImgIds(self):
        return [i["id"] for i in self.images]

    def getCatIds(self):
        return [1, 2]

    def getAnnIds(self, imgIds=(), catIds=()):
        return range(len(self.annotations))

    def loadAnns(self, ids):
        return [self.annotations[i] for i in ids]


def draw():
    r = random.Random(5)
    images, truths, results = [], [], []
    for i in range(60):
        images.append({"id": 100 + i, "file_name": "%d.png" % i, "width": 200, "height": 200})
        here = []
        for _ in range(r.choice([0, 1, 1, 2, 4])):
            box = [r.randint(0, 120), r.randint(0, 120), r.randint(8, 60), r.randint(8, 60)]
            here.append(box)
            truths.append({
                "id": len(truths) + 1, "image_id": 100 + i, "category_id": r.choice([1, 2]), "bbox": box,
                "area": box[2] * box[3], "iscrowd": int(r.random() < 0.15),
            })
        for _ in range(r.randint(0, 8)):
            if here and r.random() < 0.7:
                x, y, w, h = r.choice(here)
                box = [x + r.randint(-6, 6), y + r.randint(-6, 6), max(w + r.randint(-6, 6), 1), max(h + r.randint(-6, 6), 1)]
            else:
                box = [r.randint(0, 120), r.randint(0, 120), r.randint(8, 60), r.randint(8, 60)]
            results.append({"image_id": 100 + i, "category_id": r.choice([1, 2]), "bbox": box})
    scores = r.sample(range(10000), len(results))
    for result, score in zip(results, scores):
        result["score"] = score / 10000
    return images, truths, results


if __name__ == "__main__":
    evaluation = load(sys.argv[1])
    images, truths, results = draw()
    with open("coco_truth.json", "w") as f:
        json.dump({"images": images, "annotations": truths,
                   "categories": [{"id": 1, "name": "nodule"}, {"id": 2, "name": "mass"}]}, f)
    with open("coco_results.json", "w") as f:
        json.dump(results, f)
    detections = [dict(r, id=i + 1, area=r["bbox"][2] * r["bbox"][3], iscrowd=0) for i, r in enumerate(results)]
    e = evaluation.COCOeval(Annotations(images, truths), Annotations(images, detections), "bbox")
    e.params.useCats = 0
    e.params.imgIds = [i["id"] for i in images]
    e.evaluate()
    e.accumulate()
    precision = e.eval["precision"][:, :, 0, 0, -1]  # IoU, recall, category, area, detections
    with open("coco_expected.json", "w") as f:
        json.dump([{"iou": round(float(t), 2), "ap": float(p.mean())} for t, p in zip(e.params.iouThrs, precision)], f)
