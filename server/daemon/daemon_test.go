package daemon

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"hypnos/server/brain"
	"hypnos/server/governor"
)

// The tables of docs/DAEMON.md have every key with its default, and no others.
func TestManual(t *testing.T) {
	text, err := os.ReadFile("../../docs/DAEMON.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := regexp.MustCompile("(?m)^##+ ").Split(string(text), -1)
	for name, defaults := range map[string]any{"`[brain]`": brain.DefaultConfig(), "`[governor]`": governor.Default()} {
		documented := map[string]string{}
		for _, s := range sections {
			if strings.HasPrefix(s, name) {
				for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\| (.*?) ?\\|").FindAllStringSubmatch(s, -1) {
					documented[m[1]] = strings.Trim(m[2], "`")
				}
			}
		}
		want := map[string]string{}
		keys(reflect.ValueOf(defaults), "", want)
		if len(want) < 10 || !reflect.DeepEqual(documented, want) {
			t.Errorf("%s: documented\n%v, want\n%v", name, documented, want)
		}
	}
}

// keys lists the settings of a struct as the manual shows them.
func keys(v reflect.Value, prefix string, into map[string]string) {
	for i := range v.NumField() {
		key, f := prefix+v.Type().Field(i).Tag.Get("toml"), v.Field(i)
		if f.Kind() == reflect.Struct {
			keys(f, key+".", into)
			continue
		}
		switch d := f.Interface().(type) {
		case []governor.Window:
			var all []string
			for _, w := range d {
				all = append(all, w.String())
			}
			into[key] = strings.Join(all, ",")
		case []string:
			into[key] = strings.Join(d, ",")
		default:
			into[key] = fmt.Sprint(d)
		}
	}
}

// written is a configuration file.
func written(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "board.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func call(args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = Run(context.Background(), args, &o, &e, nil)
	return code, o.String(), e.String()
}

const least = "board = \"generic-linux\"\n[brain]\nunsigned = true\n"

// Configurations that are wrong are refused in one line that names file and key.
func TestConfiguration(t *testing.T) {
	for _, x := range []struct{ text, want string }{
		{"", "board: which one?"},
		{"board = \"toaster\"", `unknown board "toaster"`},
		{"board = ", "toml: line 1"},
		{"colour = 1\n" + least, `unknown key "colour"`},
		{least + "colour = 1", `unknown key "brain.colour"`},
		{"board = \"generic-linux\"", "keys: no key is trusted"},
		{least + "rate = 2.0", "rate: 2 is outside"},
		{least + "[governor]\nidle = \"-1s\"", "idle: -1s is below 0"},
		{least + "[governor]\nzone = \"Mars/Olympus\"", "zone: "},
		{least + "[server]\nlisten = \":8470\"", "listen: :8470 is reached by others"},
		{least + "[log]\nformat = \"xml\"", "log.format"},
		{least + "[wiring.temperature]\ndriver = \"mercury\"", `driver "mercury" is none of`},
		{least + "[wiring.temperature]\ndriver = \"script\"\nscript = \"x\"\nevery = \"40s\"", "wiring.temperature.every: 40s is not below governor.sensor_grace"},
	} {
		path := written(t, x.text)
		code, _, errs := call("check", "-c", path)
		if code != exitFailed || !strings.Contains(errs, x.want) || !strings.Contains(errs, path) || strings.Count(errs, "\n") != 1 {
			t.Errorf("%q: code %d, %q, want %q", x.text, code, errs, x.want)
		}
	}
	for _, args := range [][]string{{}, {"-c"}, {"-c", "x", "y"}, {"--colour"}} {
		if code, _, errs := call(args...); code != exitUsage || !strings.Contains(errs, "hypnosd --help") {
			t.Errorf("%q: code %d, %q", args, code, errs)
		}
	}
	if code, out, _ := call("--help"); code != exitOK || !strings.Contains(out, "\nExamples:\n") {
		t.Errorf("help: code %d, %s", code, out)
	}
}

// The configurations that come with the program are good; check says what is absent.
func TestShipped(t *testing.T) {
	t.Chdir("../..")
	code, out, errs := call("check", "-c", "configs/board-dev.toml")
	if code != exitOK || !strings.Contains(out, "temperature: ") || !strings.Contains(out, "wake: absent, because") || !strings.Contains(out, "serves on 127.0.0.1:8470") {
		t.Errorf("code %d: %s%s", code, out, errs)
	}
	text, err := os.ReadFile("configs/board-raspberry-pi.toml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := load("configs/board-raspberry-pi.toml")
	if err != nil {
		t.Fatal(err)
	}
	if c.Brain.Unsigned || c.Server.TokenFile == "" || !bytes.Contains(text, []byte("raspberry-pi-4")) {
		t.Errorf("%+v", c)
	}
	// Its files are a board's: here they are missed, by name.
	if code, _, errs := call("check", "-c", "configs/board-raspberry-pi.toml"); code != exitFailed || !strings.Contains(errs, "/etc/hypnos/maker.pub") {
		t.Errorf("code %d: %s", code, errs)
	}
}

// The daemon starts without a model, and ends in order.
func TestServe(t *testing.T) {
	path := written(t, least+fmt.Sprintf("data = %q\n[server]\nlisten = \"127.0.0.1:0\"\n", filepath.Join(t.TempDir(), "data")))
	ctx, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	var log bytes.Buffer
	if code := Run(ctx, []string{"-c", path}, &bytes.Buffer{}, &log, nil); code != exitOK {
		t.Errorf("code %d: %s", code, log.String())
	}
	for _, want := range []string{"serving", "no model is in use", "stopped"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in the log: %s", want, log.String())
		}
	}
}
