package picture

import (
	"errors"
	"fmt"
	"math"
)

// What an axis can show. Figures outside are not measurements of a load comparison.
const (
	largest  = 1e12
	smallest = 1e-9 // above zero, where a scale is logarithmic
	nearest  = 1e-9 // between a percentile and 1
)

// validate reports the first figure that cannot be drawn, by panel, name and place.
func (f Figures) validate() error {
	if len(f.Latency)+len(f.Throughput)+len(f.Cost)+len(f.Startup) == 0 {
		return errors.New("picture: there is nothing to draw")
	}
	for _, panel := range []struct {
		name   string
		series []Series
		check  func(Point) error
	}{{"latency", f.Latency, latencyPoint}, {"throughput", f.Throughput, throughputPoint}} {
		if err := validateSeries(panel.series, panel.check); err != nil {
			return fmt.Errorf("picture: %s: %w", panel.name, err)
		}
	}
	if err := validateCost(f.Cost); err != nil {
		return fmt.Errorf("picture: cost: %w", err)
	}
	if err := validateStartup(f.Startup); err != nil {
		return fmt.Errorf("picture: start-up: %w", err)
	}
	return nil
}

func validateStartup(bars []Bar) error {
	seen := map[string]bool{}
	for i, b := range bars {
		if err := name(seen, b.Name, i); err != nil {
			return err
		}
		if !within(b.Low, 0, b.Value) || !within(b.High, b.Value, largest) {
			return fmt.Errorf("%q: %g milliseconds, from %g to %g, cannot be drawn", b.Name, b.Value, b.Low, b.High)
		}
	}
	return nil
}

func validateSeries(series []Series, check func(Point) error) error {
	seen := map[string]bool{}
	for i, s := range series {
		if err := name(seen, s.Name, i); err != nil {
			return err
		}
		for _, span := range [][]float64{s.Low, s.High} {
			if span != nil && len(span) != len(s.Points) {
				return fmt.Errorf("%q has %d points and a span for %d", s.Name, len(s.Points), len(span))
			}
		}
		if (s.Low == nil) != (s.High == nil) {
			return fmt.Errorf("%q has only one end of its span", s.Name)
		}
		for j, p := range s.Points {
			if err := check(p); err != nil {
				return fmt.Errorf("%q, point %d: %w", s.Name, j, err)
			}
			if s.Low == nil {
				continue
			}
			for _, end := range []float64{s.Low[j], s.High[j]} {
				if err := check(Point{p.X, end}); err != nil {
					return fmt.Errorf("%q, span of point %d: %w", s.Name, j, err)
				}
			}
			if s.Low[j] > p.Y || s.High[j] < p.Y {
				return fmt.Errorf("%q, point %d: %g is not between %g and %g", s.Name, j, p.Y, s.Low[j], s.High[j])
			}
		}
	}
	return nil
}

func validateCost(stacks []Stack) error {
	bars := map[string]bool{}
	for i, s := range stacks {
		if err := name(bars, s.Name, i); err != nil {
			return err
		}
		parts := map[string]bool{}
		for j, p := range s.Parts {
			if err := name(parts, p.Name, j); err != nil {
				return fmt.Errorf("%q: %w", s.Name, err)
			}
			if !within(p.Value, 0, largest) {
				return fmt.Errorf("%q, part %q: %g milliseconds cannot be drawn", s.Name, p.Name, p.Value)
			}
		}
	}
	return nil
}

func name(seen map[string]bool, s string, i int) error {
	if s == "" {
		return fmt.Errorf("number %d has no name", i)
	}
	if seen[s] {
		return fmt.Errorf("%q is there twice", s)
	}
	seen[s] = true
	return nil
}

func latencyPoint(p Point) error {
	if !within(p.X, math.SmallestNonzeroFloat64, 1-nearest) {
		return fmt.Errorf("percentile %g is not between 0 and 1", p.X)
	}
	if !within(p.Y, smallest, largest) {
		return fmt.Errorf("%g milliseconds cannot be drawn on a logarithmic scale", p.Y)
	}
	return nil
}

func throughputPoint(p Point) error {
	if !within(p.X, smallest, largest) {
		return fmt.Errorf("%g connections cannot be drawn", p.X)
	}
	if p.Y != 0 && !within(p.Y, smallest, largest) {
		return fmt.Errorf("%g requests a second cannot be drawn", p.Y)
	}
	return nil
}

// within is false for NaN.
func within(v, least, most float64) bool { return v >= least && v <= most }
