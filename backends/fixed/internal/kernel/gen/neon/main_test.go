package main

import (
	"testing"

	"hypnos/backends/internal/neon"
	"hypnos/backends/internal/neon/neontest"
)

// What a disassembler reads in the words is what the comments behind them say.
func TestEncodings(t *testing.T) {
	code, _ := neon.Generate(generate)
	neontest.CheckWords(t, code)
}
