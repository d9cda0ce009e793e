// Package dataset reads images, boxes, labels and attributes in the layouts the
// program knows and turns them into batches of tensors in the background.
//
// A data spec is LAYOUT:PATH with options behind a question mark; [Layouts] lists what
// there is.
//
// Coordinates are 0-based positions of pixel centres: the first pixel of a row
// lies at 0, an image of width W reaches from -0.5 to W-0.5.
package dataset
