package model

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// NPYHeader is the beginning of a NumPy file, .npy of format 1.0 (numpy.lib.format), of float32 ('F32') or int32 ('I32') in C
// order; the elements follow, little-endian.
func NPYHeader(t DType, shape []int) ([]byte, error) {
	kind, ok := map[DType]string{F32: "<f4", I32: "<i4"}[t]
	if !ok {
		return nil, fmt.Errorf("model: npy: type %s", t)
	}
	var axes []string
	for _, d := range shape {
		axes = append(axes, fmt.Sprintf("%d,", d)) // a comma behind the last, too: a tuple of one
	}
	dict := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", kind, strings.Join(axes, " "))
	const before, align = len("\x93NUMPY") + 2 + 2, 64
	padded := (before+len(dict)+1+align-1)/align*align - before
	if padded > 1<<16-1 {
		return nil, fmt.Errorf("model: npy: %d axes", len(shape))
	}
	var b bytes.Buffer
	b.WriteString("\x93NUMPY\x01\x00")
	b.Write(binary.LittleEndian.AppendUint16(nil, uint16(padded)))
	b.WriteString(dict + strings.Repeat(" ", padded-len(dict)-1) + "\n")
	return b.Bytes(), nil
}
