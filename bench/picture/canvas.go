package picture

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Inks on the white ground.
const (
	ink     = "#1a1a1a"
	softInk = "#555555"
	gridInk = "#d9d9d9"
)

const (
	fonts  = "DejaVu Sans, Verdana, Arial, sans-serif"
	middle = "middle"
	end    = "end"
)

// canvas collects elements; nothing here depends on anything but what it is given.
type canvas struct{ b bytes.Buffer }

type style struct {
	size   float64
	bold   bool
	fill   string // ink by default
	anchor string // the start by default
	turned bool   // read from below
	halo   bool   // white around the letters, where lines are behind them
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a builder takes everything
	return b.String()
}

func (c *canvas) text(x, y float64, s string, st style) { c.titled(x, y, s, "", st) }

// titled is text with a tooltip.
func (c *canvas) titled(x, y float64, s, title string, st style) {
	if st.fill == "" {
		st.fill = ink
	}
	fmt.Fprintf(&c.b, `<text x="%.1f" y="%.1f" font-size="%g" fill="%s"`, x, y, st.size, st.fill)
	if st.bold {
		c.b.WriteString(` font-weight="bold"`)
	}
	if st.anchor != "" {
		fmt.Fprintf(&c.b, ` text-anchor="%s"`, st.anchor)
	}
	if st.halo {
		c.b.WriteString(` stroke="#ffffff" stroke-width="4" stroke-linejoin="round" paint-order="stroke"`)
	}
	if st.turned {
		fmt.Fprintf(&c.b, ` transform="rotate(-90 %.1f %.1f)"`, x, y)
	}
	c.b.WriteString(">")
	if title != "" {
		fmt.Fprintf(&c.b, "<title>%s</title>", escape(title))
	}
	fmt.Fprintf(&c.b, "%s</text>\n", escape(s))
}

// fitted shortens text that is wider than there is room for; the whole of it is in the tooltip.
func (c *canvas) fitted(x, y float64, s string, room float64, st style) {
	short := fit(s, st.size, room)
	if short == s {
		c.text(x, y, s, st)
		return
	}
	c.titled(x, y, short, s, st)
}

func (c *canvas) line(x1, y1, x2, y2 float64, colour string, thick float64, dash string) {
	fmt.Fprintf(&c.b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%g"`, x1, y1, x2, y2, colour, thick)
	c.dash(dash)
	c.b.WriteString("/>\n")
}

func (c *canvas) polyline(points []Point, l look) {
	c.b.WriteString(`<polyline points="`)
	for i, p := range points {
		if i > 0 {
			c.b.WriteByte(' ')
		}
		fmt.Fprintf(&c.b, "%.1f,%.1f", p.X, p.Y)
	}
	fmt.Fprintf(&c.b, `" fill="none" stroke="%s" stroke-width="2" stroke-linejoin="round"`, l.colour)
	c.dash(l.dash)
	c.b.WriteString("/>\n")
}

func (c *canvas) dash(dash string) {
	if dash != "" {
		fmt.Fprintf(&c.b, ` stroke-dasharray="%s"`, dash)
	}
}

func (c *canvas) rect(x, y, w, h float64, fill, stroke string) {
	fmt.Fprintf(&c.b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s" stroke="%s"/>`+"\n", x, y, w, h, fill, stroke)
}

// marker draws a look's sign around a place.
func (c *canvas) marker(x, y float64, l look) {
	fill := "#ffffff"
	if l.filled {
		fill = l.colour
	}
	if l.shape == "" {
		fmt.Fprintf(&c.b, `<circle cx="%.1f" cy="%.1f" r="4"`, x, y)
	} else {
		fmt.Fprintf(&c.b, `<path transform="translate(%.1f %.1f)" d="%s"`, x, y, l.shape)
	}
	fmt.Fprintf(&c.b, ` fill="%s" stroke="%s" stroke-width="1.6"/>`+"\n", fill, l.colour)
}

// horizontalAxis draws ticks, labels and a title below a plot whose top and bottom are given.
func (c *canvas) horizontalAxis(s scale, top, bottom float64, title string) {
	last := -1e9
	for _, t := range s.ticks {
		x := s.at(t.value)
		c.line(x, top, x, bottom, gridInk, 1, "")
		half := textWidth(t.label, 12) / 2
		if t.label == "" || x-half < last+4 {
			continue
		}
		last = x + half
		c.text(x, bottom+17, t.label, style{size: 12, anchor: middle})
	}
	c.line(s.from, bottom, s.to, bottom, ink, 1, "")
	c.text((s.from+s.to)/2, bottom+36, title, style{size: 12, fill: softInk, anchor: middle})
}

// verticalAxis draws ticks, labels and a title left of a plot whose sides are given. The scale goes up from its from.
func (c *canvas) verticalAxis(s scale, left, right float64, title string) {
	last := 1e9
	for _, t := range s.ticks {
		y := s.at(t.value)
		ink := gridInk
		if t.label == "" {
			ink = "#efefef"
		}
		c.line(left, y, right, y, ink, 1, "")
		if t.label == "" || y > last-13 {
			continue
		}
		last = y
		c.text(left-8, y+4, t.label, style{size: 12, anchor: end})
	}
	c.line(left, s.from, left, s.to, "#1a1a1a", 1, "")
	c.text(margin+4, (s.from+s.to)/2, title, style{size: 12, fill: softInk, anchor: middle, turned: true})
}

func (c *canvas) writeTo(w io.Writer, height float64, f Figures) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%g" height="%.0f" viewBox="0 0 %g %.0f" font-family="%s" role="img">`+"\n",
		width, height, width, height, fonts)
	title := f.Title
	if title == "" {
		title = "Load comparison"
	}
	fmt.Fprintf(&b, "<title>%s</title>\n", escape(title))
	b.WriteString("<defs>\n" + patternDefs() + "</defs>\n")
	fmt.Fprintf(&b, `<rect width="%g" height="%.0f" fill="#ffffff"/>`+"\n", width, height)
	b.Write(c.b.Bytes())
	b.WriteString("</svg>\n")
	_, err := w.Write(b.Bytes())
	return err
}

// textWidth is about how wide a text is, in pixels; it errs on the wide side for the fonts that are asked for.
func textWidth(s string, size float64) float64 {
	w := 0.0
	for _, r := range s {
		switch {
		case r >= 0x1100:
			w += 1.05 // ideographs and the like are square
		case strings.ContainsRune("iljI.,:;|!' ", r):
			w += 0.37
		case strings.ContainsRune("mwMW%@", r):
			w += 0.98
		default:
			w += 0.64
		}
	}
	return w * size
}

// fit shortens s to the room there is.
func fit(s string, size, room float64) string {
	if textWidth(s, size) <= room {
		return s
	}
	for s != "" {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
		if textWidth(s+"…", size) <= room {
			break
		}
	}
	return strings.TrimRight(s, " ") + "…"
}

// wrap breaks text at spaces; a word that is too wide by itself is shortened.
func wrap(s string, size, room float64) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(s) {
		if line != "" && textWidth(line+" "+word, size) <= room {
			line += " " + word
			continue
		}
		if line != "" {
			lines = append(lines, line)
		}
		line = fit(word, size, room)
	}
	return append(lines, line)
}
