// Package torchstage turns a model written on libtorch into a stage.
//
// An author writes a Module, whose Forward is plain tensor arithmetic on a Scope,
// and declares its parameters in a Params. The package does the rest: every torch
// call happens on one locked OS thread (autograd's grad mode and libtorch's last
// error are thread-local), memory is freed when a scope ends, Backward is an exact
// vector-Jacobian product, SGD and AdamW keep a state that can be saved, and
// weights are safetensors.
//
// Ops never panic and never end the process: the first failure sticks to the
// scope, later ops do nothing, and the error goes back to the host.
package torchstage
