package picture

import (
	"fmt"
	"strings"
)

// look is how a line can be told from the others, with colours and without.
type look struct {
	colour, dash string
	shape        string // a path around 0,0; "" is a circle
	filled       bool
}

// Colours that people who see colours differently can tell apart (after Okabe and Ito), the darker ones first.
var colours = []string{"#0072b2", "#d55e00", "#009e73", "#1a1a1a", "#a0508c", "#c98a00", "#3a9bd4", "#7a7a7a"}

// Dashes and shapes are five and six, so that together they make thirty looks without any colour.
var (
	dashes = []string{"", "7 4", "2 3", "10 4 2 4", "14 4"}
	shapes = []struct {
		path   string
		filled bool
	}{
		{"", true},
		{"M-4 -4H4V4H-4Z", false},
		{"M0 -5L5 4H-5Z", true},
		{"M0 -5.5L5.5 0L0 5.5L-5.5 0Z", false},
		{"M0 5L5 -4H-5Z", false},
		{"M-4 -4L4 4M-4 4L4 -4", true},
	}
)

func lineLook(i int) look {
	s := shapes[i%len(shapes)]
	return look{colour: colours[i%len(colours)], dash: dashes[i%len(dashes)], shape: s.path, filled: s.filled}
}

// Fills of bars: seven hatchings and as many tints, shifted against each other once the hatchings are used up.
var (
	tints    = []string{"#0072b2", "#f2b98a", "#8fd0bb", "#9a9a9a", "#d9a9cc", "#f0d58a", "#a9d3ee"}
	hatching = []string{
		"",
		"M0 8L8 0M-2 2L2 -2M6 10L10 6",
		"M4 0V8",
		"M4 0V8M0 4H8",
		"M0 0L8 8M6 -2L10 2M-2 6L2 10",
		"M0 4H8",
		"M2 2h0.1M6 6h0.1",
	}
)

const fills = 49

func fillOf(i int) string { return fmt.Sprintf("url(#fill%d)", i%fills) }

// patternDefs has a fill for each part that a bar may have.
func patternDefs() string {
	var b strings.Builder
	for i := range fills {
		tint, hatch := tints[(i+i/len(hatching))%len(tints)], hatching[i%len(hatching)]
		fmt.Fprintf(&b, `<pattern id="fill%d" width="8" height="8" patternUnits="userSpaceOnUse"><rect width="8" height="8" fill="%s"/>`, i, tint)
		if hatch != "" {
			fmt.Fprintf(&b, `<path d="%s" stroke="#1a1a1a" stroke-width="1.3" stroke-linecap="round" fill="none"/>`, hatch)
		}
		b.WriteString("</pattern>\n")
	}
	return b.String()
}
