package scenario

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFile is far above any real scenario, in bytes.
const maxFile = 1 << 20

// Load reads a file and fills in the defaults; all are the peers that there are, usual those that are measured by default.
func Load(file string, all, usual []string) (*Scenario, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("scenario: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, fmt.Errorf("scenario: %w", err)
	}
	return Parse(file, raw, all, usual)
}

// Parse reads a scenario from memory; name stands in errors.
func Parse(name string, raw []byte, all, usual []string) (*Scenario, error) {
	var s Scenario
	dec := yaml.NewDecoder(strings.NewReader(string(raw)))
	dec.KnownFields(true)
	if err := dec.Decode(&s); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s:1: the file is empty; give parts with a workload", name)
	} else if err != nil {
		return nil, decoding(name, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: a second document; keep one and remove the --- line", name)
	}
	var root yaml.Node
	if err := yaml.Unmarshal(raw, &root); err != nil {
		return nil, decoding(name, err)
	}
	s.ApplyDefaults(usual)
	var errs []error
	for _, p := range s.problems(all) {
		errs = append(errs, fmt.Errorf("%s:%d: %s: %s", name, lineOf(&root, p.path), p.path, p.message))
	}
	return &s, errors.Join(errs...)
}

// Validate reports everything that is wrong with a scenario that was made without a file, joined.
func (s *Scenario) Validate(peers []string) error {
	var errs []error
	for _, p := range s.problems(peers) {
		errs = append(errs, fmt.Errorf("%s: %s", p.path, p.message))
	}
	return errors.Join(errs...)
}

var (
	unknownField = regexp.MustCompile(`^line (\d+): field (\S+) not found in type scenario\.(\w+)$`)
	atLine       = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)
)

// decoding puts the YAML package's messages into ours: the file and the line, what is wrong, and what to change.
func decoding(name string, err error) error {
	lines := []string{err.Error()}
	var several *yaml.TypeError
	if errors.As(err, &several) {
		lines = several.Errors
	}
	var errs []error
	for _, line := range lines {
		if m := unknownField.FindStringSubmatch(line); m != nil {
			errs = append(errs, fmt.Errorf("%s:%s: there is no field %s here; the fields of a %s are %s", name, m[1], m[2], strings.ToLower(m[3]), fields(m[3])))
		} else if m := atLine.FindStringSubmatch(line); m != nil {
			errs = append(errs, fmt.Errorf("%s:%s: %s; correct the value on this line", name, m[1], m[2]))
		} else {
			errs = append(errs, fmt.Errorf("%s: %s", name, line))
		}
	}
	return errors.Join(errs...)
}

// lineOf is the line of a field, or of what it would stand in.
func lineOf(n *yaml.Node, path string) int {
	line := 1
	for n.Kind == yaml.DocumentNode && len(n.Content) > 0 {
		n = n.Content[0]
	}
	for step := range strings.FieldsFuncSeq(path, func(r rune) bool { return strings.ContainsRune(".[]", r) }) {
		next := child(n, step)
		if next == nil {
			return line
		}
		n, line = next, next.Line
	}
	return line
}

func child(n *yaml.Node, step string) *yaml.Node {
	if n.Kind == yaml.SequenceNode {
		var i int
		if _, err := fmt.Sscan(step, &i); err != nil || i >= len(n.Content) {
			return nil
		}
		return n.Content[i]
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == step {
			return n.Content[i+1]
		}
	}
	return nil
}
