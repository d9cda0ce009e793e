// Package boxops is the box algebra of a two-stage detector in plain Go: anchors,
// box regression targets, matching of anchors to lesions, balanced sampling,
// non-maximum suppression, the sampling tables of RoIAlign and pseudo-masks from
// RECIST measurements. Nothing here needs libtorch.
//
// Boxes are x1, y1, x2, y2 in pixels of the network's input. Two published
// conventions exist side by side: the continuous one, in which a box is x2-x1
// wide, and that of mmdetection's first major version, in which the corners are
// pixel indices and a box is x2-x1+1 wide. A Convention says which one holds.
package boxops
