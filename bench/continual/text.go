package continual

import (
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"

	"hypnos/bench/figure"
)

// name is a run's in tables and figures.
func (r Run) name() string {
	when := "no sleep"
	if r.SleepEvery > 0 {
		when = fmt.Sprintf("sleep every %d", r.SleepEvery)
	}
	what := "int16"
	if r.Backend != "fixed" {
		what = "float32"
	}
	return fmt.Sprintf("%s, %s, %s", r.Mode, when, what)
}

// WriteText prints the runs' figures, the matrices of integers, and integers against float.
func (r *Result) WriteText(w io.Writer) error {
	fmt.Fprintf(w, "%s on %s: %s, then %s\n", r.Network, r.Data, r.Tasks[0], strings.Join(r.Tasks[1:], ", "))
	fmt.Fprintf(w, "%d wake steps a task at batch 1, sgd at rate %g, instant sleep every %d steps or none, seed %d, %s test images, %.0f s\n\n",
		r.Steps, r.LR, r.SleepEvery, r.Seed, strings.Trim(fmt.Sprint(r.TestImages), "[]"), r.Seconds)
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "learns\tsleep\tnumbers\tACC\tBWT\tforgetting\t")
	for _, task := range r.Tasks {
		fmt.Fprintf(t, "%s\t", task)
	}
	fmt.Fprint(t, "\n")
	for _, run := range r.Runs {
		f := strings.Split(run.name(), ", ")
		fmt.Fprintf(t, "%s\t%s\t%s\t%.1f\t%+.1f\t%.1f\t", f[0], f[1], f[2], 100*run.Average, 100*run.BWT, 100*run.Forgetting)
		for _, v := range run.Accuracy[len(run.Accuracy)-1] {
			fmt.Fprintf(t, "%.1f\t", 100*v)
		}
		fmt.Fprint(t, "\n")
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprint(w, "top-1 accuracy in percent at the end of the stream; ACC, BWT: Lopez-Paz and Ranzato 2017, Eq. 2 and 3; forgetting: Chaudhry et al. 2018\n")
	for _, run := range r.Runs {
		if run.Mode == r.Runs[0].Mode && run.Backend == "fixed" {
			if err := r.writeMatrix(w, run); err != nil {
				return err
			}
		}
	}
	fmt.Fprint(w, "\nintegers against float: difference of the average accuracy, points, after each task\n")
	for _, run := range r.Runs {
		float := r.Find("cpu", run.Mode, run.SleepEvery)
		if run.Backend != "fixed" || float == nil {
			continue
		}
		fmt.Fprintf(w, "  %-40s", run.name())
		for i := range run.Accuracy {
			fmt.Fprintf(w, " %+.2f", 100*(mean(run.Accuracy[i])-mean(float.Accuracy[i])))
		}
		fmt.Fprintf(w, "   (end: %.2f and %.2f)\n", 100*run.Average, 100*float.Average)
	}
	return nil
}

// writeMatrix prints R of a run.
func (r *Result) writeMatrix(w io.Writer, run Run) error {
	fmt.Fprintf(w, "\naccuracy after each task (%s)\n", run.name())
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "after\ton ")
	for _, task := range r.Tasks {
		fmt.Fprintf(t, "%s\t", task)
	}
	fmt.Fprint(t, "\n")
	for i, row := range run.Accuracy {
		after := "no task"
		if i > 0 {
			after = r.Tasks[i]
		}
		fmt.Fprintf(t, "%s\t", after)
		for _, v := range row {
			fmt.Fprintf(t, "%.1f\t", 100*v)
		}
		fmt.Fprint(t, "\n")
	}
	return t.Flush()
}

// Figure is the average accuracy over all tasks against wake steps.
func (r *Result) Figure() figure.Figure {
	f := figure.Figure{Title: r.Network + ", " + r.Data, XLabel: "wake steps", YLabel: "average accuracy over all tasks (%)"}
	for _, run := range r.Runs {
		if run.Backend != "fixed" {
			continue
		}
		s := figure.Series{Name: strings.TrimSuffix(run.name(), ", int16")}
		for i, row := range run.Accuracy {
			s.X, s.Y = append(s.X, float64(i*r.Steps)), append(s.Y, 100*mean(row))
		}
		f.Series = append(f.Series, s)
	}
	return f
}

func mean(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}
