// Package synth writes synthetic data sets in real layouts: CT-like slices in
// DeepLesion's and pictures with attributes as a table. In both the picture alone
// leaves open what the report or the attributes tell, so that a method which joins
// them has something to gain. Everything written calls itself synthetic.
package synth
