//go:build unix

package doctor

import "golang.org/x/sys/unix"

// freeBytes is what this user may still write to a folder's disk.
func freeBytes(dir string) (uint64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return 0, err
	}
	return uint64(stat.Bavail) * uint64(stat.Bsize), nil
}
