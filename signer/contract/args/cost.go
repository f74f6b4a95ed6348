package args

import (
	"regexp"
	"regexp/syntax"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"
)

// Two kinds of calls cost more than the library reckons (v0.33.2), and a client chooses how much: a regular expression takes
// time in proportion to its program, not to its text, and values are compared as deep as they go.

const matches = "matches"

// maxRegex bounds a regular expression's program, in instructions of RE2.
const maxRegex = 1000

// matchSteps is how many instructions of a regular expression, each on one byte, are one step of a rule.
const matchSteps = 50

// pattern is a regular expression of a rule.
type pattern struct {
	*regexp.Regexp
	instructions uint64
}

func newPattern(text string) (*pattern, error) {
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, err
	}
	parsed, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, err
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, err
	}
	return &pattern{re, uint64(len(program.Inst))}, nil
}

// steps is what matching a text of n bytes costs.
func (p *pattern) steps(n uint64) uint64 { return 1 + n*p.instructions/matchSteps }

// patterns are those of one rule, by their text.
type patterns map[string]*pattern

// match is the call of matches with its pattern compiled beforehand. A text that would cost too much is not looked at.
func (p patterns) match(call interpreter.InterpretableCall, text string) (interpreter.InterpretableCall, error) {
	re, err := newPattern(text)
	if err != nil {
		return nil, err
	}
	p[text] = re
	return interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), call.Args(), func(values ...ref.Val) ref.Val {
		in, ok := values[0].(types.String)
		switch {
		case !ok:
			return types.NoSuchOverloadErr()
		case re.steps(uint64(len(in))) > MaxCost:
			return types.NewErr("%d bytes are too many for the pattern", len(in)) // CallCost says so too, but afterwards
		}
		return types.Bool(re.MatchString(string(in)))
	}), nil
}

// CallCost implements cost.ActualCostEstimator.
func (p patterns) CallCost(function, _ string, args []ref.Val, _ ref.Val) *uint64 {
	switch function {
	case matches:
		text, ok := args[0].(types.String)
		given, known := args[1].(types.String)
		if re := p[string(given)]; ok && known && re != nil {
			n := re.steps(uint64(len(text)))
			return &n
		}
	case operators.Equals, operators.NotEquals, operators.In, operators.OldIn:
		n := uint64(1)
		for _, a := range args {
			n += weight(a.Value(), MaxCost)
		}
		return &n
	}
	return nil
}

// weight is about how long it takes to compare a value: one step for each part, and for each ten bytes. It stops at most.
func weight(v any, most uint64) uint64 {
	n := uint64(1)
	switch v := v.(type) {
	case string:
		n += uint64(len(v)) / 10
	case []any:
		for _, e := range v {
			if n < most {
				n += weight(e, most-n)
			}
		}
	case map[string]any:
		for k, e := range v {
			if n < most {
				n += uint64(len(k))/10 + weight(e, most-n)
			}
		}
	}
	return n
}

// sizes is what an estimate assumes of the call.
type sizes struct{}

// EstimateSize implements cost.Estimator.
func (sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	if n.Expr() != nil && n.Expr().Kind() == ast.LiteralKind {
		return nil // it is known
	}
	switch n.Type().Kind() { //nolint:exhaustive // nothing else has a size
	case types.StringKind, types.BytesKind, types.ListKind, types.MapKind, types.DynKind:
		return &cost.SizeEstimate{Min: 0, Max: assumedSize}
	}
	return nil
}

// EstimateCallCost implements cost.Estimator.
func (sizes) EstimateCallCost(function, _ string, _ *cost.AstNode, args []cost.AstNode) *cost.CallEstimate {
	if function != matches || len(args) == 0 {
		return nil
	}
	given := args[len(args)-1].Expr()
	if given.Kind() != ast.LiteralKind {
		return nil
	}
	text, _ := given.AsLiteral().Value().(string)
	re, err := newPattern(text)
	if err != nil {
		return nil
	}
	return &cost.CallEstimate{CostEstimate: cost.Estimate{Min: 1, Max: re.steps(assumedSize)}}
}
