//go:build cuda && cgo && linux && amd64

package driver

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// parameter is one of a kernel's parameters, as PTX declares it: "u64", "u32", "f32", …
type parameter struct {
	name  string
	bytes int
	float bool
}

var (
	entryPattern     = regexp.MustCompile(`^\s+(\w+)\s*\(([^)]*)\)`) // behind its directive
	parameterPattern = regexp.MustCompile(`\.param\s+\.([a-z])(\d+)\s+\w+`)
	declared         = regexp.MustCompile(`\.param\b`)
)

// entries returns the kernels of a PTX text with their parameters.
func entries(ptx string) (map[string][]parameter, error) {
	found := map[string][]parameter{}
	for rest := ptx; ; {
		var ok bool
		if _, rest, ok = strings.Cut(rest, ".entry"); !ok {
			break
		}
		e := entryPattern.FindStringSubmatch(rest)
		if e == nil {
			continue
		}
		name, list := e[1], parameterPattern.FindAllStringSubmatch(e[2], -1)
		if n := len(declared.FindAllString(e[2], -1)); n != len(list) || n > maxParameters {
			return nil, fmt.Errorf("kernel %s: of its %d parameters %d are numbers or pointers (%d at most)", name, n, len(list), maxParameters)
		}
		parameters := make([]parameter, len(list))
		for i, p := range list {
			bits, err := strconv.Atoi(p[2])
			if err != nil {
				return nil, fmt.Errorf("kernel %s: %w", name, err)
			}
			parameters[i] = parameter{p[1] + p[2], bits / 8, p[1] == "f"}
		}
		found[name] = parameters
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no kernel in the PTX")
	}
	return found, nil
}
