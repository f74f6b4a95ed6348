package args

import (
	"errors"
	"slices"
	"testing"

	"cel.dev/cel-go/interpreter"
)

// A rule is stopped while it runs, not judged afterwards.
func TestRuleIsStopped(t *testing.T) {
	r, _, wrong := compile("body.a.all(x, x + 1.0 < 9)", nil)
	if wrong != nil {
		t.Fatal(wrong)
	}
	list := make([]any, MaxCost)
	for i := range list {
		list[i] = 1.0
	}
	_, details, err := r.program.Eval(map[string]any{varBody: map[string]any{"a": list}})
	var stopped interpreter.EvalCancelledError
	if !errors.As(err, &stopped) || stopped.Cause != interpreter.CostLimitExceeded {
		t.Errorf("%v", err)
	}
	if cost := details.ActualCost(); cost == nil || *cost > 2*MaxCost {
		t.Errorf("it was stopped at %v", cost)
	}
}

// Maps are walked in the order of their keys.
func TestMapsHaveAnOrder(t *testing.T) {
	m := map[string]any{}
	var want []string
	for _, k := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		m[k], want = 1.0, append(want, k)
	}
	for range 10 {
		var got []string
		for it := (adapter{}).NativeToValue(m).(ordered).Iterator(); it.HasNext().Value() == true; {
			got = append(got, it.Next().Value().(string))
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%v", got)
		}
	}
}
