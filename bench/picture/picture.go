// Package picture draws the figures of a load comparison as one SVG: latency distributions, throughput against
// connections, and CPU cost by process. The picture is the same byte for byte for the same figures, and series differ in
// dashes and markers, bars in hatching, so that a print in grey can be read.
package picture

import (
	"io"
	"slices"
)

// Point is one figure; what X and Y count is said where it is used.
type Point struct{ X, Y float64 }

// Series is one line, such as a peer. A name has the same look in every panel.
type Series struct {
	Name      string
	Points    []Point
	Low, High []float64 // least and greatest value for each point, or nil
}

// Part is what one process group cost.
type Part struct {
	Name  string
	Value float64
}

// Stack is one bar, such as a peer, with its parts from left to right.
type Stack struct {
	Name  string
	Parts []Part
}

// Bar is one figure, such as how long a command takes, with the span of most of its measurements.
type Bar struct {
	Name             string
	Value, Low, High float64
}

// Figures is everything that is drawn. A panel without data says so; that of starts is left out.
type Figures struct {
	Title, Subtitle string
	Latency         []Series // X is the percentile as a fraction between 0 and 1, Y is in milliseconds
	LatencyNote     string   // what the distribution is of, such as the number of connections
	Throughput      []Series // X is the number of connections, Y is in requests a second
	Cost            []Stack  // CPU milliseconds a request
	Startup         []Bar    // milliseconds, with the tenth and the ninetieth percentile
}

// The layout, in pixels: a plot with its legend on the right, and the next panel below it.
const (
	width       = 1000.0
	margin      = 24.0
	plotLeft    = 110.0
	plotRight   = 736.0
	legendLeft  = 760.0
	plotHeight  = 300.0 // the least; a long legend makes it higher
	legendRow   = 19.0
	axisBelow   = 46.0 // for tick labels and the axis title
	panelGap    = 34.0
	barsLeft    = 236.0 // bars need room for names
	barRow      = 27.0
	barHeight   = 17.0
	valueMargin = 84.0 // for the value after the longest bar
)

// SVG writes the picture, or an error that names the first figure that cannot be drawn.
func SVG(w io.Writer, f Figures) error {
	if err := f.validate(); err != nil {
		return err
	}
	c := &canvas{}
	looks := lookOf(f)
	y := c.heading(f)
	y = latencyPanel(c, y, f, looks)
	y = throughputPanel(c, y, f, looks)
	y = costPanel(c, y, f)
	y = startupPanel(c, y, f)
	return c.writeTo(w, y, f)
}

// heading draws title and subtitle, and returns where the first panel may begin.
func (c *canvas) heading(f Figures) float64 {
	y := margin + 16
	if f.Title != "" {
		for _, line := range wrap(f.Title, 22, width-2*margin) {
			c.text(margin, y, line, style{size: 22, bold: true})
			y += 28
		}
	}
	if f.Subtitle != "" {
		for _, line := range wrap(f.Subtitle, 13, width-2*margin) {
			c.text(margin, y-4, line, style{size: 13, fill: softInk})
			y += 18
		}
	}
	return y + 10
}

// panelTitle draws a panel's title and note, and returns where its plot may begin.
func (c *canvas) panelTitle(y float64, title, note string) float64 {
	c.text(margin, y, title, style{size: 16, bold: true})
	y += 18
	if note != "" {
		for _, line := range wrap(note, 12, width-2*margin) {
			c.text(margin, y, line, style{size: 12, fill: softInk})
			y += 16
		}
	}
	return y
}

// lookOf gives each name of a line its look, in the order of appearance.
func lookOf(f Figures) map[string]look {
	looks := map[string]look{}
	for _, s := range slices.Concat(f.Latency, f.Throughput) {
		if _, ok := looks[s.Name]; !ok {
			looks[s.Name] = lineLook(len(looks))
		}
	}
	return looks
}

// legend draws a row for each series, and says where one has no figures.
func (c *canvas) legend(y float64, series []Series, looks map[string]look) {
	for _, s := range series {
		l := looks[s.Name]
		c.line(legendLeft, y, legendLeft+40, y, l.colour, 2, l.dash)
		c.marker(legendLeft+20, y, l)
		name := s.Name
		if len(s.Points) == 0 {
			name += " (no figures)"
		}
		c.fitted(legendLeft+50, y+4, name, width-margin-legendLeft-50, style{size: 12})
		y += legendRow
	}
}

// heightFor is the height of a plot beside a legend with n rows.
func heightFor(n int) float64 { return max(plotHeight, float64(n)*legendRow+8) }

// nothing says that a panel is empty and returns where the next may begin.
func (c *canvas) nothing(y float64) float64 {
	c.rect(plotLeft, y, plotRight-plotLeft, 60, "#f7f7f7", gridInk)
	c.text((plotLeft+plotRight)/2, y+34, "no figures", style{size: 13, fill: softInk, anchor: middle})
	return y + 60 + panelGap
}

func empty(series []Series) bool {
	return !slices.ContainsFunc(series, func(s Series) bool { return len(s.Points) > 0 })
}

// sorted is the indexes of a series' points in the order of X.
func sorted(s Series) []int {
	order := make([]int, len(s.Points))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case s.Points[a].X < s.Points[b].X:
			return -1
		case s.Points[a].X > s.Points[b].X:
			return 1
		}
		return 0
	})
	return order
}
