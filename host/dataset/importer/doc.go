// Package importer makes of scans as scanners and other tools write them a data set in
// the layout volumes: uncompressed NIfTI volumes, volumes.csv and boxes.csv. It keeps
// where a voxel lies in the patient, and refuses what it would have to guess.
package importer
