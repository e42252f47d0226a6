package emulator

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// entries reads an archive as the kernel does.
func entries(t *testing.T, b []byte) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for at := 0; ; {
		var fields [13]int
		if string(b[at:at+6]) != "070701" {
			t.Fatalf("no entry at %d: %q", at, b[at:at+6])
		}
		for i := range fields {
			if _, err := fmt.Sscanf(string(b[at+6+8*i:at+14+8*i]), "%08x", &fields[i]); err != nil {
				t.Fatal(err)
			}
		}
		size, length := fields[6], fields[11]
		name := string(b[at+110 : at+110+length-1])
		data := (at + 110 + length + 3) &^ 3
		all[name] = b[data : data+size]
		if at = (data + size + 3) &^ 3; name == "TRAILER!!!" {
			if at != len(b) {
				t.Errorf("%d bytes behind the end", len(b)-at)
			}
			return all
		}
	}
}

func TestInitramfs(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"init": "program", "a.hyp": "12345", "kernel/modules/modules.builtin": "kernel/fs/ext4/ext4.ko\n"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	k := Kernel{filepath.Join(dir, "kernel")}
	if err := WriteInitramfs(&b, filepath.Join(dir, "init"), k, []string{"ext4"}, map[string]string{"hil/a.hyp": filepath.Join(dir, "a.hyp")}); err != nil {
		t.Fatal(err)
	}
	all := entries(t, b.Bytes())
	for name, want := range map[string]string{"init": "program", "hil/a.hyp": "12345", "lib/modules/order": ""} {
		if got, ok := all[name]; !ok || string(got) != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if err := WriteInitramfs(&b, filepath.Join(dir, "init"), k, []string{"warp_drive"}, nil); err == nil {
		t.Error("a module that is not there was taken")
	}
}
