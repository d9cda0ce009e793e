"""Runs pycocotools, picai_eval, MONAI and torchmetrics beside `alignedfusion froc` on the same random files.

    make peers                       # makes the environment, runs everything, prints two tables
    build/peers-env/bin/python tools/peers/peers.py --program bin/alignedfusion [--sets 40] [--runs 3] [TOOL ...]

Figures must be equal to 1e-9 where the rules agree; every rule that differs is run and its difference explained.
Times are processor seconds (user and system, all threads and children) of whole processes that read the same files,
the median of the runs. Exit code 1: a figure differs that should not.
"""
import argparse, contextlib, csv, io, json, os, pathlib, random, resource, statistics, subprocess, sys, tempfile

TOLERANCE = 1e-9
COCO_NAMES = ["AP", "AP50", "AP75", "AP small", "AP medium", "AP large", "AR 1", "AR 10", "AR 100", "AR small", "AR medium", "AR large"]


# Sets. Coordinates are whole and scores have few digits: ties and equal overlaps are frequent.

def coco_set(folder, rng, images, classes, lesions, marks, segments):
    sides = [8, 20, 60, 130]
    size = 300

    def shape():
        w, h = rng.randint(2, rng.choice(sides)), rng.randint(2, rng.choice(sides))
        return [rng.randint(0, size - w), rng.randint(0, size - h), w, h]

    def polygon(b):
        x, y, w, h = b
        return [[x, y + h * .25, x + w * .4, y, x + w, y + h * .5, x + w * .6, y + h, x + w * .1, y + h * .9]]

    def runs(b):  # run lengths down the columns
        x, y, w, h = b
        counts, at = [], 0
        for column in range(x, x + w):
            counts += [column * size + y - at, h]
            at = column * size + y + h
        return {"size": [size, size], "counts": counts + [size * size - at]}

    def region(b, crowd=False):
        if not segments:
            return {"bbox": b}
        return {"bbox": b, "segmentation": runs(b) if crowd or rng.random() < .3 else polygon(b)}

    truth = {"images": [{"id": i + 1, "width": size, "height": size} for i in range(images)],
             "categories": [{"id": k + 1, "name": f"class {k + 1}"} for k in range(classes)], "annotations": []}
    for n in range(lesions):
        b, crowd = shape(), rng.random() < .05
        truth["annotations"].append({"id": n + 1, "image_id": rng.randint(1, images), "category_id": rng.randint(1, classes),
                                     "area": b[2] * b[3], "iscrowd": int(crowd), **region(b, crowd)})
    results = []
    for n in range(marks):
        image, k, b = rng.randint(1, images), rng.randint(1, classes), shape()
        if rng.random() < .4:
            of = rng.choice(truth["annotations"])
            image, k, b = of["image_id"], of["category_id"], list(of["bbox"])
            b[0] = min(b[0] + rng.randint(0, 3), size - b[2])
        mark = {"image_id": image, "category_id": k, "score": rng.randint(1, 999) / 1000}
        if segments:  # results are packed run lengths
            from pycocotools import mask
            packed = mask.frPyObjects(runs(b), size, size) if rng.random() < .3 else mask.frPyObjects(polygon(b), size, size)[0]
            mark["segmentation"] = {"size": [size, size], "counts": packed["counts"].decode()}
        else:
            mark["bbox"] = b
        results.append(mark)
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))


def volumes(folder, rng, cases, shape, candidates):
    import numpy as np, SimpleITK as sitk
    for name in ("truth", "maps"):
        (folder / name).mkdir()
    for n in range(cases):
        depth, height, width = shape

        def draw(most, value):
            out, taken = np.zeros(shape, np.float32), np.zeros(shape, bool)
            for _ in range(rng.randint(0, most)):
                z, y, x = rng.randint(0, depth - 3), rng.randint(0, height - 12), rng.randint(0, width - 12)
                d, h, w = rng.randint(1, 3), rng.randint(2, 10), rng.randint(2, 10)
                if not taken[max(0, z - 1):z + d + 1, max(0, y - 1):y + h + 1, max(0, x - 1):x + w + 1].any():
                    out[z:z + d, y:y + h, x:x + w] = value()
                    taken[z:z + d, y:y + h, x:x + w] = True
            return out

        truth = draw(3, lambda: 1)
        maps = draw(candidates, lambda: rng.randint(1, 99) / 100)
        for z, y, x in np.argwhere(truth)[::97]:  # some candidates on lesions
            if rng.random() < .3 and not maps[max(0, z - 2):z + 4, max(0, y - 2):y + 6, max(0, x - 2):x + 6].any():
                maps[z:z + 2, y:y + 4, x:x + 4] = rng.randint(1, 99) / 100
        for name, array in (("truth", truth.astype(np.uint8)), ("maps", maps)):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / name / f"case_{n:04}.nii.gz"), True)


def points_set(folder, rng, cases, side, marks, parts=1024):
    """Labels in the plane, a file an image, and marks at voxels with a score in whole parts."""
    import numpy as np, SimpleITK as sitk
    (folder / "masks").mkdir()
    with open(folder / "truth.csv", "w") as truth, open(folder / "marks.csv", "w") as table:
        truth.write("image,mask\n")
        table.write("image,x,y,z,score\n")
        for n in range(cases):
            labels, k = np.zeros((1, side, side), np.uint8), 0
            for _ in range(rng.randint(0, 4)):
                y, x, s = rng.randint(0, side - 20), rng.randint(0, side - 20), rng.randint(4, 20)
                if not labels[0, y:y + s, x:x + s].any():
                    k += 1
                    labels[0, y:y + s, x:x + s] = k
            sitk.WriteImage(sitk.GetImageFromArray(labels), str(folder / "masks" / f"case_{n:04}.nii.gz"), True)
            truth.write(f"case_{n:04},masks/case_{n:04}.nii.gz\n")
            for _ in range(marks):
                y, x = rng.randrange(side), rng.randrange(side)
                if k and rng.random() < .2:
                    at = np.argwhere(labels[0])
                    y, x = at[rng.randrange(len(at))]
                table.write(f"case_{n:04},{x},{y},0,{rng.randint(1, 999) / parts}\n")


# The tools, each a process of its own that prints its figures.

def run_pycocotools(folder, kind):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    truth = COCO(str(folder / "truth.json"))
    e = COCOeval(truth, truth.loadRes(str(folder / "results.json")), kind)
    e.evaluate(), e.accumulate(), e.summarize()
    return [float(v) for v in e.stats]


def run_picai_eval(folder):
    from picai_eval import evaluate_folder
    m = evaluate_folder(str(folder / "maps"), str(folder / "truth"), num_parallel_calls=1, verbose=0)
    return [float(m.AP), float(m.auroc), float(m.score)] + [float(m.lesion_TPR_at_FPR(x)) for x in (.5, 1)]


def run_monai(folder):
    import numpy as np, SimpleITK as sitk
    from monai.metrics import compute_fp_tp_probs, compute_froc_curve_data, compute_froc_score
    marks = {}
    with open(folder / "marks.csv") as f:
        for row in csv.DictReader(f):
            marks.setdefault(row["image"], []).append((float(row["score"]), int(row["y"]), int(row["x"])))
    fps, tps, targets, images = [], [], 0, 0
    for row in csv.DictReader(open(folder / "truth.csv")):
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / row["mask"])))[0]
        scores, ys, xs = (np.array(v) for v in zip(*marks[row["image"]]))
        fp, tp, n = compute_fp_tp_probs(scores, ys, xs, mask)
        fps.append(fp), tps.append(tp)
        targets, images = targets + n, images + 1
    rate, sensitivity = compute_froc_curve_data(np.concatenate(fps), np.concatenate(tps), targets, images)
    at = (.25, .5, 1, 2, 4, 8)
    return [float(v) for v in np.interp(at, rate[::-1], sensitivity[::-1])] + [float(compute_froc_score(rate, sensitivity)), float(sensitivity[0])]


def run_torchmetrics(folder, exactly):
    import numpy as np, torch
    from torchmetrics.detection import MeanAveragePrecision
    truth, results = (json.loads((folder / name).read_text()) for name in ("truth.json", "results.json"))
    of = {i["id"]: ([], []) for i in truth["images"]}
    for a in truth["annotations"]:
        of[a["image_id"]][0].append(a)
    for r in results:
        of[r["image_id"]][1].append(r)
    boxes = lambda rows: torch.tensor([r["bbox"] for r in rows], dtype=torch.float32).reshape(-1, 4)
    labels = lambda rows: torch.tensor([r["category_id"] for r in rows], dtype=torch.int64)
    exact = dict(iou_thresholds=np.linspace(.5, .95, 10).tolist(), rec_thresholds=np.linspace(0, 1, 101).tolist())
    m = MeanAveragePrecision(box_format="xywh", iou_type="bbox", **(exact if exactly else {}))
    for rows, marks in of.values():
        m.update([{"boxes": boxes(marks), "labels": labels(marks), "scores": torch.tensor([r["score"] for r in marks])}],
                 [{"boxes": boxes(rows), "labels": labels(rows), "iscrowd": torch.tensor([a["iscrowd"] for a in rows], dtype=torch.int64),
                   "area": torch.tensor([float(a["area"]) for a in rows])}])
    v = m.compute()
    return [float(v[k]) for k in ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large")]


# Ours.

def coco_flags(folder, *more):
    return ["--protocol", "coco", "--ties", "input", "--ground-truth", str(folder / "truth.json"), "--predictions", str(folder / "results.json"), *more]


def coco_figures(report):
    c = report["coco"]
    return [-1 if c[k] is None else c[k] for k in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")]


def point_flags(folder, *more):
    return ["--protocol", "camelyon16", "--ground-truth", str(folder / "truth.csv"), "--predictions", str(folder / "marks.csv"), *more]


def point_figures(report):
    return [p["sensitivity"] for p in report["operating_points"]] + [report["mean_sensitivity"], report["counts"]["lesions_found"] / report["counts"]["lesions"]]


def picai_figures(report):
    m = report["figures_of_merit"]
    at = {p["fppi"]: p["sensitivity"] for p in report["operating_points"]}
    value = lambda v: float("nan") if v is None else v
    return [value(v) for v in (report["ap"], m["case_auroc"]["value"], m["ranking_score"]["value"], at[.5], at[1])]


LOWEST = "MONAI leaves the lowest score out of its curve, so that lesions found at that score alone are lost"
SINGLE = "sensitivities of picai_eval and all figures of torchmetrics are numbers of 32 bits: equal after rounding ours to them"

# name: the wanted ratio of processor time, the set (small and large), theirs, our flags and figures, their names, which of
# them may differ and why, the rounding of theirs
TOOLS = {
    "pycocotools": dict(
        times=6, make=lambda f, r, big: coco_set(f, r, *((2000, 20, 15000, 100000) if big else (6, 3, 25, 120)), False),
        theirs=lambda f: run_pycocotools(f, "bbox"), flags=coco_flags, ours=coco_figures, names=COCO_NAMES, differ={}, single=()),
    "pycocotools, masks": dict(
        times=6, make=lambda f, r, big: coco_set(f, r, *((500, 10, 3000, 10000) if big else (6, 3, 25, 120)), True),
        theirs=lambda f: run_pycocotools(f, "segm"), flags=lambda f: coco_flags(f, "--iou-type", "segm"), ours=coco_figures,
        names=COCO_NAMES, differ={}, single=()),
    "picai_eval": dict(
        times=5, make=lambda f, r, big: volumes(f, r, *((100, (20, 160, 160), 8) if big else (8, (6, 40, 40), 5))),
        theirs=run_picai_eval, ours=picai_figures,
        flags=lambda f: ["--protocol", "picai", "--mask-lesions", "components", "--ground-truth", str(f / "truth"), "--predictions", str(f / "maps")],
        names=["AP", "AUROC", "ranking score", "TPR at 0.5 FP", "TPR at 1 FP"], differ={}, single=(3, 4)),
    "MONAI": dict(
        times=10, make=lambda f, r, big: points_set(f, r, *((300, 256, 60) if big else (8, 64, 30))),
        theirs=run_monai, flags=point_flags, ours=point_figures, names=[f"at {x} FP" for x in (.25, .5, 1, 2, 4, 8)] + ["score", "of all marks"],
        differ={7: LOWEST}, single=()),
    "MONAI, decimal scores": dict(
        times=None, make=lambda f, r, big: points_set(f, r, 8, 64, 30, 1000),
        theirs=lambda f: run_monai(f)[6:], flags=point_flags, ours=lambda r: point_figures(r)[6:], names=["score", "of all marks"],
        differ={0: "MONAI keeps the scores of hits in 32 bits and those of false positives in 64: a hit of 0.98 comes before a false positive of 0.98",
                1: LOWEST}, single=()),
    "torchmetrics": dict(
        times=10, make=lambda f, r, big: coco_set(f, r, *((2000, 20, 15000, 100000) if big else (6, 3, 25, 120)), False),
        theirs=lambda f: run_torchmetrics(f, True) + run_torchmetrics(f, False)[:1], flags=coco_flags, ours=lambda r: coco_figures(r) + coco_figures(r)[:1],
        names=COCO_NAMES + ["AP at its own thresholds"], single=range(13),
        differ={12: "its default thresholds are numbers of 32 bits, of which 0.6 is above 0.6: a mark of exactly that IoU misses"}),
}


def processor_seconds(command):
    """The command's output and the processor time of it and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def theirs_of(tool, folders):
    out, seconds = processor_seconds([sys.executable, __file__, "--theirs", tool, *map(str, folders)])
    return json.loads(out.splitlines()[-1]), seconds


def ours_of(program, tool, folder):
    out, seconds = processor_seconds([program, "froc", *TOOLS[tool]["flags"](folder), "--bootstrap", "0", "--json"])
    return TOOLS[tool]["ours"](json.loads(out)), seconds


def compare(program, name, sets, folder):
    """Runs small sets; returns the number of figures that differ and should not, and prints every difference."""
    import numpy as np
    tool, folders = TOOLS[name], []
    for n in range(sets):
        one = folder / f"set{n}"
        one.mkdir()
        tool["make"](one, random.Random(1000 + n), False)
        folders.append(one)
    theirs, _ = theirs_of(name, folders)
    wrong, explained = 0, {}
    for one, want in zip(folders, theirs):
        got, _ = ours_of(program, name, one)
        for k, (a, b) in enumerate(zip(got, want)):
            if k in tool["single"]:
                a = float(np.float32(a))
            if abs(a - b) <= TOLERANCE or a != a and b != b:
                continue
            if k in tool["differ"]:
                explained.setdefault(k, []).append((one.name, a, b))
                continue
            wrong += 1
            print(f"{name}, {one.name}: {tool['names'][k]} is {a} here and {b} there")
    equal = len(tool["names"]) - len(tool["differ"])
    print(f"{name}: {sets} sets, {equal} figures each, {wrong} differ" + (f"; {SINGLE}" if tool["single"] else ""))
    for k, cases in explained.items():
        where, a, b = max(cases, key=lambda c: abs(c[1] - c[2]))
        print(f"  {tool['names'][k]}: differs in {len(cases)} of {sets} sets (most in {where}: {a:.4f} here, {b:.4f} there): {tool['differ'][k]}")
    return wrong


def measure(program, name, runs, folder):
    tool = TOOLS[name]
    big = folder / "big"
    big.mkdir()
    tool["make"](big, random.Random(7), True)
    theirs, ours = [], []
    for _ in range(runs):
        theirs.append(theirs_of(name, [big])[1])
        ours.append(ours_of(program, name, big)[1])
    a, b = statistics.median(theirs), statistics.median(ours)
    return f"| {name} | {a:.2f} | {b:.3f} | {statistics.median(x / y for x, y in zip(theirs, ours)):.1f} | {tool['times']} |"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--program", default="bin/alignedfusion")
    p.add_argument("--sets", type=int, default=40)
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--theirs", help=argparse.SUPPRESS)
    p.add_argument("tool", nargs="*")
    o = p.parse_args()
    if o.theirs:
        with contextlib.redirect_stdout(io.StringIO()):
            figures = [TOOLS[o.theirs]["theirs"](pathlib.Path(f)) for f in o.tool]
        print(json.dumps(figures))
        return 0
    wrong, rows = 0, []
    for name in o.tool or TOOLS:
        with tempfile.TemporaryDirectory() as folder:
            wrong += compare(o.program, name, o.sets, pathlib.Path(folder))
            if o.runs and TOOLS[name]["times"]:
                rows.append(measure(o.program, name, o.runs, pathlib.Path(folder)))
    print("\n| tool | processor s there | here | times | wanted |\n|---|---|---|---|---|")
    print("\n".join(rows))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
