package kernels

// threads is the number of threads of most blocks.
const threads = 256

// mostBlocks bounds grids whose threads loop over what is left. It is several times what any GPU runs at once.
const mostBlocks = 1 << 12

// Elements is the launch of the kernels that go over n elements of an array: images, canonical, relu, add, pools (elements of what
// they write), finite, norm_forward and norm_backward (rows·C), adam, momentum, augment (pixels), map_take and map_put (count·cout·M),
// copy and scale.
func Elements(n int64) Launch {
	const each = 4 // elements of a thread at a time
	blocks := min(max(ceil(n, threads*each), 1), mostBlocks)
	return Launch{Grid: [3]int{int(blocks), 1, 1}, Block: [3]int{threads, 1, 1}}
}

// Channels is the launch of norm_running and norm_move: a thread a channel.
func Channels(c int) Launch {
	return Launch{Grid: [3]int{ceil(c, threads), 1, 1}, Block: [3]int{threads, 1, 1}}
}

// NormTotals is the launch of norm_statistics and norm_gradient.
func NormTotals(c int) Launch {
	return Launch{Grid: [3]int{ceil(c, 32), 1, 1}, Block: [3]int{32, 8, 1}}
}

// NormSums is the launch of norm_sums and norm_gradient_sums over so many rows of c channels, elements being of so many bytes.
// Grid[0] is the number of parts: parts takes Grid[0]·2·c doubles.
func NormSums(rows int64, c, elementBytes int) Launch {
	const most, least = 512, 16 // parts, and rows of a thread that make one worth it
	packs := c
	if wide := 16 / elementBytes; c%wide == 0 {
		packs = c / wide
	}
	width := 1
	for width < packs && width < 32 {
		width *= 2
	}
	parts := min(max(rows/int64(least*threads/width), 1), most)
	return Launch{Grid: [3]int{int(parts), ceil(packs, width), 1}, Block: [3]int{threads, 1, 1}}
}

// Transpose is the launch of transpose, of input positions p and channels c.
func Transpose(batch, p, c int) Launch {
	const most = 1<<16 - 1 // blocks in a grid's third dimension
	return Launch{Grid: [3]int{ceil(c, 32), ceil(p, 32), min(batch, most)}, Block: [3]int{32, 8, 1}}
}

// Loss is the launch of softmax_cross_entropy: a warp an image.
func Loss(batch int) Launch {
	return Launch{Grid: [3]int{ceil(batch, threads/32), 1, 1}, Block: [3]int{threads, 1, 1}}
}

// Groups is the launch of instant_sleep and group_moments over so many grids of a layer with so many elements a position.
// instant_sleep's parts take Grid[0]·Grid[1]·3 doubles.
func Groups(elements int64, grids int) Launch {
	each := int64(1)
	if elements%4 == 0 {
		each = 4
	}
	return Launch{Grid: [3]int{int(ceil(elements, 32*each)), grids, 1}, Block: [3]int{32, 8, 1}}
}

// NaiveGroups is the launch of naive_instant_sleep.
func NaiveGroups(elements int64, grids int) Launch {
	return Launch{Grid: [3]int{int(ceil(elements, threads)), grids, 1}, Block: [3]int{threads, 1, 1}}
}

// SumColumns is the launch of sum_columns.
func SumColumns(columns int) Launch {
	return Launch{Grid: [3]int{columns, 1, 1}, Block: [3]int{threads, 1, 1}}
}

// MapProduct is the launch of map_product, whose result is (rows, n).
func MapProduct(rows int64, n int) Launch {
	const tile = 64
	return Launch{Grid: [3]int{ceil(n, tile), int(min(ceil(rows, tile), 1<<15)), 1}, Block: [3]int{threads, 1, 1}}
}

// Feedback is the launch of feedback over a batch of inputs of n elements: a thread an element of 8 images.
func Feedback(batch, n int) Launch {
	return Launch{Grid: [3]int{ceil(n, threads), ceil(batch, 8), 1}, Block: [3]int{threads, 1, 1}}
}
