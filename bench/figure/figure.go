// Package figure draws line figures as SVG and PNG.
package figure

import (
	"fmt"
	"image/color"
	"io"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"

	"hypnos/core/model"
)

// Series is one line. Points whose Y is not finite are left out, the line goes on behind them.
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
	for i, y := range s.Y {
		if !math.IsNaN(y) && !math.IsInf(y, 0) {
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
	p, err := f.plot()
	if err != nil {
		return fmt.Errorf("figure: %s: %w", base, err)
	}
	svg := vgsvg.New(width, height)
	p.Draw(draw.New(svg))
	png := vgimg.NewWith(vgimg.UseWH(width, height), vgimg.UseDPI(dpi))
	p.Draw(draw.New(png))
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

func (f Figure) plot() (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = f.Title, f.XLabel, f.YLabel
	p.Title.Padding = vg.Millimeter * 2
	p.Legend.Left = false
	p.Legend.Padding = vg.Millimeter / 2
	p.Add(plotter.NewGrid())
	colours, next := palette(), 0
	for _, s := range f.Series {
		xys := s.points()
		if len(xys) == 0 {
			continue
		}
		line, points, err := plotter.NewLinePoints(xys)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.Name, err)
		}
		if s.Faint {
			line.Color, line.Width = color.Gray{0xc0}, vg.Points(0.5)
			p.Add(line)
			continue
		}
		line.Color, line.Width = colours[next%len(colours)], vg.Points(1.5)
		points.Color, points.Shape, points.Radius = line.Color, draw.CircleGlyph{}, vg.Points(1.6)
		next++
		p.Add(line, points)
		if s.Name != "" {
			p.Legend.Add(s.Name, line)
		}
	}
	// Room above the lines for the legend.
	p.Legend.Top = true
	p.Y.Max += (p.Y.Max - p.Y.Min) * 0.05 * float64(next)
	if p.Y.Max == p.Y.Min {
		p.Y.Min, p.Y.Max = p.Y.Min-0.5, p.Y.Max+0.5
	}
	return p, nil
}
