// Package froc evaluates marks of lesions: free-response ROC curves,
// sensitivity at given false positives per image, average precision, AFROC
// figures of merit, confidence intervals clustered by patient and paired
// comparisons of systems.
//
// # Model
//
// A [Truth] lists every image that was searched, lesion-free ones included, and
// the lesions in them. A [Prediction] is a region with a score. [Evaluate]
// matches them under a [Protocol] and returns a [Result], which carries the
// whole curve, the operating points and the fate of every lesion and of every
// prediction. Results on one Truth can be bootstrapped ([Result.Bootstrap]) and
// compared ([Compare]).
//
// # Guarantees
//
//   - The result does not depend on the order of images, lesions or
//     predictions. Predictions of one score are one step of the curve.
//   - The curve is threshold consistent: its point at score t is what one gets
//     by keeping only the predictions with score >= t and counting.
//   - Only the order of scores matters; they need not be probabilities.
//   - Random numbers come from the seed alone, so that equal seeds give equal
//     intervals and p-values on every machine and for any number of threads.
//
// Readers of files are in the package frocio, plots in frocplot.
package froc
