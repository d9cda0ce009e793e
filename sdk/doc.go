// Package sdk is what a plugin author imports.
//
// A plugin is a program that serves stages (encoder, text, fusion, head) to the
// alignedfusion host. Its main function is one call:
//
//	func main() { serve.Plugin(sdk.Plugin{Manifest: manifest, Open: open}) }
//
// Open returns a Stage. A stage that can be trained also implements Trainer and
// Saver. The SDK checks every request against the manifest, keeps the books of
// open contexts, moves tensors through shared memory and turns panics into
// errors, so that a stage contains the model and nothing else. Stages written on
// libtorch are shorter still with package torchstage.
package sdk
