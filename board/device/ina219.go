package device

import (
	"fmt"
	"time"
)

// Registers of INA219: TI SBOS448F, p. 25, table 4.
const (
	inaConfiguration = 0
	inaBusVoltage    = 2
	inaCurrent       = 4
	inaCalibration   = 5
)

// Bits of its configuration: SBOS448F, p. 26.
const (
	ina32V        = 1 << 13 // range of the bus voltage
	inaGainShift  = 11      // range of the shunt: 40, 80, 160, 320 mV
	ina12Bits     = 3<<7 | 3<<3
	inaContinuous = 7
)

// inaConversion is 1.2 ms for two conversions of 12 bits, 586 µs each at most, rounded up: SBOS448G, electrical characteristics.
const inaConversion = 2 * time.Millisecond

// ina219 is TI's INA219: the voltage of the load's side and the current through a shunt.
type ina219 struct {
	*chip
	configuration, calibration uint16
	ampere                     float64 // A a unit of the current register
}

// program sets ranges for a shunt (Ω) and the greatest current (A): cal = trunc(0.04096 / (Current_LSB · R)) with
// Current_LSB = I / 2^15, SBOS448G, section 8.5.1. Bit 0 of the calibration is not used. A shunt so small that cal has no room in
// 16 bits gets the largest, hence a range that is wider than asked for.
func (m *ina219) program(shunt, current float64) error {
	drop := shunt * current * (1 - 0x1p-51) // less what the decimal numbers and their product are rounded by
	gain, full := uint16(0), 0.04
	for full < drop && gain < 3 {
		gain, full = gain+1, full*2
	}
	if !(drop <= full) {
		return fmt.Errorf("%g A through %g Ω are %.3g V, above 0.32 V", current, shunt, shunt*current)
	}
	cal := min(0.04096/(current/(1<<15)*shunt), 0xfffe)
	m.calibration = uint16(cal) &^ 1
	m.ampere = 0.04096 / (float64(m.calibration) * shunt)
	m.configuration = ina32V | gain<<inaGainShift | ina12Bits | inaContinuous
	return nil
}

// setUp writes the configuration and reads it back: that is the only sign of what chip it is.
func (m *ina219) setUp(r registers) error {
	if err := r.write16(inaConfiguration, m.configuration); err != nil {
		return err
	}
	got, err := r.read16(inaConfiguration)
	if err != nil {
		return err
	}
	if got != m.configuration {
		return fmt.Errorf("no INA219: its configuration reads %#04x after %#04x was written", got, m.configuration)
	}
	if err := r.write16(inaCalibration, m.calibration); err != nil {
		return err
	}
	r.wait(inaConversion)
	return nil
}

// Read returns 0 V to 32 V in steps of 4 mV, and the current, which is negative when it flows backwards: SBOS448F, p. 30.
func (m *ina219) Read() (p Power, err error) {
	err = m.do(func(r registers) error {
		cal, err := r.read16(inaCalibration)
		if err != nil {
			return err
		}
		if cal != m.calibration { // 0 after power-up, which makes all currents 0
			return fmt.Errorf("its calibration reads %#04x, not %#04x: it was without power", cal, m.calibration)
		}
		volts, err := r.read16(inaBusVoltage)
		if err != nil {
			return err
		}
		current, err := r.read16(inaCurrent)
		if err != nil {
			return err
		}
		if volts&1 == 1 {
			return fmt.Errorf("overflow: the current is out of range")
		}
		p = Power{Volts: float64(volts>>3) * 0.004, Amperes: float64(int16(current)) * m.ampere}
		if p.Volts > 32 {
			return fmt.Errorf("%g V is above 32 V", p.Volts)
		}
		return nil
	})
	return p, err
}
