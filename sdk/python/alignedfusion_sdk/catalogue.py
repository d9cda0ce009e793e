"""The ports and dtypes that hosts and stages know by name.

Written by `go test ./sdk/ports -update` from the Go SDK's tables: do not edit.
"""

# Name in the protocol: (attribute of the module torch, name in a safetensors header).
DTYPES = {
    "BOOL": ("bool", "BOOL"),
    "UINT8": ("uint8", "U8"),
    "INT8": ("int8", "I8"),
    "INT16": ("int16", "I16"),
    "INT32": ("int32", "I32"),
    "INT64": ("int64", "I64"),
    "FP16": ("float16", "F16"),
    "BF16": ("bfloat16", "BF16"),
    "FP32": ("float32", "F32"),
    "FP64": ("float64", "F64"),
}

VOLUME = "volume"
VOLUME_ANY = "volume.*"
SPACING = "spacing"
SPACING_ANY = "spacing.*"
IMAGE_ANY = "image.*"
BAG_ANY = "bag.*"
REPORT_EMBEDDING = "report.embedding"
REPORT_STATE = "report.state"
REPORT_VALUE = "report.value"
TARGET_LABEL = "target.label"
TARGET_LABEL_ANY = "target.label.*"
TARGET_VALUE = "target.value"
TARGET_VALUE_ANY = "target.value.*"
TARGET_CENSORED = "target.censored"
TARGET_CENSORED_ANY = "target.censored.*"
TARGET_BOXES = "target.boxes"
TARGET_IMAGE = "target.image"
TARGET_CLASS = "target.class"
TARGET_RECIST = "target.recist"
TARGET_IGNORE = "target.ignore"
TARGET_IGNORE_IMAGE = "target.ignore.image"
TOKENS_ANY = "tokens.*"
TOKENS_REPORT = "tokens.report"
JOINT = "joint"
RECONSTRUCTION = "reconstruction"
BOXES = "boxes"
SCORES = "scores"
LABELS = "labels"
IMAGE = "image"
LOGITS = "logits"
LOGITS_ANY = "logits.*"
METRIC_ANY = "metric.*"
WEIGHTING_ANY = "weighting.*"
VISUAL_ANY = "visual.*"
TEXT = "text"
EMBEDDING = "embedding"

# Name: (dtype, shape, takes part in backward, is computed on request, what it holds).
PORTS = {
    VOLUME: ("FP32", ["N", "1", "D", "H", "W"], False, False,
        "D slices about the one to be searched, intensities as the encoder's port declares"),
    VOLUME_ANY: ("FP32", ["N", "1", "D", "H", "W"], False, False,
        "the same of one of several phases or sequences of a case"),
    SPACING: ("FP32", ["N", "3"], False, False,
        "mm between network pixels (z, y, x), with volume"),
    SPACING_ANY: ("FP32", ["N", "3"], False, False,
        "the same, with volume.*"),
    IMAGE_ANY: ("FP32", ["N", "3", "H", "W"], False, False,
        "RGB image of a modality, intensities as the encoder's port declares"),
    BAG_ANY: ("FP32", ["N", "P", "3", "H", "W"], False, False,
        "P patches of each case's slide, RGB, intensities as the encoder's port declares; of a slide with fewer some come again"),
    REPORT_EMBEDDING: ("FP32", ["N", "A", "E"], True, False,
        "text embedding of each attribute's prompt, zero where unmentioned"),
    REPORT_STATE: ("INT8", ["N", "A"], False, False,
        "0 unmentioned, 1 stated, 2 negated, 3 uncertain"),
    REPORT_VALUE: ("INT64", ["N", "A"], False, False,
        "index into the attribute's value set, -1 unknown"),
    TARGET_LABEL: ("INT64", ["N"], False, False,
        "class index, -1 unknown; with one label set"),
    TARGET_LABEL_ANY: ("INT64", ["N"], False, False,
        "class index per label set, -1 unknown; with several"),
    TARGET_VALUE: ("FP32", ["N"], False, False,
        "in the place of target.label where a number is asked: in standard deviations from the mean of training, NaN unknown"),
    TARGET_VALUE_ANY: ("FP32", ["N"], False, False,
        "the same per label set; with several"),
    TARGET_CENSORED: ("INT8", ["N"], False, False,
        "where the time to an event is asked: 1 if the event lies in the interval target.label or in a later one, 0 if in that one"),
    TARGET_CENSORED_ANY: ("INT8", ["N"], False, False,
        "the same per label set; with several"),
    TARGET_BOXES: ("FP32", ["M", "4"], False, False,
        "lesions of all images, x1 y1 x2 y2 in input pixels; M may be 0"),
    TARGET_IMAGE: ("INT32", ["M"], False, False,
        "image of each lesion"),
    TARGET_CLASS: ("INT64", ["M"], False, False,
        "class of each lesion"),
    TARGET_RECIST: ("FP32", ["M", "8"], False, False,
        "ends of the long and the short diameter; NaN where unknown"),
    TARGET_IGNORE: ("FP32", ["I", "4"], False, False,
        "regions that are neither lesion nor background; I may be 0"),
    TARGET_IGNORE_IMAGE: ("INT32", ["I"], False, False,
        "image of each ignore region"),
    TOKENS_ANY: ("FP32", ["N", "T", "C"], True, False,
        "tokens of a modality, each with its own T and C; the encoder's, then the fusion's in the same shape"),
    TOKENS_REPORT: ("FP32", ["N", "A", "D"], True, False,
        "one token per attribute; with attributes only"),
    JOINT: ("FP32", ["N", "J"], True, False,
        "summary of all modalities after fusion"),
    RECONSTRUCTION: ("FP32", ["N", "A", "K"], False, False,
        "probabilities over each attribute's value set"),
    BOXES: ("FP32", ["K", "4"], False, False,
        "x1 y1 x2 y2 in input pixels"),
    SCORES: ("FP32", ["K"], False, False,
        "probability of each box's class"),
    LABELS: ("INT64", ["K"], False, False,
        "class of each box, from 0; absent means 0"),
    IMAGE: ("INT32", ["K"], False, False,
        "image of each box"),
    LOGITS: ("FP32", ["N", "classes"], False, False,
        "with one label set; where a number is asked [N 1], as target.value"),
    LOGITS_ANY: ("FP32", ["N", "classes"], False, False,
        "per label set; with several"),
    METRIC_ANY: ("FP32", ["N"], False, True,
        "a metric of the head's own of each case, NaN where it has none; the targets are given where it is asked for"),
    WEIGHTING_ANY: ("FP32", ["N", "T"], False, True,
        "how much each token of a modality counts in the answer; those of a case sum to 1"),
    VISUAL_ANY: ("FP32", ["N", "rows", "columns"], False, True,
        "a map over the picture (attention, saliency) of any size, stretched over it; the greater, the brighter"),
    TEXT: ("BYTES", ["N"], False, False,
        "prompts in UTF-8"),
    EMBEDDING: ("FP32", ["N", "E"], False, False,
        "one vector per prompt"),
}
