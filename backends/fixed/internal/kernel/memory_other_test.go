//go:build !unix

package kernel

import "testing"

// fenced is memory; on this system what lies behind it is not protected.
func fenced(_ *testing.T, size int) []byte { return make([]byte, size) }
