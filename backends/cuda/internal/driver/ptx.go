//go:build cuda && cgo && linux && amd64

package driver

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// parameter is one of a kernel's parameters, as PTX declares it: "u64", "u32", "f32", …
type parameter struct {
	name  string
	bytes int
	float bool
}

// entries returns the kernels of a PTX text with their parameters: ".entry NAME ( .param .u64 NAME, … )".
func entries(ptx string) (map[string][]parameter, error) {
	found := map[string][]parameter{}
	for {
		_, rest, ok := strings.Cut(ptx, ".entry")
		if !ok {
			break
		}
		head, rest, ok := strings.Cut(rest, ")")
		name, list, opened := strings.Cut(head, "(")
		if name = strings.TrimSpace(name); !ok || !opened || name == "" {
			return nil, errors.New("a kernel without parameters in brackets in the PTX")
		}
		var err error
		if found[name], err = parameters(list); err != nil {
			return nil, fmt.Errorf("kernel %s: %w", name, err)
		}
		ptx = rest
	}
	if len(found) == 0 {
		return nil, errors.New("no kernel in the PTX")
	}
	return found, nil
}

// parameters reads a kernel's list of parameters, which must be numbers or pointers.
func parameters(list string) (all []parameter, err error) {
	if strings.TrimSpace(list) == "" {
		return nil, nil
	}
	for _, text := range strings.Split(list, ",") {
		words := strings.Fields(text)
		if len(words) != 3 || words[0] != ".param" || len(words[1]) < 3 || words[1][0] != '.' {
			return nil, fmt.Errorf("parameter %q is neither a number nor a pointer", strings.Join(words, " "))
		}
		kind := words[1][1:]
		bits, err := strconv.Atoi(kind[1:])
		if err != nil {
			return nil, fmt.Errorf("parameter %q: %w", strings.Join(words, " "), err)
		}
		all = append(all, parameter{kind, bits / 8, kind[0] == 'f'})
	}
	if len(all) > maxParameters {
		return nil, fmt.Errorf("%d parameters, %d at most", len(all), maxParameters)
	}
	return all, nil
}
