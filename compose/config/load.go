package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFileBytes is far above any real configuration; a larger file is a mistake.
const maxFileBytes = 1 << 20

// Load reads and completes the configuration. An empty path means the defaults alone, relative to the working
// directory. The error is Problems where the file is at fault.
func Load(path string) (*Config, error) {
	if path == "" {
		wd, err := os.Getwd()
		if err != nil {
			return nil, fmt.Errorf("config: %w", err)
		}
		return Defaults(wd)
	}
	full, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	raw, err := os.ReadFile(full)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if len(raw) > maxFileBytes {
		return nil, fmt.Errorf("config: %s has %d bytes, more than %d", path, len(raw), maxFileBytes)
	}
	c, err := parse(path, raw, filepath.Dir(full))
	if err != nil {
		return nil, err
	}
	c.File = full
	return c, nil
}

// Defaults is the configuration without a file; base is the directory to which its relative paths belong.
func Defaults(base string) (*Config, error) {
	c := &Config{}
	c.applyDefaults(base)
	return c, c.Validate()
}

// InDir is the configuration without a file whose data directory is dir.
func InDir(dir string) (*Config, error) {
	full, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	c := &Config{DataDir: full}
	c.applyDefaults(filepath.Dir(full))
	return c, c.Validate()
}

// Parse reads a configuration from memory. The name stands in problems, base is where relative paths belong.
func Parse(name string, raw []byte, base string) (*Config, error) { return parse(name, raw, base) }

func parse(name string, raw []byte, base string) (*Config, error) {
	doc, err := document(name, raw)
	if err != nil {
		return nil, err
	}
	c := &Config{}
	if doc != nil {
		pos := positions{file: name, at: map[string]place{}}
		value, problems := pos.value(doc, "")
		if len(problems) == 0 {
			problems = pos.schemaProblems(value)
		}
		if len(problems) > 0 {
			return nil, problems.sorted()
		}
		if err := doc.Decode(c); err != nil {
			return nil, fmt.Errorf("config: %s: %w", name, err)
		}
		c.applyDefaults(base)
		return c, pos.locate(c.problems()).err()
	}
	c.applyDefaults(base)
	return c, c.problems().err()
}

// document returns the root node of the file's one YAML document; nil for an empty file.
func document(name string, raw []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(strings.NewReader(string(raw)))
	var first, second yaml.Node
	if err := dec.Decode(&first); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		return nil, syntaxProblem(name, err)
	}
	switch err := dec.Decode(&second); {
	case err == nil:
		return nil, Problems{{File: name, Line: second.Line, Column: 1, Message: "a second YAML document", Remedy: "keep one document in the file; remove the --- line"}}
	case !errors.Is(err, io.EOF):
		return nil, syntaxProblem(name, err)
	}
	return first.Content[0], nil
}

// syntaxProblem turns the parser's "yaml: line 3: …" into a problem.
func syntaxProblem(name string, err error) error {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	p := Problem{File: name, Message: "not YAML: " + msg, Remedy: "check the indentation and the quotes on this line and the one above"}
	if rest, ok := strings.CutPrefix(msg, "line "); ok {
		num, text, _ := strings.Cut(rest, ": ")
		if n, convErr := strconv.Atoi(num); convErr == nil {
			p.Line, p.Column, p.Message = n, 1, "not YAML: "+text
		}
	}
	return Problems{p}
}

type place struct{ line, col int }

// positions remembers where each value of a document stands, by its path.
type positions struct {
	file string
	at   map[string]place
}

// value turns a node into what JSON Schema checks, and refuses what makes a file mean something else than it shows:
// a key twice, anchors, merge keys, tags.
func (p *positions) value(n *yaml.Node, path string) (any, Problems) {
	p.at[path] = place{n.Line, n.Column}
	if n.Anchor != "" || n.Kind == yaml.AliasNode {
		return nil, Problems{p.problem(path, "an anchor or alias", "write the value out")}
	}
	if n.Style&yaml.TaggedStyle != 0 {
		return nil, Problems{p.problem(path, "the tag "+n.Tag, "remove the tag")}
	}
	switch n.Kind {
	case yaml.MappingNode:
		return p.mapping(n, path)
	case yaml.SequenceNode:
		out := make([]any, 0, len(n.Content))
		var problems Problems
		for i, c := range n.Content {
			v, ps := p.value(c, fmt.Sprintf("%s[%d]", path, i))
			out, problems = append(out, v), append(problems, ps...)
		}
		return out, problems
	default:
		return p.scalar(n, path)
	}
}

func (p *positions) mapping(n *yaml.Node, path string) (any, Problems) {
	out := map[string]any{}
	var problems Problems
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		at := join(path, k.Value)
		if k.Kind != yaml.ScalarNode || k.Tag != "!!str" {
			problems = append(problems, Problem{File: p.file, Line: k.Line, Column: k.Column, Path: path, Message: "a key that is not plain text", Remedy: "use a field name"})
			continue
		}
		if _, twice := out[k.Value]; twice {
			problems = append(problems, Problem{File: p.file, Line: k.Line, Column: k.Column, Path: at, Message: "the field stands here a second time", Remedy: fmt.Sprintf("keep one of them; the first is on line %d", p.at[at].line)})
			continue
		}
		v, ps := p.value(n.Content[i+1], at)
		p.at[at] = place{k.Line, k.Column}
		out[k.Value], problems = v, append(problems, ps...)
	}
	return out, problems
}

func (p *positions) scalar(n *yaml.Node, path string) (any, Problems) {
	switch n.Tag {
	case "!!str":
		return n.Value, nil
	case "!!int", "!!float", "!!bool":
		var v any
		if err := n.Decode(&v); err != nil {
			return nil, Problems{p.problem(path, err.Error(), "write a plain value")}
		}
		return v, nil
	case "!!null":
		return nil, Problems{p.problem(path, "no value", "give it one, or remove the field to get its default")}
	default: // !!timestamp and the like mean text here
		return n.Value, nil
	}
}

func (p *positions) problem(path, message, remedy string) Problem {
	at := p.find(path)
	return Problem{File: p.file, Line: at.line, Column: at.col, Path: path, Message: message, Remedy: remedy}
}

// find is the place of a path or, where a default stands there, of the nearest thing around it.
func (p *positions) find(path string) place {
	for {
		if at, ok := p.at[path]; ok {
			return at
		}
		cut := max(strings.LastIndexByte(path, '.'), strings.LastIndexByte(path, '['), 0)
		if path == "" {
			return place{1, 1}
		}
		path = path[:cut]
	}
}

func (p *positions) locate(ps Problems) Problems {
	for i := range ps {
		at := p.find(ps[i].Path)
		ps[i].File, ps[i].Line, ps[i].Column = p.file, at.line, at.col
	}
	return ps.sorted()
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
