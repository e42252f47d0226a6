package device

import (
	"fmt"
	"time"
)

// Registers of all these chips: the temperature and, beside it, the configuration.
const (
	regTemperature   = 0
	regConfiguration = 1
)

// Bits of TMP102's configuration, 0x60A0 after power-up: TI SBOS397B, p. 7, table 7. The first byte is the configuration of
// the other chips.
const (
	tmp102Shutdown   = 1 << 8
	tmp102Resolution = 3 << 13 // read-only, 11: it always converts 12 bits
	tmp102Extended   = 1 << 4
	tmp102Zero       = 0x000f // read as 0
)

// Times after which a chip that was set up has measured: TMP112 takes 35 ms at most (TI SLOS887G, electrical characteristics;
// TMP102 is its predecessor), TMP75 with 12 bits 300 ms at most (SBOS288).
const (
	conversion102 = 35 * time.Millisecond
	conversion75  = 300 * time.Millisecond
)

// tmp102 is TI's TMP102, and TMP112.
type tmp102 struct {
	*chip
	extended bool
}

// setUp looks whether it is a TMP102, wakes it up, and sets its mode. Other bits stay as whoever owns ALERT has set them.
func (t tmp102) setUp(r registers) error {
	was, err := r.read16(regConfiguration)
	if err != nil {
		return err
	}
	if was&tmp102Resolution != tmp102Resolution || was&tmp102Zero != 0 {
		return fmt.Errorf("no TMP102: its configuration reads %#04x", was)
	}
	want := was &^ (tmp102Shutdown | tmp102Extended)
	if t.extended {
		want |= tmp102Extended
	}
	if want == was {
		return nil
	}
	if err := r.write16(regConfiguration, want); err != nil {
		return err
	}
	r.wait(conversion102)
	return nil
}

// Celsius returns -55 °C to 128 °C in steps of 0.0625 °C, extended to 150 °C. Bit 0 of the register tells which of both
// formats it has: SBOS397C, p. 6, tables 3 to 5; extended: SBOS397B, p. 7, table 6.
func (t tmp102) Celsius() (celsius float64, err error) {
	err = t.do(func(r registers) error {
		raw, err := r.read16(regTemperature)
		if err != nil {
			return err
		}
		shift, unused := 4, uint16(0x000e)
		if raw&1 == 1 {
			shift, unused = 3, 0x0006
		}
		if raw&unused != 0 {
			return fmt.Errorf("temperature register reads %#04x, whose unused bits are not 0", raw)
		}
		celsius = float64(int16(raw)>>shift) * 0.0625
		return within(celsius, -55, 150)
	})
	return celsius, err
}

// lm75 is the LM75 and what is compatible: the temperature is the register's upper bits, in two's complement, 1/256 °C a
// unit of the whole register.
type lm75 struct {
	*chip
	mask uint16 // bits that are defined
}

// Masks of the bits that are defined: 9 bits of LM75 and 11 of LM75A (NXP LM75A, Rev. 04, p. 8), 12 of TMP75 and TMP105
// (TI SBOS288J, p. 6, table 5).
const (
	maskLM75   = 0xff80
	maskLM75A  = 0xffe0
	maskTMP105 = 0xfff0
)

func (l lm75) Celsius() (celsius float64, err error) {
	err = l.do(func(r registers) error {
		raw, err := r.read16(regTemperature)
		if err != nil {
			return err
		}
		celsius = float64(int16(raw&l.mask)) / 256
		return within(celsius, -55, 128)
	})
	return celsius, err
}

// Bits of the configuration of LM75, TMP105 and TMP75, a byte: SBOS288J, p. 6, table 6.
const (
	lm75Shutdown     = 1 << 0
	tmp105Resolution = 3 << 5 // 12 bits; 9 after power-up
	tmp105OneShot    = 1 << 7
)

// wake leaves the shutdown mode.
func (l lm75) wake(r registers) error {
	was, err := r.read8(regConfiguration)
	if err != nil {
		return err
	}
	want := was &^ lm75Shutdown
	if l.mask == maskTMP105 {
		want = want&^tmp105OneShot | tmp105Resolution
	}
	if want == was {
		return nil
	}
	if err := r.write8(regConfiguration, want); err != nil {
		return err
	}
	r.wait(conversion75)
	return nil
}

// within tells whether a temperature is one that the chip can measure.
func within(celsius, low, high float64) error {
	if !(celsius >= low && celsius <= high) {
		return fmt.Errorf("%g °C is not within %g °C and %g °C", celsius, low, high)
	}
	return nil
}
