package picture

import (
	"math"
	"slices"
)

// A distribution of many points has its markers that far apart, in pixels; one of few has one at each.
const (
	markerSpacing = 90.0
	fewPoints     = 12
)

func latencyPanel(c *canvas, y float64, f Figures, looks map[string]look) float64 {
	y = c.panelTitle(y, "Latency distribution", f.LatencyNote)
	if empty(f.Latency) {
		return c.nothing(y)
	}
	least, most := Point{math.Inf(1), math.Inf(1)}, Point{}
	for _, s := range f.Latency {
		for _, p := range s.Points {
			least, most = Point{min(least.X, p.X), min(least.Y, p.Y)}, Point{max(most.X, p.X), max(most.Y, p.Y)}
		}
	}
	bottom := y + heightFor(len(f.Latency))
	across := percentiles(least.X, most.X, plotLeft, plotRight)
	up := logarithmic(least.Y, most.Y, bottom, y)
	c.horizontalAxis(across, y, bottom, "percentile of calls, %  (each further nine has the same width)")
	c.verticalAxis(up, plotLeft, plotRight, "milliseconds, log scale")
	for i, s := range f.Latency {
		l := looks[s.Name]
		var curve []Point
		for _, j := range sorted(s) {
			curve = append(curve, Point{across.at(s.Points[j].X), up.at(s.Points[j].Y)})
		}
		c.polyline(curve, l)
		next := plotLeft + markerSpacing*float64(i)/float64(len(f.Latency)) // each begins elsewhere
		for _, p := range curve {
			if p.X >= next || len(curve) <= fewPoints {
				c.marker(p.X, p.Y, l)
				next = p.X + markerSpacing
			}
		}
	}
	c.legend(y+8, f.Latency, looks)
	return bottom + axisBelow + panelGap
}

func throughputPanel(c *canvas, y float64, f Figures, looks map[string]look) float64 {
	y = c.panelTitle(y, "Throughput", "")
	if empty(f.Throughput) {
		return c.nothing(y)
	}
	least, most := math.Inf(1), 0.0
	var connections []float64
	spans := false
	for _, s := range f.Throughput {
		for i, p := range s.Points {
			connections = append(connections, p.X)
			least, most = min(least, p.Y), max(most, p.Y)
			if s.Low != nil {
				least, most, spans = min(least, s.Low[i]), max(most, s.High[i]), true
			}
		}
	}
	slices.Sort(connections)
	connections = slices.Compact(connections)
	bottom := y + heightFor(len(f.Throughput)+2)
	across := connectionsAxis(connections, plotLeft, plotRight)
	// Zero has no place on a logarithmic scale; otherwise it is taken where the least would lie on the floor.
	up, title := linear(most, bottom, y), "requests a second"
	if least > 0 && most/least > 8 {
		up, title = logarithmic(least, most, bottom, y), "requests a second, log scale"
	}
	c.horizontalAxis(across, y, bottom, "connections, log scale")
	c.verticalAxis(up, plotLeft, plotRight, title)
	for i, s := range f.Throughput {
		c.throughput(s, looks[s.Name], across, up, dodge(i, len(f.Throughput)))
	}
	c.legend(y+8, f.Throughput, looks)
	if spans {
		x, y := legendLeft+20, y+14+float64(len(f.Throughput))*legendRow
		c.whisker(x, y-6, y+8, softInk)
		c.text(legendLeft+50, y+5, "least to greatest", style{size: 12, fill: softInk})
	}
	return bottom + axisBelow + panelGap
}

// dodge moves the points of one series aside, in pixels, so that whiskers at the same number do not cover each other.
func dodge(i, n int) float64 {
	step := min(7, 40/float64(n))
	return (float64(i) - float64(n-1)/2) * step
}

func (c *canvas) throughput(s Series, l look, across, up scale, aside float64) {
	var line []Point
	for _, i := range sorted(s) {
		x := across.at(s.Points[i].X) + aside
		line = append(line, Point{x, up.at(s.Points[i].Y)})
		if s.Low != nil {
			c.whisker(x, up.at(s.High[i]), up.at(s.Low[i]), l.colour)
		}
	}
	if len(line) > 0 {
		c.polyline(line, l)
	}
	for _, p := range line {
		c.marker(p.X, p.Y, l)
	}
}

func (c *canvas) whisker(x, top, bottom float64, colour string) {
	c.line(x, top, x, bottom, colour, 1.2, "")
	c.line(x-4, top, x+4, top, colour, 1.2, "")
	c.line(x-4, bottom, x+4, bottom, colour, 1.2, "")
}

func costPanel(c *canvas, y float64, f Figures) float64 {
	y = c.panelTitle(y, "Cost of a request", "CPU time of the processes that work for it")
	if len(f.Cost) == 0 {
		return c.nothing(y)
	}
	most := 0.0
	var parts []string // in the order of appearance
	for _, s := range f.Cost {
		sum := 0.0
		for _, p := range s.Parts {
			sum += p.Value
			if !slices.Contains(parts, p.Name) {
				parts = append(parts, p.Name)
			}
		}
		most = max(most, sum)
	}
	bottom := y + max(float64(len(f.Cost))*barRow+10, float64(len(parts))*legendRow+8)
	across := linear(most, barsLeft, plotRight-valueMargin)
	c.horizontalAxis(across, y, bottom, "CPU milliseconds a request")
	for i, s := range f.Cost {
		c.bar(s, y+10+float64(i)*barRow, across, parts)
	}
	c.line(barsLeft, y, barsLeft, bottom, ink, 1, "")
	for i, name := range parts {
		top := y + 2 + float64(i)*legendRow
		c.rect(legendLeft, top, 40, 13, fillOf(i), ink)
		c.fitted(legendLeft+50, top+11, name, width-margin-legendLeft-50, style{size: 12})
	}
	return bottom + axisBelow + margin/2
}

func (c *canvas) bar(s Stack, y float64, across scale, parts []string) {
	c.fitted(barsLeft-10, y+13, s.Name, barsLeft-10-margin, style{size: 12, anchor: end})
	sum := 0.0
	for _, p := range s.Parts {
		from := across.at(sum)
		sum += p.Value
		if w := across.at(sum) - from; w > 0 {
			c.rect(from, y, w, barHeight, fillOf(slices.Index(parts, p.Name)), ink)
		}
	}
	value := number(sum) + " ms"
	if len(s.Parts) == 0 {
		value = "no process of its own"
	}
	c.text(across.at(sum)+7, y+13, value, style{size: 12, halo: true})
}

// barTint is light enough for a span to be seen on it.
const barTint = "#a9d3ee"

func startupPanel(c *canvas, y float64, f Figures) float64 {
	if len(f.Startup) == 0 {
		return y
	}
	y = c.panelTitle(y+panelGap-margin/2, "Start-up", "from a command's start to its end: median, and from the tenth to the ninetieth percentile")
	most := 0.0
	for _, b := range f.Startup {
		most = max(most, b.High)
	}
	bottom := y + float64(len(f.Startup))*barRow + 10
	across := linear(most, barsLeft, plotRight-valueMargin)
	c.horizontalAxis(across, y, bottom, "milliseconds")
	for i, b := range f.Startup {
		top := y + 10 + float64(i)*barRow
		c.fitted(barsLeft-10, top+13, b.Name, barsLeft-10-margin, style{size: 12, anchor: end})
		if w := across.at(b.Value) - barsLeft; w > 0 {
			c.rect(barsLeft, top, w, barHeight, barTint, ink)
		}
		c.span(across.at(b.Low), across.at(b.High), top+barHeight/2)
		c.text(across.at(b.High)+9, top+13, number(b.Value)+" ms", style{size: 12, halo: true})
	}
	c.line(barsLeft, y, barsLeft, bottom, ink, 1, "")
	return bottom + axisBelow + margin/2
}

// span is a whisker that lies.
func (c *canvas) span(left, right, y float64) {
	c.line(left, y, right, y, ink, 1.2, "")
	c.line(left, y-4, left, y+4, ink, 1.2, "")
	c.line(right, y-4, right, y+4, ink, 1.2, "")
}
