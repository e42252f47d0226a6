package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"hypnos/bench/table"
	"hypnos/core/data/datatest"
)

// A table of a tiny network: printed, written, and not done again.
func TestTable(t *testing.T) {
	t.Parallel()
	source, dir := datatest.ClassFolders(t, 8, 8, 20), t.TempDir()
	out, file := filepath.Join(dir, "out"), filepath.Join(dir, "t.json")
	args := []string{"table", "1", "--data", source, "--scale", "sample", "--cells", "conv,lc,lc-ws1,lc-ws10", "--seeds", "1,2", "--epochs", "1", "--out", out, "--json", file,
		"--set", "network.width=2", "--set", "network.input=8", "--set", "train.batch=12"}
	r := works(t, args, "| conv |", "| LC - ws(10) |", "Not the paper's protocol", "runs, table and figures in "+out)
	if !strings.Contains(r.err, "LC - ws(10), seed 2: ") {
		t.Errorf("said %q", r.err)
	}
	var result table.Table
	parseJSON(t, read(t, file), &result)
	if len(result.Rows) != 4 || len(result.Rows[0].Runs) != 2 || result.Rows[1].Diff == nil {
		t.Errorf("%+v", result.Rows)
	}
	for _, name := range []string{"table.md", "accuracy.svg", "snr.png", "interval.svg"} {
		if _, err := os.Stat(filepath.Join(out, name)); err != nil {
			t.Error(err)
		}
	}
	again := works(t, args)
	_, first, _ := strings.Cut(r.out, "\n\n")
	_, second, _ := strings.Cut(again.out, "\n\n")
	if first != second || strings.Contains(again.err, "starting") {
		t.Errorf("again it gave\n%s, said %s", again.out, again.err)
	}
	for _, bad := range [][]string{{"3"}, {"x"}, {}, {"1", "--cells", "lc-ws7"}, {"1", "--seeds", "1,1"}, {"1", "--seeds", "-1"}, {"1", "--epochs", "-1"}, {"1", "--scale", "moon"}} {
		fails(t, dir, exitUsage, append([]string{"table"}, bad...))
	}
	fails(t, dir, exitFailed, []string{"table", "1", "--data", filepath.Join(dir, "missing")}, "missing")
}

// The page of the tables lists every cell.
func TestTablePage(t *testing.T) {
	text := read(t, "../../docs/TABLES.md")
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`lc?[^|]*|`conv`) \\|").FindAllStringSubmatch(text, -1) {
		for _, name := range strings.Split(row[1], ", ") {
			documented[strings.Trim(name, "`")] = true
		}
	}
	for _, name := range table.Names() {
		if !documented[name] {
			t.Errorf("%s is not on the page", name)
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("%s is on the page, and is no cell", name)
	}
}

// Table 2 from ImageNet's archives as they are downloaded: the first cell decodes into the cache, the second one reads it.
func TestTableOfArchives(t *testing.T) {
	t.Parallel()
	source, dir := datatest.ImageNet(t, 8, 8, 4), t.TempDir()
	cache := filepath.Join(dir, "cache")
	args := []string{"table", "2", "--data", source, "--scale", "sample", "--cells", "conv,lc-ws1", "--epochs", "1", "--out", filepath.Join(dir, "out"),
		"--set", "network.width=2", "--set", "network.input=8", "--set", "train.batch=12",
		"--set", "data.size=8", "--set", "data.fit=resize", "--set", "data.cache=" + cache}
	works(t, args, "| conv |", "| LC - ws(1) |", "ImageNet")
	before, err := os.Stat(filepath.Join(cache, "done"))
	if err != nil {
		t.Fatal(err)
	}
	works(t, append(args, "--seeds", "2"), "| conv |")
	after, err := os.Stat(filepath.Join(cache, "done"))
	if err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("the cache was made again (%v)", err)
	}
	if err := os.Remove(filepath.Join(source, "val_labels.txt")); err != nil {
		t.Fatal(err)
	}
	fails(t, dir, exitFailed, append(args, "--seeds", "3"), "ILSVRC2012_img_val.tar: nothing says its images' classes")
}
