package dataset

import "github.com/alignedfusion/alignedfusion/internal/problem"

// ErrData is wrapped by every error that bad input data causes.
var ErrData = problem.ErrData

// Problem is one thing wrong with the data, and where.
type Problem = problem.Problem

// Problems is the error of data with one or more problems; errors.Is(err, ErrData).
type Problems = problem.List
