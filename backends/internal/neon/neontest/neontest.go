// Package neontest checks what package neon emitted.
package neontest

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// CheckWords tests that what a disassembler reads in the words of an assembly is what the comments behind them say.
func CheckWords(t *testing.T, code []byte) {
	t.Helper()
	const objdump = "aarch64-linux-gnu-objdump"
	if _, err := exec.LookPath(objdump); err != nil {
		t.Skipf("no %s here; make arm-tools installs it", objdump)
	}
	var words []byte
	var want []string
	for _, m := range regexp.MustCompile(`WORD \$(0x[0-9a-f]{8}) // (.*)`).FindAllSubmatch(code, -1) {
		word, err := strconv.ParseUint(string(m[1]), 0, 32)
		if err != nil {
			t.Fatal(err)
		}
		words = binary.LittleEndian.AppendUint32(words, uint32(word))
		want = append(want, string(m[2]))
	}
	if n := strings.Count(string(code), "WORD"); len(want) != n || n == 0 {
		t.Fatalf("%d of %d words have an instruction behind them", len(want), n)
	}
	file := filepath.Join(t.TempDir(), "words")
	if err := os.WriteFile(file, words, 0o600); err != nil {
		t.Fatal(err)
	}
	listing, err := exec.Command(objdump, "-D", "-z", "-b", "binary", "-m", "aarch64", file).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, listing)
	}
	lines := regexp.MustCompile(`(?m)^ +[0-9a-f]+:\t[0-9a-f]{8} \t(.*)$`).FindAllSubmatch(listing, -1)
	if len(lines) != len(want) {
		t.Fatalf("%d instructions disassembled, want %d", len(lines), len(want))
	}
	for i, line := range lines {
		if got := strings.ReplaceAll(string(line[1]), "\t", " "); got != want[i] {
			t.Errorf("word %d is %q, want %q", i, got, want[i])
		}
	}
}
