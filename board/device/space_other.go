//go:build !linux && !darwin

package device

// Space is Absent: this system has no Statfs.
func Space(path string) (uint64, error) {
	return 0, Absent("free space is read on Linux and macOS only")
}
