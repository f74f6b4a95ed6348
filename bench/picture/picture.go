// Package picture draws the figures of a load report as SVG. This is a placeholder with the API of the one to come.
package picture

import (
	"encoding/xml"
	"io"
	"strings"
)

// Point is one point of a curve.
type Point struct{ X, Y float64 }

// Series is one curve; Low and High are the least and the greatest of each point, or nil.
type Series struct {
	Name      string
	Points    []Point
	Low, High []float64
}

// Part is one piece of a bar.
type Part struct {
	Name  string
	Value float64
}

// Stack is one bar, such as a peer's, with parts by process.
type Stack struct {
	Name  string
	Parts []Part
}

// Figures are everything that is drawn.
type Figures struct {
	Title, Subtitle string
	Latency         []Series // X is a percentile as a fraction in (0,1), Y is in milliseconds
	LatencyNote     string
	Throughput      []Series // X is connections, Y is requests a second
	Cost            []Stack  // CPU milliseconds a request by process group
}

// SVG draws them.
func SVG(w io.Writer, f Figures) error {
	var title strings.Builder
	if err := xml.EscapeText(&title, []byte(f.Title+" "+f.Subtitle)); err != nil {
		return err
	}
	_, err := io.WriteString(w, `<svg xmlns="http://www.w3.org/2000/svg" width="800" height="60"><text x="10" y="30">`+title.String()+"</text></svg>\n")
	return err
}
