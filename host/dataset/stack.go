package dataset

// stack is the run of slices a key slice lies in.
type stack struct {
	// files holds the slices' paths by slice number.
	files map[int]string
	// nifti is the volume's path, "" for a stack of files.
	nifti string
	// depth is the number of slices of a NIfTI volume.
	depth int
	// fileBytes is the NIfTI file's size.
	fileBytes int64
}

// has reports whether slice number n exists.
func (s *stack) has(n int) bool {
	if s.nifti != "" {
		return n >= 0 && n < s.depth
	}
	_, ok := s.files[n]
	return ok
}

// nearest returns n if that slice exists, else the nearest existing one on the way
// from n to key. The key slice always exists.
func (s *stack) nearest(n, key int) int {
	for n != key && !s.has(n) {
		if n < key {
			n++
		} else {
			n--
		}
	}
	return n
}
