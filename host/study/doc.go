// Package study runs the comparisons of a paper's tables: models that differ in one
// thing, trained with several seeds, on data with more and more attributes missing or
// with less and less to train on, and one table with confidence intervals and paired
// tests. Models are ordinary run directories; what is finished is not made again.
package study
