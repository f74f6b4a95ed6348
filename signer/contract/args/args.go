// Package args holds the argument rules of a tool: expressions of the Common Expression Language over what one request
// says. They are compiled and bounded when a contract is read, and a call passes only where each of them is surely true.
//
// A rule sees
//
//	path    map(string, string)        the variables of the tool's path template, escapes undone: path.user
//	query   map(string, list(string))  the query's parameters, escapes undone: query["$top"][0]
//	body    dyn                        the JSON body; numbers are doubles: body.lines[0].amount <= 100
//	method  string                     in capitals
//	host    string                     the authority; a port of 443 is left out
//
// and nothing else: no clock, no randomness, no state, so that the same request always has the same outcome. The language is
// https://github.com/google/cel-spec with the macros has, all, exists and exists_one; map and filter are left out, since
// what a predicate needs can be said without building lists.
package args

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/interpreter"

	"sallyport/signer/code"
)

const (
	// MaxRules bounds the rules of one tool.
	MaxRules = 16
	// MaxBytes bounds the text of one rule.
	MaxBytes = 1024
	// MaxCost bounds what all rules of one tool may cost together for one call, in CEL's units (about one step each): some
	// twenty to forty milliseconds (BenchmarkCheck). A rule over a list of a hundred recipients costs about two thousand.
	MaxCost = 100_000
	// assumedSize is what a list, a map or a string is taken to hold at most where a rule's cost is estimated: elements, or
	// bytes. What is larger is not refused for that; it is stopped where its real cost comes to MaxCost.
	assumedSize = 256
)

// ErrInvalid is wrapped by every error of Compile.
var ErrInvalid = errors.New("rule invalid")

// Set is the rules of one tool, in their order. It is immutable and safe for concurrent use.
type Set struct {
	rules []compiled
	query bool // some rule names the query
	body  bool // some rule names the body
}

type compiled struct {
	source  string
	program cel.Program
	reads   []string // of path, query, body, method, host
}

// Error is what is wrong with one rule of a set.
type Error struct {
	Index  int // of the rule
	Line   int // from 1; 0 where it is about the rule as a whole
	Column int // from 1
	Reason string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Reason
	}
	return fmt.Sprintf("line %d column %d: %s", e.Line, e.Column, e.Reason)
}

func (e *Error) Unwrap() error { return ErrInvalid }

// Compile reads the rules of a tool whose path template has the given variables. The error joins an *Error for everything
// that is wrong.
func Compile(sources, variables []string) (*Set, error) {
	s := &Set{}
	var errs []error
	var cost uint64
	if len(sources) > MaxRules {
		return nil, fmt.Errorf("%w: %d rules; a tool has at most %d", ErrInvalid, len(sources), MaxRules)
	}
	for i, source := range sources {
		c, estimate, found := compile(source, variables)
		for _, e := range found {
			e.Index = i
			errs = append(errs, e)
		}
		if found != nil {
			continue
		}
		before := cost
		if cost += estimate; cost > MaxCost && before <= MaxCost {
			errs = append(errs, &Error{Index: i, Reason: fmt.Sprintf(
				"it could cost %s for lists, maps and strings of %d elements; all rules of a tool may cost %d together", shownCost(estimate), assumedSize, MaxCost)})
		}
		s.query = s.query || slices.Contains(c.reads, varQuery)
		s.body = s.body || slices.Contains(c.reads, varBody)
		s.rules = append(s.rules, c)
	}
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	return s, nil
}

func shownCost(n uint64) string {
	if n > 1<<40 {
		return "without bound"
	}
	return fmt.Sprintf("%d", n)
}

// ReadsBody says whether some rule names the body, which then must be JSON.
func (s *Set) ReadsBody() bool { return s != nil && s.body }

// Sources are the rules as written.
func (s *Set) Sources() []string {
	if s == nil {
		return nil
	}
	out := make([]string, len(s.rules))
	for i := range s.rules {
		out[i] = s.rules[i].source
	}
	return out
}

// Constant lists the indexes of rules that name nothing of the call, and so are true or false for every one.
func (s *Set) Constant() []int {
	var out []int
	for i := range s.Sources() {
		if len(s.rules[i].reads) == 0 {
			out = append(out, i)
		}
	}
	return out
}

// Call is one request, as rules see it.
type Call struct {
	Method string
	Host   string            // without a port of 443
	Path   map[string]string // the template's variables, escapes undone
	Query  string            // as it came, without the question mark
	// ContentType and ContentEncoding are the headers' values. A body that a rule names must be plain JSON and say so: else
	// another reader could find something else in it.
	ContentType     string
	ContentEncoding string
	Body            []byte
}

// Check says why the rules refuse a call, or nil where every rule is true. tool is its name, for the text.
func (s *Set) Check(tool string, c *Call) *code.Denial {
	if s == nil || len(s.rules) == 0 {
		return nil
	}
	vars, d := s.variables(c)
	if d != nil {
		return d
	}
	left := uint64(MaxCost)
	for i := range s.rules {
		r := &s.rules[i]
		out, details, err := r.program.Eval(vars)
		if cost := details.ActualCost(); cost == nil || *cost > left {
			err = errTooCostly
		} else {
			left -= *cost
		}
		if err != nil {
			return code.Deny(code.PolicyToolRuleUndecided, "%s, args[%d] %s: %s", tool, i, shown(r.source), reason(err))
		}
		if holds, ok := out.Value().(bool); !ok || !holds {
			return code.Deny(code.PolicyToolRuleDenied, "%s, args[%d] %s", tool, i, shown(r.source))
		}
	}
	return nil
}

var errTooCostly = errors.New("it takes more than its share of steps for this call")

// reason puts an error of the evaluation in few words, which name what the rule asked for.
func reason(err error) string {
	var stopped interpreter.EvalCancelledError
	if errors.As(err, &stopped) {
		err = errTooCostly
	}
	return shown(err.Error())
}

// shown keeps texts short where they are repeated to the client.
func shown(s string) string {
	const most = 160
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
