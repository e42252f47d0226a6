package emulator

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// cpio writes an archive in the format of an initramfs ("newc", Linux: Documentation/driver-api/early-userspace/buffer-format.rst).
type cpio struct {
	w      io.Writer
	inode  int
	length int
	err    error
}

// entry adds a file; of a device major and minor are the numbers.
func (c *cpio) entry(name string, mode uint32, major, minor int, data []byte) {
	c.inode++
	c.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name))
	c.write(data)
}

// write adds bytes, up to the next multiple of 4.
func (c *cpio) write(b []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(b)
	}
	c.length += len(b)
	if pad := -c.length & 3; pad > 0 {
		c.length += pad
		if c.err == nil {
			_, c.err = c.w.Write(make([]byte, pad))
		}
	}
}

// Modes of files in an initramfs.
const (
	modeFolder = 0o040755
	modeFile   = 0o100755
	modeDevice = 0o020600
)

// WriteInitramfs writes an initramfs with init as process 1, the modules and what they need, in that order, and the files (path on the
// device → path here).
func WriteInitramfs(w io.Writer, init string, kernel Kernel, modules []string, files map[string]string) error {
	c := &cpio{w: w}
	for _, d := range []string{"dev", "lib", "lib/modules", "hil"} {
		c.entry(d, modeFolder, 0, 0, nil)
	}
	c.entry("dev/console", modeDevice, 5, 1, nil)
	c.entry("dev/null", modeDevice, 1, 3, nil)
	program, err := os.ReadFile(init)
	if err != nil {
		return err
	}
	c.entry("init", modeFile, 0, 0, program)
	order, err := kernel.loadOrder(modules)
	if err != nil {
		return err
	}
	var names []string
	for _, m := range order {
		c.entry("lib/modules/"+m.name+".ko", modeFile, 0, 0, m.text)
		names = append(names, m.name)
	}
	c.entry("lib/modules/order", modeFile, 0, 0, []byte(strings.Join(names, "\n")))
	var paths []string
	for p := range files {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	for _, p := range paths {
		text, err := os.ReadFile(files[p])
		if err != nil {
			return err
		}
		c.entry(p, modeFile, 0, 0, text)
	}
	c.entry("TRAILER!!!", 0, 0, 0, nil)
	return c.err
}

// Kernel is a kernel with its modules and device trees, as make hil-tools leaves it in a folder.
type Kernel struct{ Dir string }

// Image is the kernel's file.
func (k Kernel) Image() string { return filepath.Join(k.Dir, "image") }

// Release is its version.
func (k Kernel) Release() (string, error) {
	text, err := os.ReadFile(filepath.Join(k.Dir, "release"))
	return strings.TrimSpace(string(text)), err
}

type module struct {
	name string
	text []byte
}

// loadOrder are modules with those that they need, each after what it needs. What is built in is left out.
func (k Kernel) loadOrder(names []string) ([]module, error) {
	root, err := filepath.EvalSymlinks(filepath.Join(k.Dir, "modules"))
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(d.Name(), ".ko"); ok && err == nil {
			files[strings.ReplaceAll(name, "-", "_")] = p
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	builtin, err := os.ReadFile(filepath.Join(root, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	var order []module
	seen := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		name = strings.ReplaceAll(name, "-", "_")
		if name == "" || seen[name] {
			return nil
		}
		seen[name] = true
		path, ok := files[name]
		if !ok {
			if bytes.Contains(bytes.ReplaceAll(builtin, []byte("-"), []byte("_")), []byte("/"+name+".ko")) {
				return nil
			}
			return fmt.Errorf("emulator: the kernel has no module %s", name)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		needs, err := moduleNeeds(text)
		if err != nil {
			return fmt.Errorf("emulator: %s: %w", path, err)
		}
		for _, n := range needs {
			if err := visit(n); err != nil {
				return err
			}
		}
		order = append(order, module{name, text})
		return nil
	}
	for _, n := range names {
		if err := visit(n); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleNeeds are the modules that a module says it needs.
func moduleNeeds(text []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("no section .modinfo")
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	for _, field := range strings.Split(string(info), "\x00") {
		if v, ok := strings.CutPrefix(field, "depends="); ok && v != "" {
			return strings.Split(v, ","), nil
		}
	}
	return nil, nil
}
