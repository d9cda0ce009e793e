// Package dataset reads images, boxes, labels and attributes in the layouts the
// program knows and turns them into batches of tensors in the background.
//
// A data spec is LAYOUT:PATH with options behind a question mark:
//
//	deeplesion:DIR   DL_info.csv, Images_png/PPPPPP_SS_EE/NNN.png, optional attributes.csv
//	boxes:DIR        images.csv, boxes.csv, optional ignore.csv, images/
//	boxes:FILE.csv   one table of images and boxes, images in the folder named like the file
//	table:FILE.csv   id, image or image.<name>, patient, split, label or label.<task>, attributes
//	derm7pt:DIR      meta/meta.csv, meta/*_indexes.csv, images/ (or all of them in DIR)
//	nifti:PATH       a .nii or .nii.gz file, or a folder of them (no targets)
//	slices:PATH      a folder of PNG or JPEG slices, or one of them (no targets)
//	image:FILE       one picture (no targets)
//
// Coordinates are 0-based positions of pixel centres: the first pixel of a row
// lies at 0, an image of width W reaches from -0.5 to W-0.5.
package dataset
