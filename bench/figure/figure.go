// Package figure draws line figures as SVG and PNG.
package figure

import (
	"fmt"
	"image/color"
	"io"
	"math"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"

	"hypnos/core/model"
)

// Series is one line. Points that are not finite are left out, the line goes on behind them.
type Series struct {
	Name  string // in the legend; "" leaves it out
	X, Y  []float64
	Faint bool // thin and grey, for the many behind the few
}

// Figure is a plot of some lines.
type Figure struct {
	Title, XLabel, YLabel string
	Series                []Series
}

// Size of a figure on paper, and the resolution of its PNG.
const (
	width  = 16 * vg.Centimeter
	height = 10 * vg.Centimeter
	dpi    = 150
)

// palette are the colours of Okabe and Ito (2008), which the colour-blind can tell apart.
func palette() []color.Color {
	return []color.Color{
		color.RGBA{0, 0, 0, 255}, color.RGBA{0xd5, 0x5e, 0x00, 255}, color.RGBA{0xe6, 0x9f, 0x00, 255},
		color.RGBA{0x00, 0x72, 0xb2, 255}, color.RGBA{0x00, 0x9e, 0x73, 255}, color.RGBA{0xcc, 0x79, 0xa7, 255},
		color.RGBA{0x56, 0xb4, 0xe9, 255},
	}
}

// Empty tells whether there is no point to draw.
func (f Figure) Empty() bool {
	for _, s := range f.Series {
		if len(s.points()) > 0 {
			return false
		}
	}
	return true
}

// points are those with finite coordinates.
func (s Series) points() plotter.XYs {
	var xys plotter.XYs
	finite := func(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
	for i, y := range s.Y {
		if finite(s.X[i]) && finite(y) {
			xys = append(xys, plotter.XY{X: s.X[i], Y: y})
		}
	}
	return xys
}

// Save writes base.svg and base.png. A figure without points is an error.
func (f Figure) Save(base string) error {
	if f.Empty() {
		return fmt.Errorf("figure: %s: no points", base)
	}
	p, legend, err := f.plot()
	if err != nil {
		return fmt.Errorf("figure: %s: %w", base, err)
	}
	svg := vgsvg.New(width, height)
	png := vgimg.NewWith(vgimg.UseWH(width, height), vgimg.UseDPI(dpi))
	for _, c := range []vg.CanvasSizer{svg, png} {
		arrange(draw.New(c), p, legend)
	}
	for _, out := range []struct {
		path string
		from io.WriterTo
	}{{base + ".svg", svg}, {base + ".png", vgimg.PngCanvas{Canvas: png}}} {
		if err := model.Replace(out.path, func(w io.Writer) error { _, err := out.from.WriteTo(w); return err }); err != nil {
			return err
		}
	}
	return nil
}

// arrange draws the plot with its legend at the right of it, where no line can run.
func arrange(c draw.Canvas, p *plot.Plot, legend plot.Legend) {
	const gap = 3 * vg.Millimeter
	room := legend.Rectangle(c).Size().X
	if room > 0 {
		room += gap
	}
	p.Draw(draw.Crop(c, gap/2, -room-gap, gap/2, -gap/2))
	legend.Draw(draw.Crop(c, c.Size().X-room, -gap/2, 0, -height/8))
}

func (f Figure) plot() (*plot.Plot, plot.Legend, error) {
	p, legend := plot.New(), plot.NewLegend()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = f.Title, f.XLabel, f.YLabel
	p.Title.Padding = vg.Millimeter * 2
	p.X.Tick.Marker, p.Y.Tick.Marker = ticks{}, ticks{}
	legend.Top, legend.Left, legend.YPosition = true, true, draw.PosCenter
	legend.Padding = vg.Millimeter
	p.Add(plotter.NewGrid())
	colours, next := palette(), 0
	for _, s := range f.Series {
		xys := s.points()
		if len(xys) == 0 {
			continue
		}
		line, points, err := plotter.NewLinePoints(xys)
		if err != nil {
			return nil, legend, fmt.Errorf("%s: %w", s.Name, err)
		}
		if s.Faint {
			line.Color, line.Width = color.Gray{0xc0}, vg.Points(0.5)
			points.Color, points.Shape, points.Radius = line.Color, draw.CircleGlyph{}, vg.Points(0.8)
			p.Add(line, points)
			continue
		}
		line.Color, line.Width = colours[next%len(colours)], vg.Points(1.5)
		points.Color, points.Shape, points.Radius = line.Color, draw.CircleGlyph{}, vg.Points(1.6)
		next++
		p.Add(line, points)
		if s.Name != "" {
			legend.Add(s.Name, line)
		}
	}
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		if a.Max == a.Min {
			a.Min, a.Max = a.Min-0.5, a.Max+0.5
		}
	}
	return p, legend, nil
}

// ticks puts about five ticks on an axis, at multiples of 1, 2 or 5 times a power of ten.
type ticks struct{}

// Ticks implements plot.Ticker.
func (ticks) Ticks(from, to float64) []plot.Tick {
	step := math.Pow(10, math.Floor(math.Log10((to-from)/4)))
	for _, m := range []float64{5, 2} {
		if (to-from)/(m*step) >= 3 {
			step *= m
			break
		}
	}
	first := math.Ceil(from / step)
	var t []plot.Tick
	for i := 0.0; len(t) < 20; i++ { // a step that rounding swallows never reaches the end
		v := (first + i) * step
		if !(v <= to) {
			break
		}
		t = append(t, plot.Tick{Value: v, Label: strconv.FormatFloat(v, 'g', 6, 64)})
	}
	return t
}
