"""Reads exported files back with pydicom, highdicom, nibabel and pycocotools, and prints what they see.

python3 readback.py DIR: scans_sr.dcm, scans_seg.dcm, scans.nii, annotations.json and results.json in DIR. Lines are
the tests' to compare; nothing here comes from the program tested.
"""
import contextlib
import io
import os
import sys

import highdicom
import nibabel
import numpy as np
from highdicom.sr import srread
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

folder = sys.argv[1]


def at(name):
    return os.path.join(folder, name)


report = srread(at("scans_sr.dcm"))
print("patient", report.PatientID, report.StudyInstanceUID)
for g in report.content.get_volumetric_roi_measurement_groups():
    print("group", g.tracking_identifier, "|", g.finding_type.meaning, "|", len(g.roi), g.roi[0].value.tolist())
    print("measured", *(f"{m.name.meaning}={m.value:.4g}{m.unit.value}" for m in g.get_measurements()))

seg = highdicom.seg.segread(at("scans_seg.dcm"))
sources = sorted(u[2] for u in seg.get_source_image_uids())
pixels = seg.get_pixels_by_source_instance(sources, combine_segments=False, assert_missing_frames_are_empty=True)
for n in seg.segment_numbers:
    z, y, x = np.nonzero(pixels[..., n - 1])
    print("segment", seg.get_segment_description(n).segment_label, "|", z.min(), z.max(), y.min(), y.max(), x.min(), x.max(), len(z))
shared = [g.tracking_uid for g in report.content.get_volumetric_roi_measurement_groups()]
print("tracked", [seg.get_segment_description(n).tracking_uid for n in seg.segment_numbers] == shared)

image = nibabel.load(at("scans.nii"))
values = np.asarray(image.dataobj)
print("labels", *(f"{v}:{(values == v).sum()}" for v in np.unique(values)), np.round(image.affine @ [0, 0, 0, 1], 3).tolist())

with contextlib.redirect_stdout(io.StringIO()):
    truth = COCO(at("annotations.json"))
    e = COCOeval(truth, truth.loadRes(at("results.json")), "bbox")
    e.evaluate()
    e.accumulate()
    e.summarize()
print("coco", len(truth.imgs), round(float(e.stats[1]), 3))
