package ref_test

import (
	"testing"

	"hypnos/backends/backendtest"
	"hypnos/backends/ref"
	"hypnos/core"
)

func TestCompliance(t *testing.T) {
	backendtest.Run(t, backendtest.Config{
		Open:     func() (core.Backend, error) { return ref.Open(), nil },
		Roundoff: 0x1p-53,
	})
}
