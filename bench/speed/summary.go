package speed

import "math"

// Summary answers from all rows what one row does not.
type Summary struct {
	// Speedup is that of all threads over one, where the FMA peak binds; nil without such rows.
	Speedup *SpeedupSummary `json:"speedup,omitempty"`
	Shares  []ShareSummary  `json:"shares"`
}

// SpeedupSummary is over all rows that were measured with one thread as well.
type SpeedupSummary struct {
	Threads int     `json:"threads"`
	Rows    int     `json:"rows"`
	Mean    float64 `json:"geometric_mean"` // of the rows' median ratios
	Least   float64 `json:"least"`
	LeastOf string  `json:"least_of"` // the row
}

// ShareSummary is over all rows of a kind, batch size and work that are bound by arithmetic, or by memory.
type ShareSummary struct {
	Kind    string  `json:"kind"`
	Batch   int     `json:"batch,omitempty"`
	What    string  `json:"what"`
	Binds   string  `json:"binds"` // FMA or memory
	Rows    int     `json:"rows"`
	Mean    float64 `json:"geometric_mean"` // of the median shares
	Least   float64 `json:"least"`
	LeastOf string  `json:"least_of"`
}

// summarise makes the summary of rows, in the order in which their works come.
func summarise(rows []Row) *Summary {
	if len(rows) == 0 {
		return nil
	}
	s := &Summary{}
	type group struct {
		kind        string
		batch       int
		what, binds string
	}
	var order []group
	members := map[group][]Row{}
	var scaled []Row
	for _, r := range rows {
		g := group{r.Kind, r.Batch, r.What, r.Binds}
		if r.Binds != FMA {
			g.binds = "memory"
		}
		if members[g] == nil {
			order = append(order, g)
		}
		members[g] = append(members[g], r)
		if r.OneThread != nil {
			scaled = append(scaled, r)
		}
	}
	for _, g := range order {
		mean, least := worst(members[g], func(r Row) float64 { return r.Share.Median })
		s.Shares = append(s.Shares, ShareSummary{g.kind, g.batch, g.what, g.binds, len(members[g]), mean, least.Share.Median, least.Key.String()})
	}
	if len(scaled) > 0 {
		mean, least := worst(scaled, func(r Row) float64 { return r.OneThread.Ratio.Median })
		s.Speedup = &SpeedupSummary{least.Threads, len(scaled), mean, least.OneThread.Ratio.Median, least.Key.String()}
	}
	return s
}

// worst is the geometric mean of what rows reach, and the row that reaches least.
func worst(rows []Row, of func(Row) float64) (mean float64, least Row) {
	logs := 0.0
	for i, r := range rows {
		logs += math.Log(of(r))
		if i == 0 || of(r) < of(least) {
			least = r
		}
	}
	return math.Exp(logs / float64(len(rows))), least
}
