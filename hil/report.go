package hil

import (
	_ "embed"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"
)

// WriteJSON writes the whole report.
func (r Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "\t")
	return e.Encode(r)
}

// JUnit's elements, as far as what reads it agrees on them.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Name     string       `xml:"name,attr"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Skipped  int          `xml:"skipped,attr"`
		Time     string       `xml:"time,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name      string      `xml:"name,attr"`
		Tests     int         `xml:"tests,attr"`
		Failures  int         `xml:"failures,attr"`
		Skipped   int         `xml:"skipped,attr"`
		Timestamp string      `xml:"timestamp,attr"`
		Cases     []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class   string        `xml:"classname,attr"`
		Name    string        `xml:"name,attr"`
		Time    string        `xml:"time,attr"`
		Failure *junitMessage `xml:"failure"`
		Skipped *junitMessage `xml:"skipped"`
		Out     string        `xml:"system-out,omitempty"`
	}
	junitMessage struct {
		Message string `xml:"message,attr"`
	}
)

// WriteJUnit writes the report as test systems read it: a suite for each target.
func (r Report) WriteJUnit(w io.Writer) error {
	seconds := func(s float64) string { return fmt.Sprintf("%.3f", s) }
	all := junitSuites{Name: "hil " + r.Rig, Tests: len(r.Results), Failures: r.Count(Failed), Skipped: r.Count(Skipped), Time: seconds(r.Seconds)}
	for _, x := range r.Results {
		if n := len(all.Suites); n == 0 || all.Suites[n-1].Name != x.Target {
			all.Suites = append(all.Suites, junitSuite{Name: x.Target, Timestamp: r.Began.Format(time.RFC3339)})
		}
		s := &all.Suites[len(all.Suites)-1]
		c := junitCase{Class: r.Rig + "." + x.Target, Name: x.Scenario, Time: seconds(x.Seconds), Out: printable(strings.Join(x.Notes, "\n"))}
		switch x.Outcome {
		case Failed:
			s.Failures++
			c.Failure = &junitMessage{printable(x.Reason)}
			c.Out += printable("\n" + x.Console + "\n" + x.Log)
		case Skipped:
			s.Skipped++
			c.Skipped = &junitMessage{printable(x.Reason)}
		}
		s.Tests++
		s.Cases = append(s.Cases, c)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "\t")
	if err := e.Encode(all); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// printable leaves out what XML cannot have.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, s)
}

//go:embed report.html
var page string

// WriteHTML writes the report as one page without outside resources.
func (r Report) WriteHTML(w io.Writer) error {
	t, err := template.New("report").Funcs(template.FuncMap{
		"plot":    func(x Result) template.HTML { return plot(x.Samples) },
		"seconds": func(s float64) string { return fmt.Sprintf("%.1f", s) },
		"date":    func(t time.Time) string { return t.Format("2006-01-02 15:04:05 MST") },
	}).Parse(page)
	if err != nil {
		return err
	}
	return t.Execute(w, r)
}

// Size of a plot, in pixels.
const (
	plotWidth, plotHeight = 720.0, 150.0
	plotLeft, plotTop     = 46.0, 12.0
)

// plot draws temperature and SNR against time over the state, as SVG; nothing of less than three samples.
func plot(samples []Sample) template.HTML {
	if len(samples) < 3 {
		return ""
	}
	end := samples[len(samples)-1].At
	if end <= 0 {
		return ""
	}
	x := func(at float64) float64 { return plotLeft + (plotWidth-2*plotLeft)*at/end }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %g %g" role="img" aria-label="state, temperature and SNR against time">`, plotWidth, plotHeight+plotTop+22)
	for i := 0; i < len(samples); {
		j := i
		for j < len(samples) && samples[j].State == samples[i].State {
			j++
		}
		until := end
		if j < len(samples) {
			until = samples[j].At
		}
		fmt.Fprintf(&b, `<rect class="%s" x="%.1f" y="%g" width="%.1f" height="%g"><title>%s</title></rect>`,
			template.HTMLEscapeString(samples[i].State), x(samples[i].At), plotTop, x(until)-x(samples[i].At), plotHeight, template.HTMLEscapeString(samples[i].State))
		i = j
	}
	curve(&b, "celsius", "°C", plotLeft-4, "end", samples, x, func(s Sample) *float64 { return s.Celsius })
	curve(&b, "snr", "SNR", plotWidth-plotLeft+4, "start", samples, x, func(s Sample) *float64 { return s.SNR })
	fmt.Fprintf(&b, `<text x="%g" y="%g">0</text><text x="%g" y="%g" text-anchor="end">%.0f s</text></svg>`,
		plotLeft, plotTop+plotHeight+16, plotWidth-plotLeft, plotTop+plotHeight+16, end)
	return template.HTML(b.String())
}

// curve draws one quantity between its own least and largest value.
func curve(b *strings.Builder, class, unit string, labels float64, anchor string, samples []Sample, x func(float64) float64, of func(Sample) *float64) {
	var points []string
	least, most, any := 0.0, 0.0, false
	for _, s := range samples {
		if v := of(s); v != nil {
			if !any || *v < least {
				least = *v
			}
			if !any || *v > most {
				most = *v
			}
			any = true
		}
	}
	if !any {
		return
	}
	span := most - least
	if span == 0 {
		span = 1
	}
	for _, s := range samples {
		if v := of(s); v != nil {
			points = append(points, fmt.Sprintf("%.1f,%.1f", x(s.At), plotTop+plotHeight-6-(plotHeight-12)*(*v-least)/span))
		}
	}
	fmt.Fprintf(b, `<polyline class="%s" points="%s"/>`, class, strings.Join(points, " "))
	for _, l := range []struct{ v, y float64 }{{most, plotTop + 10}, {least, plotTop + plotHeight}} {
		fmt.Fprintf(b, `<text class="%s" x="%g" y="%g" text-anchor="%s">%.3g %s</text>`, class, labels, l.y, anchor, l.v, unit)
	}
}
