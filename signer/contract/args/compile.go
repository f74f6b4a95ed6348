package args

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/interpreter"
)

// What a rule can name.
const (
	varPath   = "path"
	varQuery  = "query"
	varBody   = "body"
	varMethod = "method"
	varHost   = "host"
)

var variableNames = []string{varPath, varQuery, varBody, varMethod, varHost}

var environment = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		cel.Variable(varPath, cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable(varQuery, cel.MapType(cel.StringType, cel.ListType(cel.StringType))),
		cel.Variable(varBody, cel.DynType),
		cel.Variable(varMethod, cel.StringType),
		cel.Variable(varHost, cel.StringType),
		cel.ClearMacros(),
		cel.Macros(cel.HasMacro, cel.AllMacro, cel.ExistsMacro, cel.ExistsOneMacro),
		cel.CustomTypeAdapter(adapter{}),
		cel.CrossTypeNumericComparisons(true),
		cel.ParserExpressionSizeLimit(MaxBytes),
		cel.ParserRecursionLimit(32),
		cel.RegexProgramSizeLimit(maxRegex),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateDurationLiterals()),
	)
})

// compile reads one rule and says what it may cost.
func compile(source string, variables []string) (compiled, uint64, []*Error) {
	whole := func(format string, args ...any) (compiled, uint64, []*Error) {
		return compiled{}, 0, []*Error{{Reason: fmt.Sprintf(format, args...)}}
	}
	if len(source) > MaxBytes {
		return whole("it has %d bytes; a rule has at most %d", len(source), MaxBytes)
	}
	env, err := environment()
	if err != nil {
		return whole("the language cannot be set up: %v", err)
	}
	checked, issues := env.Compile(source)
	if issues != nil && issues.Err() != nil {
		return compiled{}, 0, positions(issues.Errors())
	}
	if !checked.OutputType().IsExactType(cel.BoolType) {
		return whole("it is of type %s; a rule is true or false", checked.OutputType())
	}
	w := walker{ast: checked.NativeRep(), variables: variables}
	ast.PreOrderVisit(w.ast.Expr(), ast.NewExprVisitor(w.visit))
	if w.wrong != nil {
		return compiled{}, 0, w.wrong
	}
	estimate, err := env.EstimateCost(checked, sizes{})
	if err != nil {
		return whole("its cost cannot be estimated: %v", err)
	}
	compiledPatterns := patterns{}
	program, err := env.Program(checked, cel.CostLimit(MaxCost), cel.CostTracking(compiledPatterns),
		cel.OptimizeRegex(&interpreter.RegexOptimization{Function: matches, RegexIndex: 1, Factory: compiledPatterns.match}))
	if err != nil {
		return whole("%v", err)
	}
	for _, text := range w.patterns {
		if compiledPatterns[text] == nil { // else it would be compiled anew for each call, without the bound
			return whole("the pattern %.64q is not compiled", text)
		}
	}
	slices.Sort(w.reads)
	return compiled{source: source, program: program, reads: slices.Compact(w.reads)}, estimate.Max, nil
}

func positions(found []*common.Error) []*Error {
	var out []*Error
	for _, e := range found {
		reason := strings.TrimSuffix(e.Message, " (in container '')")
		reason, _, _ = strings.Cut(reason, " expecting {") // every token of the language
		out = append(out, &Error{Line: max(1, e.Location.Line()), Column: max(1, e.Location.Column()+1), Reason: reason})
	}
	return out
}

// walker checks what the type checker does not: that path is asked only for variables that the template has, that no name
// of ours is given another meaning, and that regular expressions are the contract's own.
type walker struct {
	ast       *ast.AST
	variables []string
	named     []int64 // uses of path that were checked
	reads     []string
	patterns  []string // of matches
	wrong     []*Error
}

func (w *walker) bad(e ast.Expr, format string, args ...any) {
	at := w.ast.SourceInfo().GetStartLocation(e.ID())
	w.wrong = append(w.wrong, &Error{Line: at.Line(), Column: at.Column() + 1, Reason: fmt.Sprintf(format, args...)})
}

func (w *walker) visit(e ast.Expr) {
	switch e.Kind() {
	case ast.IdentKind:
		if !slices.Contains(variableNames, e.AsIdent()) {
			return
		}
		w.reads = append(w.reads, e.AsIdent())
		if e.AsIdent() == varPath && !slices.Contains(w.named, e.ID()) {
			w.bad(e, "write path.NAME with one of the template's variables: %s", w.list())
		}
	case ast.SelectKind:
		w.variable(e.AsSelect().Operand(), e.AsSelect().FieldName())
	case ast.CallKind:
		w.call(e)
	case ast.ComprehensionKind:
		for _, name := range []string{e.AsComprehension().IterVar(), e.AsComprehension().IterVar2()} {
			if slices.Contains(variableNames, name) {
				w.bad(e, "%s is the name of a part of the call; give the element another one", name)
			}
		}
	case ast.ListKind, ast.LiteralKind, ast.MapKind, ast.StructKind, ast.UnspecifiedExprKind:
	}
}

func (w *walker) call(e ast.Expr) {
	c := e.AsCall()
	switch {
	case c.FunctionName() == operators.Index && c.Args()[1].Kind() == ast.LiteralKind:
		if name, ok := c.Args()[1].AsLiteral().Value().(string); ok {
			w.variable(c.Args()[0], name)
		}
	case c.FunctionName() == matches:
		given := c.Args()[len(c.Args())-1]
		if given.Kind() != ast.LiteralKind {
			w.bad(given, "the pattern of matches must be written out, so that no call brings its own")
			return
		}
		if text, ok := given.AsLiteral().Value().(string); ok {
			w.patterns = append(w.patterns, text)
		}
	}
}

// variable checks a use of path.
func (w *walker) variable(operand ast.Expr, name string) {
	if operand.Kind() != ast.IdentKind || operand.AsIdent() != varPath {
		return
	}
	w.named = append(w.named, operand.ID())
	if !slices.Contains(w.variables, name) {
		w.bad(operand, "the path has no variable %.64q; it has %s", name, w.list())
	}
}

func (w *walker) list() string {
	if len(w.variables) == 0 {
		return "none"
	}
	return strings.Join(w.variables, ", ")
}
