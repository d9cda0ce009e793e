// Package plan measures a data set (spacing, slice distance, boxes, Hounsfield units,
// missing attributes) and derives the settings of a training from it, each with its reason.
package plan
