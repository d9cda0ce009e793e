// Package a3d is a lesion detector for slices with context: the A3D operator in a
// truncated DenseNet, a one-level feature pyramid, a region proposal network and a
// box head (Yang et al., "Asymmetric 3D Context Fusion for Universal Lesion
// Detection", MICCAI 2021; configuration and names of its reference implementation,
// M3DV/AlignShift).
//
// The plugin serves two stages from one process. The encoder turns a volume into
// tokens of its stride-16 map and keeps the feature maps where they are; the head
// adds what a fusion stage changed in the tokens back to that map, through a
// projection that starts at zero, and finds boxes. Activations are [N·D, C, H, W]
// in channels-last memory throughout: the slices of a volume lie side by side in
// the batch dimension.
package a3d
