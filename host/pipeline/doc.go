// Package pipeline wires opened stages (encoder, fusion, head) into one model:
// it checks their ports against each other, runs them forward, sends gradients
// back through them and takes an optimizer step with one global gradient norm.
//
// Nothing here touches files, the network or the clock's meaning: a stage is
// whatever satisfies Instance, a plugin in another process or a Go value in a test.
package pipeline
