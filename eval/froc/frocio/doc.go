// Package frocio reads ground truth and predictions for package froc and writes
// its outcomes.
//
// # Tables (CSV with a header, or JSON Lines with the same keys)
//
//	image             which image
//	x1,y1,x2,y2       a 2-D box; with z a box on that slice; with z1,z2 a 3-D box
//	x,y,w,h           the same by its corner and sides; cx,cy,w,h by its centre and sides
//	xyxy, xywh        the same in one cell; the order of a bare bbox is asked of the rows
//	x,y[,z]           a point; cx,cy[,cz] mean the same
//	radius, diameter  of a point
//	mask              a volume, relative to the table; ground truth: every label is a
//	                  lesion (or every connected component, see Options.MaskLesions);
//	                  predictions: see Candidates
//	score             of a prediction; beside masks with label_id that of one label
//	patient, volume   of the image
//	class, reader     of a lesion; class of a mark
//	ignore            1, true or yes: the lesion is ignored; 0, false, no or empty: it counts
//
// Columns go by any usual name, without case, blanks and punctuation; Options.Columns names
// others. Files may be packed by gzip, and "-" is standard input.
//
// Further columns of the ground truth are strata. Further columns of predictions
// are left aside and named in the notes. A ground truth row with an image and no
// coordinates says that the image was searched and has no lesion.
//
// # Other formats
//
//   - LUNA16: annotations (seriesuid,coordX,coordY,coordZ,diameter_mm; a negative
//     diameter means 10 mm, as in the challenge's script), predictions
//     (…,probability) and seriesuids without a header.
//   - DeepLesion's DL_info.csv: boxes are moved from 1-based to 0-based pixels,
//     the patient is Patient_index, strata are organ, size_mm, thickness_mm and gender.
//   - COCO: ground truth .json with images and annotations, results .json. Boxes
//     x,y,width,height become x, y, x+width, y+height; iscrowd and ignore are ignored lesions.
//   - Those of MONAI, nnDetection, RSNA, VinDr, NIH, YOLO, RibFrac, CAMELYON16, nnU-Net and
//     JAFROC: see docs/reference/froc-files.md.
//   - Predictions as `alignedfusion predict` writes them, .csv, .json or .npz.
//   - NumPy .npz: boxes [K,4] x1,y1,x2,y2 or [K,6] x1,y1,x2,y2,z1,z2, or points [K,2]
//     or [K,3] with optional radius [K]; scores [K] of predictions; image [K], either
//     strings or 0-based rows of image_ids [N]; without it ids, where the ids are whole
//     numbers, or rows of the list of images. The image_ids of a ground truth are the list of images, unless one was
//     given; ground truth may add ignore [K].
package frocio
