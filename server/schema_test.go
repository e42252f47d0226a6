package server

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// schema checks JSON against the part of JSON Schema that openapi.json uses. Keywords that it does not know are errors, so
// that none is overlooked.
type schema struct{ all map[string]any } // components.schemas

// check returns what is wrong with v, at a place.
func (s schema) check(at string, rule map[string]any, v any) error {
	if name, is := rule["$ref"].(string); is {
		named, known := s.all[strings.TrimPrefix(name, "#/components/schemas/")].(map[string]any)
		if !known {
			return fmt.Errorf("%s: %s is not described", at, name)
		}
		return s.check(at, named, v)
	}
	for _, keyword := range slices.Sorted(maps.Keys(rule)) {
		if err := s.keyword(at, rule, keyword, v); err != nil {
			return err
		}
	}
	return nil
}

func (s schema) keyword(at string, rule map[string]any, keyword string, v any) error {
	arg := rule[keyword]
	wrong := func() error { return fmt.Errorf("%s: %v is not %s %v", at, v, keyword, arg) }
	object, _ := v.(map[string]any)
	list, _ := v.([]any)
	value, isNumber := v.(float64)
	text, isText := v.(string)
	ok := true
	switch keyword {
	case "description", "format":
		if arg == "date-time" {
			_, err := time.Parse(time.RFC3339, text)
			ok = err == nil
		}
	case "type":
		types, several := arg.([]any)
		if !several {
			types = []any{arg}
		}
		ok = slices.ContainsFunc(types, func(t any) bool { return isType(t.(string), v) })
	case "enum":
		ok = slices.Contains(arg.([]any), v)
	case "minimum":
		ok = !isNumber || value >= arg.(float64)
	case "maximum":
		ok = !isNumber || value <= arg.(float64)
	case "maxLength":
		ok = !isText || len([]rune(text)) <= int(arg.(float64))
	case "minItems":
		ok = v == nil || len(list) >= int(arg.(float64))
	case "maxItems":
		ok = len(list) <= int(arg.(float64))
	case "required":
		for _, key := range arg.([]any) {
			if _, has := object[key.(string)]; object != nil && !has {
				return fmt.Errorf("%s: %s is missing", at, key)
			}
		}
	case "items":
		for i, x := range list {
			if err := s.check(fmt.Sprintf("%s[%d]", at, i), arg.(map[string]any), x); err != nil {
				return err
			}
		}
	case "properties":
		for key, rule := range arg.(map[string]any) {
			if x, has := object[key]; has {
				if err := s.check(at+"."+key, rule.(map[string]any), x); err != nil {
					return err
				}
			}
		}
	case "additionalProperties":
		properties, _ := rule["properties"].(map[string]any)
		for key, x := range object {
			if _, described := properties[key]; described {
				continue
			}
			more, allowed := arg.(map[string]any)
			if !allowed {
				return fmt.Errorf("%s: %s is not described", at, key)
			}
			if err := s.check(at+"."+key, more, x); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("%s: keyword %s", at, keyword)
	}
	if !ok {
		return wrong()
	}
	return nil
}

func isType(name string, v any) bool {
	switch x := v.(type) {
	case nil:
		return name == "null"
	case bool:
		return name == "boolean"
	case string:
		return name == "string"
	case float64:
		return name == "number" || name == "integer" && x == float64(int64(x))
	case []any:
		return name == "array"
	}
	return name == "object"
}
