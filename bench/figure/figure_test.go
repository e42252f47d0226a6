package figure

import (
	"encoding/xml"
	"image/png"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// drawn saves a figure and returns its SVG, after reading both files as what they should be.
func drawn(t *testing.T, f Figure) string {
	t.Helper()
	base := filepath.Join(t.TempDir(), "a")
	if err := f.Save(base); err != nil {
		t.Fatal(err)
	}
	svg, err := os.ReadFile(base + ".svg")
	if err != nil {
		t.Fatal(err)
	}
	d := xml.NewDecoder(strings.NewReader(string(svg)))
	elements := 0
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("%s.svg: %v", base, err)
		}
		if _, ok := token.(xml.StartElement); ok {
			elements++
		}
	}
	if elements < 10 {
		t.Errorf("the SVG has only %d elements", elements)
	}
	if at := regexp.MustCompile(`NaN|Inf`).FindString(string(svg)); at != "" {
		t.Errorf("the SVG has a coordinate of %s", at)
	}
	file, err := os.Open(base + ".png")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	m, err := png.Decode(file)
	if err != nil {
		t.Fatalf("%s.png: %v", base, err)
	}
	if b := m.Bounds(); b.Dx() < 900 || b.Dy() < 560 { // 16 cm by 10 cm at 150 dots an inch are 945 by 591
		t.Errorf("the PNG has %v pixels", b)
	}
	if left, _ := os.ReadDir(filepath.Dir(base)); len(left) != 2 {
		t.Errorf("%d files are left, want 2", len(left))
	}
	return string(svg)
}

func TestSave(t *testing.T) {
	svg := drawn(t, Figure{Title: "title & <sign>", XLabel: "across", YLabel: "up", Series: []Series{
		{Name: "first", X: []float64{0, 1, 2}, Y: []float64{3, 4, 5}},
		{Name: "second", X: []float64{0, 1}, Y: []float64{-3, 1e9}},
		{Name: "faint", X: []float64{0, 1}, Y: []float64{1, 2}, Faint: true},
		{Name: "nothing"},
	}})
	for _, text := range []string{"title &amp; &lt;sign&gt;", "across", "up", "first", "second"} {
		if !strings.Contains(svg, text) {
			t.Errorf("no %q in the figure", text)
		}
	}
	for _, text := range []string{"faint", "nothing"} {
		if strings.Contains(svg, text) {
			t.Errorf("%q is in the legend", text)
		}
	}
}

// Points that are not finite leave the same figure as points that are not there.
func TestInfinitePointsAreLeftOut(t *testing.T) {
	inf, nan := math.Inf(1), math.NaN()
	got := drawn(t, Figure{Series: []Series{
		{X: []float64{0, 1, 2, 3, 4, inf, nan}, Y: []float64{1, inf, 3, -inf, nan, 2, 2}}, {X: []float64{1}, Y: []float64{inf}},
	}})
	want := drawn(t, Figure{Series: []Series{{X: []float64{0, 2}, Y: []float64{1, 3}}}})
	if got != want {
		t.Error("points that are not finite change the figure")
	}
}

func TestSinglePoint(t *testing.T) {
	for _, faint := range []bool{false, true} {
		series := Series{Name: "one", X: []float64{3}, Y: []float64{0}, Faint: faint}
		svg := drawn(t, Figure{Series: []Series{series}})
		if !strings.Contains(svg, ">3<") || !strings.Contains(svg, ">0<") {
			t.Errorf("faint %t: the axes do not have the point's 3 and 0", faint)
		}
		more := drawn(t, Figure{Series: []Series{series, {X: []float64{2, 4}, Y: []float64{1, -1}}}})
		less := drawn(t, Figure{Series: []Series{{X: []float64{2, 4}, Y: []float64{1, -1}}}})
		if strings.Count(more, "<path") <= strings.Count(less, "<path") {
			t.Errorf("faint %t: the point is not drawn", faint)
		}
	}
}

func TestNoPoints(t *testing.T) {
	base := filepath.Join(t.TempDir(), "a")
	for _, f := range []Figure{{}, {Series: []Series{{Name: "x"}, {X: []float64{1}, Y: []float64{math.NaN()}}}}} {
		if err := f.Save(base); !f.Empty() || err == nil || !strings.Contains(err.Error(), base+": no points") {
			t.Errorf("error %v, want one that names the figure", err)
		}
	}
	if left, _ := os.ReadDir(filepath.Dir(base)); len(left) != 0 {
		t.Errorf("%v are left", left)
	}
	f := Figure{Series: []Series{{X: []float64{1}, Y: []float64{1}}}}
	if err := f.Save(filepath.Join(base, "missing", "a")); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("error %v does not name the folder", err)
	}
}

func TestTicks(t *testing.T) {
	for _, c := range []struct {
		from, to float64
		want     []string
	}{
		{0, 100, []string{"0", "20", "40", "60", "80", "100"}},
		{-0.1, 0.9, []string{"0", "0.2", "0.4", "0.6", "0.8"}},
		{0.5, 1.5, []string{"0.6", "0.8", "1", "1.2", "1.4"}},
		{-8, 2, []string{"-8", "-6", "-4", "-2", "0", "2"}},
	} {
		var got []string
		for _, tick := range (ticks{}).Ticks(c.from, c.to) {
			got = append(got, tick.Label)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("ticks from %g to %g: %v, want %v", c.from, c.to, got, c.want)
		}
	}
	for _, c := range [][2]float64{{1e20, 1e20}, {1e20, 1e20 + 32768}, {math.Inf(-1), math.Inf(1)}} {
		if n := len((ticks{}).Ticks(c[0], c[1])); n > 20 {
			t.Errorf("%d ticks from %g to %g", n, c[0], c[1])
		}
	}
}
