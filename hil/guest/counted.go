package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"hypnos/hil/compute"
	"hypnos/hil/message"
)

// countedLife measures lives by the monotonic clock, which counts instructions on a machine that is set up so, and prints them as a
// line of JSON on the console. It talks to nobody before: nothing from outside may change the count.
func countedLife(ctx context.Context, packages string) error {
	var all []compute.Cost
	for _, p := range strings.Split(packages, ",") {
		costs, err := compute.Costs(ctx, p, message.Counted(), monotonic)
		if err != nil {
			return err
		}
		all = append(all, costs...)
	}
	text, err := json.Marshal(all)
	if err != nil {
		return err
	}
	fmt.Printf("%s%s\n", message.CostsLine, text)
	return nil
}
