package speed

import (
	"bufio"
	"embed"
	"fmt"
	"slices"
	"strings"

	"hypnos/core/net"
)

//go:embed shapes/*.txt
var shapeFiles embed.FS

// Shape is a spatial layer: kernel x kernel, cin to cout channels, on hw x hw positions.
type Shape struct {
	Name                          string
	Cin, Cout, HW, Kernel, Stride int
}

// Shapes lists the layers of shapes/*.txt, file by file in the order of their names.
func Shapes() ([]Shape, error) {
	files, err := shapeFiles.ReadDir("shapes")
	if err != nil {
		return nil, err
	}
	var all []Shape
	for _, f := range files {
		text, err := shapeFiles.ReadFile("shapes/" + f.Name())
		if err != nil {
			return nil, err
		}
		shapes, err := parseShapes(f.Name(), string(text))
		if err != nil {
			return nil, err
		}
		all = append(all, shapes...)
	}
	return all, nil
}

// parseShapes reads lines "name cin cout hw kernel stride"; # begins a comment.
func parseShapes(file, text string) ([]Shape, error) {
	var all []Shape
	lines := bufio.NewScanner(strings.NewReader(text))
	for number := 1; lines.Scan(); number++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if strings.TrimSpace(line) == "" {
			continue
		}
		var s Shape
		if _, err := fmt.Sscan(line, &s.Name, &s.Cin, &s.Cout, &s.HW, &s.Kernel, &s.Stride); err != nil {
			return nil, fmt.Errorf("speed: %s: line %d: want name cin cout hw kernel stride: %w", file, number, err)
		}
		if len(strings.Fields(line)) != 6 {
			return nil, fmt.Errorf("speed: %s: line %d: more than name cin cout hw kernel stride", file, number)
		}
		if slices.ContainsFunc(all, func(o Shape) bool { return o.Name == s.Name }) {
			return nil, fmt.Errorf("speed: %s: line %d: %s is there already", file, number, s.Name)
		}
		if _, err := s.network(LC); err != nil {
			return nil, fmt.Errorf("speed: %s: line %d: %w", file, number, err)
		}
		all = append(all, s)
	}
	return all, lines.Err()
}

// network is a network of the one layer, locally connected or convolutional.
func (s Shape) network(kind string) (*net.Network, error) {
	b := net.NewBuilder(s.Name)
	x := b.Input(net.Shape{H: s.HW, W: s.HW, C: s.Cin})
	w := net.Window{Out: s.Cout, Kernel: s.Kernel, Stride: s.Stride}
	if kind == LC {
		b.LC2D("layer", x, w)
	} else {
		b.Conv2D("layer", x, w)
	}
	return b.Build()
}
