package governor

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Window is a part of the day in wall time, which may cross midnight, on some days of the week.
type Window struct {
	From, To time.Duration // since midnight by the clock on the wall, whole minutes
	Days     uint8         // bit d is set when a window begins on time.Weekday(d)
}

const everyDay = 1<<7 - 1

var days = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} // of time.Weekday

// UnmarshalText reads "22:00-06:00", or with the days on which it begins "mon,tue 22:00-06:00".
func (w *Window) UnmarshalText(text []byte) error {
	span := string(text)
	*w = Window{Days: everyDay}
	if names, rest, found := strings.Cut(span, " "); found {
		span, w.Days = rest, 0
		for name := range strings.SplitSeq(names, ",") {
			d := slices.Index(days, name)
			if d < 0 {
				return fmt.Errorf("night: %q: day %q is none of %s", text, name, strings.Join(days, ", "))
			}
			w.Days |= 1 << d
		}
	}
	from, to, _ := strings.Cut(span, "-")
	var err error
	if w.From, err = timeOfDay(from); err == nil {
		w.To, err = timeOfDay(to)
	}
	switch {
	case err != nil:
		return fmt.Errorf("night: %q is no window like 22:00-06:00", text)
	case w.From == w.To:
		return fmt.Errorf("night: %q is empty", text)
	}
	return nil
}

func timeOfDay(text string) (time.Duration, error) {
	t, err := time.Parse("15:04", text)
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, err
}

// MarshalText writes what UnmarshalText reads.
func (w Window) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

func (w Window) String() string {
	clock := func(d time.Duration) string { return fmt.Sprintf("%02d:%02d", int(d.Hours()), int(d.Minutes())%60) }
	span := clock(w.From) + "-" + clock(w.To)
	if w.Days == everyDay {
		return span
	}
	var names []string
	for d, name := range days {
		if w.Days>>d&1 == 1 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",") + " " + span
}

// at returns when the window that holds t began. A night in which clocks change is an hour shorter or longer.
func (w Window) at(t time.Time) (start time.Time, in bool) {
	for back := range 2 { // it began today or yesterday
		year, month, day := t.Date()
		day -= back
		on := func(day int, d time.Duration) time.Time {
			return time.Date(year, month, day, int(d.Hours()), int(d.Minutes())%60, 0, 0, t.Location())
		}
		end := day
		if w.To < w.From {
			end++
		}
		start = on(day, w.From)
		if w.Days>>start.Weekday()&1 == 1 && !t.Before(start) && t.Before(on(end, w.To)) {
			return start, true
		}
	}
	return time.Time{}, false
}
