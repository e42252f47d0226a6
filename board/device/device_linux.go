package device

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"periph.io/x/conn/v3/driver/driverreg"
	"periph.io/x/conn/v3/gpio"
	"periph.io/x/conn/v3/i2c"
	"periph.io/x/host/v3/gpioioctl"
	"periph.io/x/host/v3/sysfs"
)

// linuxBus opens an I²C bus through its character device.
func linuxBus(number int) (i2c.BusCloser, error) {
	path := fmt.Sprintf("/dev/i2c-%d", number)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, Absent(path + " does not exist: the bus is off, or the module i2c-dev is not loaded")
	}
	return sysfs.NewI2C(number)
}

// linuxPin finds a GPIO line by the chip's name or label and the line's number or name. Periph looks through /dev/gpiochip* once.
func linuxPin(chip, name string, line *int) (gpio.PinIO, error) {
	if _, err := driverreg.Init(); err != nil {
		return nil, fmt.Errorf("GPIO: %w", err)
	}
	var chips []string
	for _, c := range gpioioctl.Chips {
		chips = append(chips, fmt.Sprintf("%s (%s)", c.Name(), c.Label()))
		if chip != "" && chip != c.Name() && chip != c.Label() {
			continue
		}
		if line != nil {
			if *line >= c.LineCount() {
				return nil, Absent(fmt.Sprintf("%s has %d lines", chip, c.LineCount()))
			}
			return c.ByNumber(*line), nil
		}
		if l := c.ByName(name); l != nil {
			return l, nil
		}
	}
	if len(chips) == 0 {
		return nil, Absent("there is no GPIO chip, /dev/gpiochip*, that this user may open")
	}
	if line == nil {
		return nil, Absent(fmt.Sprintf("no line has the name %s; chips: %s", name, strings.Join(chips, ", ")))
	}
	return nil, Absent(fmt.Sprintf("there is no chip %s; chips: %s", chip, strings.Join(chips, ", ")))
}
