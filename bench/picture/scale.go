package picture

import (
	"math"
	"strconv"
	"strings"
)

// tick is a place on an axis. One without a label has only a faint line.
type tick struct {
	value float64
	label string
}

// scale maps values to pixels. through makes values linear first, such as a logarithm.
type scale struct {
	through  func(float64) float64
	low, top float64 // values
	from, to float64 // pixels
	ticks    []tick
}

func (s scale) at(v float64) float64 {
	a, b := s.through(s.low), s.through(s.top)
	return s.from + (s.through(v)-a)/(b-a)*(s.to-s.from)
}

func identity(v float64) float64 { return v }

// tails spreads a fraction by how rare what lies above it is: each further nine has the same width.
func tails(p float64) float64 { return -math.Log10(1 - p) }

// percentiles is the axis of a distribution. It always reaches from the median to 99.9 %.
func percentiles(least, most, from, to float64) scale {
	s := scale{through: tails, low: 0.5, top: 0.999, from: from, to: to}
	s.low, s.top = min(s.low, least), max(s.top, most)
	s.ticks = []tick{{0.5, "50"}}
	if s.low < 0.45 {
		s.low = 0
	}
	for nines := 1; nines <= 9; nines++ {
		p := 1 - math.Pow10(-nines)
		if p > s.top+1e-12 {
			break
		}
		s.ticks = append(s.ticks, tick{p, strconv.FormatFloat(100*p, 'f', max(0, nines-2), 64)})
	}
	return s
}

// logarithmic is an axis between the round numbers around least and most, both above zero.
func logarithmic(least, most, from, to float64) scale {
	s := scale{through: math.Log10, low: round125(least, -1), top: round125(most, 1), from: from, to: to}
	if s.low == s.top { // one round number
		s.low, s.top = round125(s.low*0.9, -1), round125(s.top*1.1, 1)
	}
	decades := math.Log10(s.top / s.low)
	if decades < 0.8 { // too narrow for round numbers alone
		step := round125((s.top-s.low)/6, 1)
		for i := math.Ceil(s.low/step - 1e-9); i*step <= s.top*(1+1e-9); i++ {
			s.ticks = append(s.ticks, tick{i * step, number(i * step)})
		}
		return s
	}
	for e := int(math.Floor(math.Log10(s.low) + 1e-9)); e <= int(math.Ceil(math.Log10(s.top))); e++ {
		for m := 1.0; m < 10; m++ {
			v := m * math.Pow10(e)
			if v < s.low*(1-1e-9) || v > s.top*(1+1e-9) {
				continue
			}
			labelled := m == 1 || decades <= 4 && (m == 2 || m == 5)
			if decades > 7 && e%2 != 0 {
				labelled = false
			}
			if !labelled {
				if decades <= 5 {
					s.ticks = append(s.ticks, tick{value: v})
				}
				continue
			}
			s.ticks = append(s.ticks, tick{v, number(v)})
		}
	}
	return s
}

// round125 is the nearest 1, 2 or 5 times a power of ten that is not above v (way -1) or not below it (way 1).
func round125(v float64, way int) float64 {
	e := math.Floor(math.Log10(v) + 1e-9)
	best := 0.0
	for _, m := range []float64{1, 2, 5, 10} {
		r := m * math.Pow(10, e)
		if way < 0 && r <= v*(1+1e-9) {
			best = r
		}
		if way > 0 && r >= v*(1-1e-9) {
			return r
		}
	}
	return best
}

// linear is an axis from zero to a round number at or above most.
func linear(most, from, to float64) scale {
	if most <= 0 {
		most = 1
	}
	step := round125(most/5, 1)
	n := math.Ceil(most/step - 1e-9)
	s := scale{through: identity, low: 0, top: n * step, from: from, to: to}
	for i := range int(n) + 1 {
		v := float64(i) * step
		s.ticks = append(s.ticks, tick{v, number(v)})
	}
	return s
}

// connectionsAxis is a doubling scale with a tick at each number that was measured, or at powers of two where these are
// too many. Labels that would touch the one before are left out.
func connectionsAxis(values []float64, from, to float64) scale {
	least, most := values[0], values[0]
	for _, v := range values {
		least, most = min(least, v), max(most, v)
	}
	s := scale{through: math.Log2, low: least / math.Sqrt2, top: most * math.Sqrt2, from: from, to: to}
	if len(values) > 12 {
		values = nil
		for e := math.Ceil(math.Log2(least)); e <= math.Floor(math.Log2(most)); e++ {
			values = append(values, math.Exp2(e))
		}
	}
	end := math.Inf(-1)
	for _, v := range values {
		t := tick{value: v}
		label := number(v)
		if half := textWidth(label, 12) / 2; s.at(v)-half > end+6 {
			t.label, end = label, s.at(v)+half
		}
		s.ticks = append(s.ticks, t)
	}
	return s
}

// number writes a figure with about three digits, and with commas between thousands.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 1e7 || v < 1e-4:
		return strconv.FormatFloat(v, 'g', 3, 64)
	case v >= 99.95:
		return thousands(strconv.FormatFloat(v, 'f', 0, 64))
	}
	places := 1
	for limit := 9.995; v < limit && places < 6; limit /= 10 {
		places++
	}
	s := strconv.FormatFloat(v, 'f', places, 64)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

func thousands(digits string) string {
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
