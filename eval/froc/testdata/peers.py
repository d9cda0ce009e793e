"""Writes coco.json.gz and picai.json.gz: 300 random cases each, with what the original gives.

    pip install pycocotools==2.0.11 picai_eval==1.4.13
    python3 peers.py

Coordinates are whole, scores have one digit: ties and equal overlaps are frequent.
"""
import contextlib, gzip, io, json, random

import numpy as np
from picai_eval import evaluate
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def write(name, cases):
    with gzip.GzipFile(name, "wb", mtime=0) as f:
        f.write(json.dumps(cases, separators=(",", ":")).encode())


def coco_case(rng):
    big = rng.random() < 0.3

    def box():
        side = rng.choice([8, 30, 100, 120]) if big else 8
        return [rng.randint(0, 12), rng.randint(0, 12), rng.randint(1, side), rng.randint(1, side)]

    images, classes = rng.randint(1, 6), rng.randint(1, 3)
    lesions = []
    for k in range(rng.randint(0, 8)):
        b = box()
        lesions.append([rng.randint(1, images), rng.randint(1, classes)] + b + [b[2] * b[3] if rng.random() < 0.7 else rng.randint(1, 12000), int(rng.random() < 0.15)])
    marks = []
    for k in range(rng.randint(0, 25)):
        b = box()
        if lesions and rng.random() < 0.5:
            of = rng.choice(lesions)
            b = [of[2] + rng.randint(0, 1), of[3], of[4], max(1, of[5] - rng.randint(0, 2))]
        marks.append([rng.randint(1, images), rng.randint(1, classes)] + b + [rng.randint(1, 6) / 10])
    return {"images": images, "classes": classes, "lesions": lesions, "marks": marks}


def coco_figures(case):
    gt = COCO()
    gt.dataset = {
        "info": {}, "images": [{"id": i + 1} for i in range(case["images"])], "categories": [{"id": k + 1, "name": str(k + 1)} for k in range(case["classes"])],
        "annotations": [{"id": n + 1, "image_id": l[0], "category_id": l[1], "bbox": l[2:6], "area": l[6], "iscrowd": l[7]} for n, l in enumerate(case["lesions"])],
    }
    gt.createIndex()
    results = [{"image_id": m[0], "category_id": m[1], "bbox": m[2:6], "score": m[6]} for m in case["marks"]]
    if not results:
        return None
    e = COCOeval(gt, gt.loadRes(results), "bbox")
    e.evaluate(), e.accumulate(), e.summarize()
    return [float(v) for v in e.stats]


def picai_case(rng):
    """Boxes in a grid of 2 x 16 x 16 voxels; candidates and lesions of a case never touch."""
    cases = []
    for _ in range(rng.randint(2, 8)):
        def boxes(most):
            taken, out = np.zeros((16, 16), bool), []
            for _ in range(rng.randint(0, most)):
                x, y, w, h = rng.randint(0, 12), rng.randint(0, 12), rng.randint(1, 6), rng.randint(1, 6)
                if not taken[max(0, y - 1):y + h + 1, max(0, x - 1):x + w + 1].any():
                    taken[y:y + h, x:x + w] = True
                    out.append([x, y, min(w, 16 - x), min(h, 16 - y)])
            return out
        cases.append({"lesions": boxes(3), "marks": [b + [rng.randint(1, 8) / 8] for b in boxes(5)]})
    return cases


def picai_figures(cases):
    truths, maps = [], []
    for c in cases:
        truth, map_ = np.zeros((2, 16, 16), np.int32), np.zeros((2, 16, 16), np.float32)
        for x, y, w, h in c["lesions"]:
            truth[:, y:y + h, x:x + w] = 1
        for x, y, w, h, s in c["marks"]:
            map_[:, y:y + h, x:x + w] = s
        truths.append(truth), maps.append(map_)
    m = evaluate(y_det=maps, y_true=truths, num_parallel_calls=1)
    if m.num_lesions == 0 or all(c["lesions"] for c in cases):
        return None
    return [float(m.AP), float(m.auroc), float(m.score)]


def draw(seed, case, figures):
    rng, out = random.Random(seed), []
    while len(out) < 300:
        one = case(rng)
        with contextlib.redirect_stdout(io.StringIO()):
            want = figures(one)
        if want is not None:
            out.append({"case": one, "want": want})
    return out


write("coco.json.gz", draw(1, coco_case, coco_figures))
write("picai.json.gz", draw(2, picai_case, picai_figures))
