package kernels

import "testing"

// Every launch is within what CUDA allows, and has threads for all that there is to do.
func TestPointwiseLaunches(t *testing.T) {
	cases := 0
	check := func(what string, l Launch, blocks, threads int) {
		t.Helper()
		cases++
		g, b := l.Grid, l.Block
		if g[0] < 1 || g[1] < 1 || g[2] < 1 || g[1] > 65535 || g[2] > 65535 || g[0]*g[1]*g[2] < blocks {
			t.Errorf("%s: grid %v, want at least %d blocks", what, g, blocks)
		}
		if b[0]*b[1]*b[2] != threads || threads%32 != 0 {
			t.Errorf("%s: block %v, want %d threads", what, b, threads)
		}
	}
	check("one element", Elements(1), 1, 256)
	check("no element", Elements(0), 1, 256)
	check("1025 elements", Elements(1025), 2, 256)
	check("2^40 elements", Elements(1<<40), mostBlocks, 256)
	check("channels", Channels(513), 3, 256)
	check("totals", NormTotals(33), 2, 256)
	check("loss", Loss(9), 2, 256)
	check("transpose", Transpose(1<<20, 33, 31), 2*65535, 256)
	check("groups", Groups(2304, 9), 18*9, 256)
	check("groups of odd elements", Groups(33, 2), 4, 256)
	check("naive groups", NaiveGroups(2304, 9), 81, 256)
	check("columns", SumColumns(3), 3, 256)
	check("product", MapProduct(1<<30, 65), 2<<15, 256)
	if cases != 13 {
		t.Errorf("%d cases", cases)
	}
}

// NormSums makes parts of at least 16 rows a thread, at most 512 of them, and covers all channels.
func TestNormSums(t *testing.T) {
	for i, c := range []struct {
		rows            int64
		channels, bytes int
		parts, tiles    int
	}{
		{1, 1, 4, 1, 1},
		{1 << 19, 16, 2, 256, 1}, // 2 packs of 8: 128 rows at a time
		{1 << 19, 16, 4, 512, 1}, // 4 packs of 4: 64 rows at a time
		{12544, 512, 2, 98, 2},   // 64 packs of 8
		{12544, 511, 2, 98, 16},  // 511 packs of 1
		{1 << 40, 1 << 12, 4, 512, 32},
	} {
		l := NormSums(c.rows, c.channels, c.bytes)
		if l.Grid != [3]int{c.parts, c.tiles, 1} || l.Block != [3]int{256, 1, 1} || l.Shared != 0 {
			t.Errorf("case %d: %+v, want %d parts and %d tiles", i, l, c.parts, c.tiles)
		}
	}
}
