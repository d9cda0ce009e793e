// Package weights turns PyTorch checkpoints into safetensors and lists what is in
// weight files. A checkpoint is a pickle, and a pickle is a program: this package
// runs the few instructions that build data, knows the few names that stand for
// tensors, and refuses everything else. Nothing of a file is ever executed.
package weights
