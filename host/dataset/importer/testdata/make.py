"""Writes small DICOM series in the ways that scanners and archives write them.

    python3 make.py    (needs pydicom, numpy; dcmcjpeg of dcmtk and gdcmconv of gdcm)

Every series is the same scan: 5 slices of 9 rows and 12 columns whose value in Hounsfield units is
100*slice + 10*row + column - 300, 0.8 x 0.7 mm in the plane, 2.5 mm apart, the first voxel at (-10, -20, 30) mm
(left, posterior, head). expected.json says so to the tests; nothing in it comes from the program tested.
"""
import json
import os
import shutil
import subprocess

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless)

HERE = os.path.dirname(os.path.abspath(__file__))
SLICES, ROWS, COLUMNS = 5, 9, 12
HU = (100 * np.arange(SLICES)[:, None, None] + 10 * np.arange(ROWS)[None, :, None]
      + np.arange(COLUMNS)[None, None, :] - 300).astype(int)


def uid(*numbers):
    return "1.2.826.0.1.3680043.10.99." + ".".join(map(str, numbers))


def base(series, number, syntax):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = uid(series, number)
    meta.TransferSyntaxUID = syntax
    ds = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.is_little_endian = syntax != ExplicitVRBigEndian
    ds.is_implicit_VR = syntax == ImplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.Modality, ds.PatientID, ds.PatientName = "CT", "1234", "Nobody^Known"
    ds.SeriesInstanceUID, ds.StudyInstanceUID = uid(series), uid(0)
    ds.Rows, ds.Columns, ds.SamplesPerPixel = ROWS, COLUMNS, 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PhotometricInterpretation = "MONOCHROME2"
    return ds


def place(ds, z, direction=(1, 0, 0, 0, 1, 0), origin=(-10, -20, 30), step=(0, 0, 2.5)):
    ds.ImagePositionPatient = [o + s * z for o, s in zip(origin, step)]
    ds.ImageOrientationPatient = list(direction)
    ds.PixelSpacing = [0.8, 0.7]
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024


def write(name, series, syntax=ExplicitVRLittleEndian, change=None, order=range(SLICES), **where):
    os.makedirs(name)
    for k in order:
        ds = base(series, k, syntax)
        place(ds, k, **where)
        stored = (HU[k] + 1024).astype(np.uint16)
        if change:
            stored = change(ds, k, stored)
        if stored is None:
            continue
        kind = stored.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")
        ds.PixelData = stored.astype(kind).tobytes()
        ds["PixelData"].VR = "OW"
        ds.save_as(f"{name}/{SLICES - k:02d}.dcm", write_like_original=False)


def signed(ds, k, stored):
    ds.PixelRepresentation, ds.BitsStored, ds.HighBit, ds.RescaleIntercept = 1, 16, 15, 0
    return HU[k].astype(np.int16)


def inverted(ds, k, stored):
    ds.PhotometricInterpretation = "MONOCHROME1"
    return (4095 - stored).astype(np.uint16)


def without(k):
    return lambda ds, z, stored: None if z == k else stored


def elsewhere(ds, k, stored):
    if k == 3:
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid(77, 77)
        ds.ImagePositionPatient = [-10, -20, 30 + 2.5 * 2]
    return stored


def no_rescale(ds, k, stored):
    del ds.RescaleSlope, ds.RescaleIntercept
    return stored


def multiframe():
    os.makedirs("multiframe")
    ds = base(20, 0, ExplicitVRLittleEndian)
    ds.NumberOfFrames = SLICES
    shared, orientation, measures, values = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing = [0.8, 0.7]
    values.RescaleSlope, values.RescaleIntercept = 1, -1024
    shared.PlaneOrientationSequence = Sequence([orientation])
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PixelValueTransformationSequence = Sequence([values])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for k in range(SLICES):
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = [-10, -20, 30 + 2.5 * k]
        frame.PlanePositionSequence = Sequence([position])
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    ds.PixelData = (HU + 1024).astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    ds.save_as("multiframe/all.dcm", write_like_original=False)


def others():
    """A series beside a segmentation of it, a screenshot in colour and a report."""
    write("others", 33)
    for number, kind in enumerate(["seg", "shot", "sr"]):
        ds = base(34 + number, 0, ExplicitVRLittleEndian)
        if kind == "seg":
            ds.SOPClassUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.66.4", "SEG"
            ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.NumberOfFrames = 1, 1, 0, 2
            ds.PixelData = bytes(28)
        elif kind == "shot":
            ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
            ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
            ds.PixelData = bytes(3 * ROWS * COLUMNS)
        else:
            del ds.Rows, ds.Columns
            ds.Modality = "SR"
        if kind != "sr":
            ds["PixelData"].VR = "OB"
        ds.save_as(f"others/{kind}.dcm", write_like_original=False)


def compress(name, series, command):
    write("plain", series)
    os.makedirs(name)
    for f in sorted(os.listdir("plain")):
        subprocess.run([a.format(f"plain/{f}", f"{name}/{f}") for a in command], check=True)
    shutil.rmtree("plain")


def main():
    out = os.path.join(HERE, "dicom")
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    os.chdir(out)
    write("explicit", 1)
    write("implicit", 2, ImplicitVRLittleEndian)
    write("big", 3, ExplicitVRBigEndian)
    write("signed", 4, change=signed)
    write("inverted", 5, change=inverted)
    write("coronal", 6, direction=(1, 0, 0, 0, 0, -1), step=(0, 2.5, 0))
    write("tilted", 7, step=(0, 0.7, 2.4))
    multiframe()
    compress("rle", 8, ["gdcmconv", "--rle", "{0}", "{1}"])
    compress("lossless", 9, ["dcmcjpeg", "+e1", "{0}", "{1}"])
    for predictor in range(1, 8):
        compress(f"lossless{predictor}", 10 + predictor, ["dcmcjpeg", "+el", "+sv", str(predictor), "{0}", "{1}"])
    compress("jpegls", 18, ["gdcmconv", "--jpegls", "{0}", "{1}"])
    compress("jpeg2000", 19, ["gdcmconv", "--j2k", "{0}", "{1}"])
    write("gap", 30, change=without(2))
    write("phases", 31, change=elsewhere)
    others()
    write("no_rescale", 32, change=no_rescale)
    with open("expected.json", "w") as f:
        json.dump({"hu": HU.tolist(), "origin_lps": [-10, -20, 30], "column_mm": 0.7, "row_mm": 0.8, "slice_mm": 2.5}, f)


main()
