#!/usr/bin/env python3
"""Runs other FROC tools on cases that can be counted by hand.

docs/explanation/froc.md quotes what this prints. The tools are not part of this project:
clone them side by side and name the folder that holds them.

    git clone https://github.com/Project-MONAI/MONAI
    git clone https://github.com/DIAGNijmegen/picai_eval
    git clone https://github.com/qbeer/coco-froc-analysis
    git clone https://github.com/MIC-DKFZ/nnDetection
    git clone https://github.com/M3DV/AlignShift
    python3 others.py .        (needs numpy, scipy, scikit-learn)

Packages which those tools import for plots, progress bars and image files are
replaced by empty stand-ins; the code under test is theirs.
"""
import importlib.util
import pathlib
import sys
import warnings
from unittest import mock

import numpy as np

ROOT = pathlib.Path(sys.argv[1])
FIXTURE = pathlib.Path(__file__).resolve().parents[2] / "eval/froc/testdata"
warnings.simplefilter("ignore")


def stand_in(*names):
    for name in names:
        try:
            __import__(name)
        except ImportError:
            sys.modules[name] = mock.MagicMock()


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def attempt(label, function):
    try:
        print("  %s: %s" % (label, function()))
    except Exception as e:
        print("  %s: %s: %s" % (label, type(e).__name__, e))


# Two images with a lesion each, found at .9 and .3; one false positive at .6.
# By hand: sensitivity .5 before the false positive, 1 at 0.5 FP per image.
print("both lesions found at .9 and .3, a false positive at .6; sensitivity at 0.5 FP per image is 1")

stand_in("torch", "monai.config")
monai = load("monai_froc", "MONAI/monai/metrics/froc.py")


def monai_case():
    fps, sens = monai.compute_froc_curve_data(np.array([0.6]), np.array([0.9, 0.3]), 2, 2)
    return "greatest sensitivity of the curve %g" % sens.max()


attempt("MONAI", monai_case)

stand_in("tqdm", "SimpleITK", "report_guided_annotation", "mlxtend", "mlxtend.evaluate", "packaging")
sys.path.insert(0, str(ROOT / "picai_eval/src"))
sys.modules.setdefault("picai_eval.image_utils", mock.MagicMock())


def picai_case():
    from picai_eval.metrics import Metrics
    m = Metrics(lesion_results={"a": [(1, 0.9, 1.0), (0, 0.6, 0.0)], "b": [(1, 0.3, 1.0)]})
    return "sensitivity at 0.5 FP per case %g, at 1 %g" % (m.lesion_TPR_at_FPR(0.5), m.lesion_TPR_at_FPR(1))


attempt("picai_eval", picai_case)

print("one image, one lesion, the only box far away from it; sensitivity is 0, 1 FP per image")


def coco_case():
    sys.path.insert(0, str(ROOT / "coco-froc-analysis"))
    stand_in("matplotlib", "matplotlib.pyplot", "click", "tqdm", "seaborn")
    package = type(sys)("coco_froc_analysis")
    package.__path__ = [str(ROOT / "coco-froc-analysis/coco_froc_analysis")]
    sys.modules["coco_froc_analysis"] = package
    froc = type(sys)("coco_froc_analysis.froc")
    froc.__path__ = [package.__path__[0] + "/froc"]
    sys.modules["coco_froc_analysis.froc"] = froc
    from coco_froc_analysis.froc.froc_stats import init_stats, update_stats
    gt = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "lesion"}],
          "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]}]}
    far = {"image_id": 1, "category_id": 1, "bbox": [500, 500, 10, 10], "score": 1.0}
    out = []
    for use_iou in (False, True):
        s = update_stats(init_stats(gt, gt["categories"]), {1: gt["annotations"]}, {1: [far]}, gt["categories"], use_iou, 0.5)[1]
        out.append("%s: %d found, %d false positives" % ("IoU" if use_iou else "centre", s["LL"], s["NL"]))
    return "; ".join(out)


attempt("coco-froc-analysis", coco_case)

print("one image, one lesion found, one detection on an ignored lesion")


def nndet_case():
    stand_in("loguru", "matplotlib", "matplotlib.pyplot", "matplotlib.ticker", "nndet", "nndet.utils", "nndet.utils.info")
    info = mock.MagicMock()
    info.experimental = lambda f: f
    evaluator = mock.MagicMock()
    sys.modules["nndet.evaluator"] = evaluator
    evaluator.DetectionMetric = load("nndet_abstract", "nnDetection/nndet/evaluator/abstract.py").DetectionMetric
    sys.modules.update({"nndet.evaluator": evaluator, "nndet.utils.info": info})
    module = load("nndet_froc", "nnDetection/nndet/evaluator/detection/froc.py")
    metric = module.FROCMetric(["lesion"], iou_thresholds=(0.1, 0.5), fpi_thresholds=(0.5, 1), per_class=False, verbose=False)
    image = {0: {"dtMatches": np.array([[1, 0], [1, 0]]), "gtMatches": np.array([[1], [1]]), "dtScores": np.array([0.9, 0.8]),
                 "gtIgnore": np.array([0]), "dtIgnore": np.array([[0, 1], [0, 1]])}}
    return metric.compute([image])[0]


attempt("nnDetection", nndet_case)

print("10,000 random cases (half of them with ties) against the rule computed by eval/froc/testdata/deeplesion.py")


def alignshift_case():
    spec = importlib.util.spec_from_file_location("deeplesion", FIXTURE / "deeplesion.py")
    cases = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cases)
    theirs = load("alignshift", "AlignShift/deeplesion/evaluation/evaluation_metrics.py")
    equal = tied = 0
    largest, errors = 0.0, {}
    for number in range(cases.CASES):
        lesions, boxes = cases.draw(number)
        want = cases.froc(lesions, boxes)[2]
        b = [np.array(x, float).reshape(-1, 5) for x in boxes]
        g = [np.array(x, float).reshape(-1, 4) for x in lesions]
        try:
            got = theirs.sens_at_FP(b, g, cases.FPPI, 0.5)
        except Exception as e:
            name = type(e).__name__ + (", no box at all" if not any(map(len, b)) else "")
            errors[name] = errors.get(name, 0) + 1
            continue
        if np.allclose(got, want, atol=1e-12):
            equal += 1
        else:
            assert number % 2 == 0, "a case without ties differs"
            tied += 1
            largest = max(largest, np.abs(got - want).max())
    return "%d equal, %d differ by the order within ties (by up to %.3f), errors %s" % (equal, tied, largest, errors)


attempt("AlignShift", alignshift_case)
