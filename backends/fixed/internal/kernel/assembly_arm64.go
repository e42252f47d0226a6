//go:build !purego

package kernel

func assembly() []*Kernels { return nil }
