package picture

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden file anew")

// realistic is a comparison as it comes out of a run.
func realistic() Figures {
	f := Figures{
		Title:       "What a gate costs",
		Subtitle:    "5 rounds of 3 s on 2 cores shared by client, upstream and gate; Envoy 1.40.0; evidence sealed; medians, whiskers from the least to the greatest round",
		LatencyNote: "closed loop, 16 connections, all rounds together",
	}
	peers := []struct {
		name  string
		p50   float64
		tail  float64
		rps   [3]float64
		parts []Part
	}{
		{"direct", 0.25, 1.6, [3]float64{13110, 46897, 43221}, nil},
		{"envoy", 0.95, 1.7, [3]float64{3238, 15108, 19466}, []Part{{"envoy", 0.06}}},
		{"envoy-native", 1.3, 1.7, [3]float64{2500, 9108, 11466}, []Part{{"envoy", 0.11}}},
		{"noop", 3.58, 1.5, [3]float64{1020, 4262, 6574}, []Part{{"envoy", 0.16}, {"processor", 0.07}}},
		{"sallyport", 8.91, 1.4, [3]float64{494, 1744, 2766}, []Part{{"envoy", 0.23}, {"processor", 0.18}, {"signer", 0.17}, {"redis", 0.01}}},
		{"mitmproxy", 41, 1.35, [3]float64{210, 330, 320}, []Part{{"mitmdump", 3.1}}},
		{"litellm", 80, 1.5, [3]float64{120, 190, 200}, []Part{{"litellm", 5.4}}},
	}
	for _, p := range peers {
		s := Series{Name: p.name}
		for i := 1; i < 60; i++ {
			nines := 3.2 * float64(i) / 60
			s.Points = append(s.Points, Point{1 - math.Pow(10, -nines), p.p50 * (0.6 + 0.4*math.Pow(nines/0.3, p.tail)/1.4)})
		}
		f.Latency = append(f.Latency, s)
		t := Series{Name: p.name}
		for i, c := range []float64{1, 16, 64} {
			t.Points = append(t.Points, Point{c, p.rps[i]})
			t.Low, t.High = append(t.Low, p.rps[i]*0.86), append(t.High, p.rps[i]*1.09)
		}
		f.Throughput = append(f.Throughput, t)
		f.Cost = append(f.Cost, Stack{Name: p.name, Parts: p.parts})
	}
	return f
}

// crowded has twelve peers with long names, many parts, and text that XML has to escape.
func crowded() Figures {
	f := Figures{Title: `<b>"Twelve" & more</b>`, Subtitle: strings.Repeat("a long subtitle that needs more than one line ", 8)}
	for i := range 12 {
		name := fmt.Sprintf("peer %d <with> a very & long name that cannot fit beside the plot", i)
		var s, t Series
		s.Name, t.Name = name, name
		for j := 1; j < 40; j++ {
			s.Points = append(s.Points, Point{float64(j) / 40, 1 + float64(i)*0.02 + float64(j)*0.01})
		}
		for c := range 9 {
			y := 1000 + 20*float64(i) + 100*float64(c)
			t.Points = append(t.Points, Point{math.Exp2(float64(c)), y})
			t.Low, t.High = append(t.Low, y-30), append(t.High, y+30)
		}
		f.Latency, f.Throughput = append(f.Latency, s), append(f.Throughput, t)
		stack := Stack{Name: name}
		for j := range 12 {
			stack.Parts = append(stack.Parts, Part{fmt.Sprintf("process group %d that has a long name too", j), 0.1 * float64(i+j)})
		}
		f.Cost = append(f.Cost, stack)
	}
	return f
}

// degenerate figures that still make a picture.
func degenerate() map[string]Figures {
	return map[string]Figures{
		"one point each": {
			Latency:    []Series{{Name: "a", Points: []Point{{0.5, 2}}}},
			Throughput: []Series{{Name: "a", Points: []Point{{1, 100}}, Low: []float64{100}, High: []float64{100}}},
			Cost:       []Stack{{Name: "a", Parts: []Part{{"p", 1}}}},
		},
		"zeros": {
			Throughput: []Series{{Name: "a", Points: []Point{{1, 0}, {2, 0}}, Low: []float64{0, 0}, High: []float64{0, 0}}},
			Cost:       []Stack{{Name: "a", Parts: []Part{{"p", 0}, {"q", 0}}}},
		},
		"zero beside large": {Throughput: []Series{{Name: "a", Points: []Point{{1, 0}, {2, 90000}}}}},
		"series without points": {
			Latency:    []Series{{Name: "a"}, {Name: "b", Points: []Point{{0.2, 3}, {0.9, 3}}}},
			Throughput: []Series{{Name: "a"}},
		},
		"only titles of series":  {Latency: []Series{{Name: "a"}}},
		"starts alone":           {Startup: []Bar{{"true", 1, 0.9, 1.2}, {strings.Repeat("a long command ", 9), 80, 70, 1e6}, {"no time", 0, 0, 0}}},
		"a bar without parts":    {Cost: []Stack{{Name: "direct"}}},
		"unordered points":       {Latency: []Series{{Name: "a", Points: []Point{{0.99, 9}, {0.5, 1}, {0.9, 3}}}}},
		"tiny and huge":          {Latency: []Series{{Name: "a", Points: []Point{{1e-300, 1e-9}, {1 - 1e-9, 1e12}}}}, Throughput: []Series{{Name: "a", Points: []Point{{1e-9, 1e-9}, {1e12, 1e12}}}}, Cost: []Stack{{Name: "a", Parts: []Part{{"p", 1e12}}}}},
		"control characters":     {Title: "a\x00b\xffc", Cost: []Stack{{Name: "\x01", Parts: []Part{{"\x02", 1}}}}},
		"fifty parts":            {Cost: []Stack{{Name: "a", Parts: manyParts(50)}}},
		"equal throughput":       {Throughput: []Series{{Name: "a", Points: []Point{{1, 5000}, {16, 5000}}}}},
		"many connection counts": {Throughput: []Series{{Name: "a", Points: manyPoints(200)}}},
	}
}

func manyParts(n int) []Part {
	var out []Part
	for i := range n {
		out = append(out, Part{fmt.Sprint("part ", i), 1})
	}
	return out
}

func manyPoints(n int) []Point {
	var out []Point
	for i := range n {
		out = append(out, Point{float64(i + 1), float64(1000 + i)})
	}
	return out
}

// element is a parsed element with the text directly in it.
type element struct {
	name string
	attr map[string]string
	text string
}

// parse reads an SVG as XML and wants every coordinate to be a number inside the picture.
func parse(t *testing.T, raw []byte) []element {
	t.Helper()
	var all []element
	var open []int
	for d := xml.NewDecoder(bytes.NewReader(raw)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("no XML: %v\n%s", err, raw)
		}
		switch token := token.(type) {
		case xml.StartElement:
			e := element{name: token.Name.Local, attr: map[string]string{}}
			for _, a := range token.Attr {
				e.attr[a.Name.Local] = a.Value
			}
			open = append(open, len(all))
			all = append(all, e)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) > 0 {
				all[open[len(open)-1]].text += string(token)
			}
		}
	}
	if bytes.Contains(raw, []byte("NaN")) || bytes.Contains(raw, []byte("Inf")) {
		t.Error("a figure is not a number")
	}
	height, err := strconv.ParseFloat(all[0].attr["height"], 64)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		for _, name := range []string{"x", "x1", "x2", "cx", "y", "y1", "y2", "cy"} {
			if e.attr[name] == "" {
				continue
			}
			v, err := strconv.ParseFloat(e.attr[name], 64)
			limit := width
			if name[len(name)-1] == 'y' || name[0] == 'y' {
				limit = height
			}
			if err != nil || v < 0 || v > limit {
				t.Errorf("%s %v lies outside", e.name, e.attr)
			}
		}
	}
	return all
}

func draw(t *testing.T, f Figures) []byte {
	t.Helper()
	var a, b bytes.Buffer
	if err := SVG(&a, f); err != nil {
		t.Fatal(err)
	}
	if err := SVG(&b, f); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("the same figures make two pictures")
	}
	return a.Bytes()
}

// texts are all that a person reads, in order.
func texts(all []element) []string {
	var out []string
	for _, e := range all {
		if e.name == "text" {
			out = append(out, e.text)
		}
	}
	return out
}

// overlapping finds two texts of a picture that cover each other, going by the estimated width.
func overlapping(all []element) string {
	type box struct{ left, top, right, bottom float64 }
	var boxes []box
	var of []string
	for _, e := range all {
		if e.name != "text" {
			continue
		}
		x, _ := strconv.ParseFloat(e.attr["x"], 64) // parse has read them
		y, _ := strconv.ParseFloat(e.attr["y"], 64)
		size, _ := strconv.ParseFloat(e.attr["font-size"], 64)
		w := textWidth(e.text, size)
		switch e.attr["text-anchor"] {
		case middle:
			x -= w / 2
		case end:
			x -= w
		}
		b := box{x, y - 0.75*size, x + w, y + 0.2*size}
		if e.attr["transform"] != "" { // turned around its anchor, which is its middle
			b = box{x + w/2 - 0.75*size, y - w/2, x + w/2 + 0.2*size, y + w/2}
		}
		if b.left < 0 || b.right > width+1 {
			return fmt.Sprintf("%q leaves the picture", e.text)
		}
		for i, o := range boxes {
			if b.left < o.right && o.left < b.right && b.top < o.bottom && o.top < b.bottom {
				return fmt.Sprintf("%q covers %q", e.text, of[i])
			}
		}
		boxes, of = append(boxes, b), append(of, e.text)
	}
	return ""
}

func TestRealistic(t *testing.T) {
	raw := draw(t, realistic())
	all := parse(t, raw)
	if o := overlapping(all); o != "" {
		t.Error(o)
	}
	read := "\n" + strings.Join(texts(all), "\n") + "\n"
	for _, want := range []string{
		"What a gate costs", "50", "90", "99", "99.9", "milliseconds, log scale", "requests a second, log scale", "1", "16", "64",
		"CPU milliseconds a request", "0.59 ms", "5.4 ms", "no process of its own", "least to greatest", "signer",
	} {
		if !strings.Contains(read, "\n"+want+"\n") {
			t.Errorf("%q is not in the picture", want)
		}
	}
	if n := strings.Count(read, "\nsallyport\n"); n != 3 {
		t.Errorf("sallyport is named %d times, want once in each panel", n)
	}
	golden := filepath.Join("testdata", "realistic.svg")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw, want) {
		t.Errorf("the picture is not %s; look at it, then run with -update", golden)
	}
}

// TestGreyIsEnough: no two lines share dash and marker, no two parts share a fill.
func TestGreyIsEnough(t *testing.T) {
	lines := map[string]bool{}
	for i := range 30 {
		l := lineLook(i)
		key := fmt.Sprint(l.dash, "|", l.shape)
		if lines[key] {
			t.Errorf("look %d is there already without its colour", i)
		}
		lines[key] = true
	}
	defs := regexp.MustCompile(`id="fill\d+"`).ReplaceAllString(patternDefs(), "")
	seen := map[string]bool{}
	for p := range strings.Lines(defs) {
		if seen[p] {
			t.Errorf("two fills look alike: %s", p)
		}
		seen[p] = true
	}
}

func TestCrowded(t *testing.T) {
	raw := draw(t, crowded())
	all := parse(t, raw)
	if o := overlapping(all); o != "" {
		t.Error(o)
	}
	if !strings.Contains(string(raw), "&lt;b&gt;&#34;Twelve&#34; &amp; more&lt;/b&gt;") {
		t.Error("the title is not escaped")
	}
	full := 0
	for _, e := range all {
		if e.name == "title" && strings.HasPrefix(e.text, "peer 11 <with>") {
			full++
		}
	}
	if full != 3 {
		t.Errorf("a shortened name is whole in %d tooltips, want 3", full)
	}
}

func TestDegenerate(t *testing.T) {
	for name, f := range degenerate() {
		t.Run(name, func(t *testing.T) {
			all := parse(t, draw(t, f))
			if o := overlapping(all); o != "" {
				t.Error(o)
			}
			read := strings.Join(texts(all), "\n")
			if missing := strings.Count(read, "no figures"); missing == 0 && (len(f.Latency) == 0 || len(f.Throughput) == 0 || len(f.Cost) == 0) {
				t.Error("an empty panel does not say so")
			}
		})
	}
}

// TestStartupIsDrawnWhereThereIsOne, below the other panels.
func TestStartupIsDrawnWhereThereIsOne(t *testing.T) {
	f := realistic()
	without := strings.Join(texts(parse(t, draw(t, f))), "\n")
	f.Startup = []Bar{{"true", 0.858, 0.8, 0.9}, {"sallyport run", 78.6, 77.5, 86}}
	all := parse(t, draw(t, f))
	if o := overlapping(all); o != "" {
		t.Error(o)
	}
	with := strings.Join(texts(all), "\n")
	for _, want := range []string{"Start-up", "sallyport run", "78.6 ms", "0.858 ms"} {
		if !strings.Contains(with, want) || strings.Contains(without, want) {
			t.Errorf("%q should be in the picture with starts, and in no other", want)
		}
	}
}

func TestRefused(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	one := func(x, y float64) []Series { return []Series{{Name: "envoy", Points: []Point{{0.5, 1}, {x, y}}}} }
	for name, c := range map[string]struct {
		f    Figures
		want string
	}{
		"nothing":                {Figures{Title: "empty"}, "nothing to draw"},
		"latency is NaN":         {Figures{Latency: one(0.9, nan)}, `latency: "envoy", point 1`},
		"latency is infinite":    {Figures{Latency: one(0.9, inf)}, `latency: "envoy", point 1`},
		"latency is zero":        {Figures{Latency: one(0.9, 0)}, "logarithmic"},
		"percentile is NaN":      {Figures{Latency: one(nan, 1)}, "percentile NaN"},
		"percentile is one":      {Figures{Latency: one(1, 1)}, "percentile 1 "},
		"percentile is percent":  {Figures{Latency: one(99, 1)}, "percentile 99 "},
		"percentile is zero":     {Figures{Latency: one(0, 1)}, "percentile 0 "},
		"throughput is NaN":      {Figures{Throughput: one(1, nan)}, `throughput: "envoy", point 1`},
		"throughput is infinite": {Figures{Throughput: one(1, inf)}, "requests a second"},
		"throughput is negative": {Figures{Throughput: one(1, -1)}, "requests a second"},
		"no connections":         {Figures{Throughput: one(0, 1)}, "connections"},
		"span too short":         {Figures{Throughput: []Series{{Name: "a", Points: []Point{{1, 1}}, Low: []float64{}, High: []float64{}}}}, "span for 0"},
		"half a span":            {Figures{Throughput: []Series{{Name: "a", Points: []Point{{1, 1}}, Low: []float64{1}}}}, "one end"},
		"span is NaN":            {Figures{Throughput: []Series{{Name: "a", Points: []Point{{1, 1}}, Low: []float64{nan}, High: []float64{1}}}}, "span of point 0"},
		"point outside its span": {Figures{Throughput: []Series{{Name: "a", Points: []Point{{1, 5}}, Low: []float64{6}, High: []float64{7}}}}, "not between"},
		"two of a name":          {Figures{Latency: []Series{{Name: "a"}, {Name: "a"}}}, "twice"},
		"no name":                {Figures{Latency: []Series{{}}}, "no name"},
		"cost is NaN":            {Figures{Cost: []Stack{{Name: "a", Parts: []Part{{"p", nan}}}}}, `cost: "a", part "p"`},
		"cost is infinite":       {Figures{Cost: []Stack{{Name: "a", Parts: []Part{{"p", inf}}}}}, `cost: "a", part "p"`},
		"cost is negative":       {Figures{Cost: []Stack{{Name: "a", Parts: []Part{{"p", -1}}}}}, "-1 milliseconds"},
		"start is NaN":           {Figures{Startup: []Bar{{"a", nan, 0, 1}}}, `start-up: "a"`},
		"start before its span":  {Figures{Startup: []Bar{{"a", 1, 2, 3}}}, "from 2 to 3"},
		"start takes forever":    {Figures{Startup: []Bar{{"a", 1, 1, inf}}}, `start-up: "a"`},
		"two starts of a name":   {Figures{Startup: []Bar{{"a", 1, 1, 1}, {"a", 1, 1, 1}}}, "twice"},
		"two parts of a name":    {Figures{Cost: []Stack{{Name: "a", Parts: []Part{{"p", 1}, {"p", 1}}}}}, "twice"},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			err := SVG(&b, c.f)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if b.Len() > 0 {
				t.Error("something was written all the same")
			}
		})
	}
}

// TestFewPointsAreMarked: where there are only a few percentiles, each can be seen.
func TestFewPointsAreMarked(t *testing.T) {
	f := Figures{Latency: []Series{{Name: "a", Points: []Point{{0.5, 1}, {0.51, 1}, {0.99, 3}}}}}
	circles := 0
	for _, e := range parse(t, draw(t, f)) {
		if e.name == "circle" {
			circles++
		}
	}
	if circles != 4 { // and one in the legend
		t.Errorf("%d markers, want 4", circles)
	}
}

func TestScales(t *testing.T) {
	p := percentiles(0.01, 0.9995, 0, 300)
	if a, b := p.at(0.99)-p.at(0.9), p.at(0.999)-p.at(0.99); math.Abs(a-b) > 0.01 {
		t.Errorf("from 90 to 99 it is %g, from 99 to 99.9 it is %g", a, b)
	}
	l := logarithmic(0.3, 70, 100, 0)
	if l.low != 0.2 || l.top != 100 || l.at(l.low) != 100 || l.at(l.top) != 0 {
		t.Errorf("from 0.3 to 70 the axis is %g to %g", l.low, l.top)
	}
	for v, want := range map[float64]string{0: "0", 0.001234: "0.00123", 0.05: "0.05", 0.591: "0.591", 5.4: "5.4", 12.34: "12.3", 99.97: "100", 1234567: "1,234,567", 1e12: "1e+12"} {
		if got := number(v); got != want {
			t.Errorf("number(%g) is %s, want %s", v, got, want)
		}
	}
	for _, most := range []float64{0, 0.3, 1, 7, 999, 1e6} {
		s := linear(most, 0, 100)
		if s.top < most || len(s.ticks) < 2 || len(s.ticks) > 12 {
			t.Errorf("up to %g the axis ends at %g with %d ticks", most, s.top, len(s.ticks))
		}
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestWriteFails(t *testing.T) {
	if err := SVG(broken{}, realistic()); err == nil {
		t.Error("a failed write is not told")
	}
}

func FuzzSVG(f *testing.F) {
	f.Add("a", 0.5, 1.0, 16.0, 1000.0, 0.3)
	f.Add("<&>\x00", 1-1e-9, 1e12, 1e-9, 0.0, 1e12)
	f.Fuzz(func(t *testing.T, name string, p, ms, connections, rps, cost float64) {
		var b bytes.Buffer
		err := SVG(&b, Figures{
			Title: name, Latency: []Series{{Name: "a" + name, Points: []Point{{p, ms}}}},
			Throughput: []Series{{Name: "b" + name, Points: []Point{{connections, rps}}}},
			Cost:       []Stack{{Name: "c" + name, Parts: []Part{{"p", cost}}}},
			Startup:    []Bar{{Name: "d" + name, Value: ms, Low: min(ms, cost), High: max(ms, rps)}},
		})
		if err == nil {
			parse(t, b.Bytes())
		}
	})
}
