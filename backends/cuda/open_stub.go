//go:build !(cuda && cgo && linux && amd64)

package cuda

import (
	"errors"

	"hypnos/core"
)

// Open returns the backend; here, an error: this build has none.
func Open(o Options) (core.Backend, error) {
	if _, err := o.withDefaults(); err != nil {
		return nil, err
	}
	return nil, errNotBuilt()
}

// Devices describes the devices of this machine; here, an error: this build does not know them.
func Devices() ([]string, error) { return nil, errNotBuilt() }

func errNotBuilt() error {
	return errors.New("cuda: not part of this build; make cuda builds a program that has it, on Linux on amd64")
}
