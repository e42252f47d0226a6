//go:build !linux

package device

import (
	"periph.io/x/conn/v3/gpio"
	"periph.io/x/conn/v3/i2c"
)

func linuxBus(int) (i2c.BusCloser, error) { return nil, Absent("I²C is read on Linux only") }

func linuxPin(string, string, *int) (gpio.PinIO, error) {
	return nil, Absent("GPIO is read on Linux only")
}
