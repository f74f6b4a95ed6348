package clawverify

import (
	"bytes"
	_ "embed"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

//go:embed schema/proof_bundle.v1.json
var bundleSchema []byte

const schemaURL = "proof_bundle.v1.json"

var schemas = sync.OnceValues(func() (map[string]*jsonschema.Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(bundleSchema))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource(schemaURL, doc); err != nil {
		return nil, err
	}
	out := map[string]*jsonschema.Schema{}
	for name, ref := range map[string]string{"bundle": "", "receipt": "#/$defs/gateway_receipt"} {
		if out[name], err = c.Compile(schemaURL + ref); err != nil {
			return nil, err
		}
	}
	return out, nil
})

// schemaFault holds a document against a schema and gives what stands first in the document's path order.
func schemaFault(name, prefix string, doc []byte) *Error {
	all, err := schemas()
	if err != nil {
		return fault(SchemaValidationFailed, prefix, "the verifier's own schema cannot be used: %v", err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err != nil {
		return fault(MalformedEnvelope, prefix, "%v", err)
	}
	err = all[name].Validate(value)
	var bad *jsonschema.ValidationError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &bad):
		return fault(SchemaValidationFailed, prefix, "%v", err)
	}
	var found []*Error
	leaves(bad, func(e *jsonschema.ValidationError) { found = append(found, finding(e, prefix)) })
	return slices.MinFunc(found, func(a, b *Error) int { return strings.Compare(a.Field, b.Field) })
}

func leaves(e *jsonschema.ValidationError, visit func(*jsonschema.ValidationError)) {
	if len(e.Causes) == 0 {
		visit(e)
	}
	for _, c := range e.Causes {
		leaves(c, visit)
	}
}

var english = message.NewPrinter(language.English)

func finding(e *jsonschema.ValidationError, prefix string) *Error {
	at := prefix
	for _, s := range e.InstanceLocation {
		if _, err := strconv.Atoi(s); err == nil {
			at += "[" + s + "]"
			continue
		}
		at += "." + s
	}
	f := &Error{Code: SchemaValidationFailed, Field: at, Message: e.ErrorKind.LocalizedString(english)}
	switch k := e.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		f.Field, f.Message = at+"."+slices.Min(k.Properties), "unknown member"
	case *kind.Required:
		f.Field, f.Message = at+"."+slices.Min(k.Missing), "missing"
	}
	f.Code = causalCode(e.InstanceLocation)
	return f
}

// causalCode is the code of a schema fault at a place: those of the causal members have their own.
func causalCode(at []string) Code {
	if n := len(at); n >= 2 && at[0] == "receipts" && at[n-2] == "binding" {
		switch at[n-1] {
		case "phase":
			return CausalPhaseInvalid
		case "attribution_confidence", "attributionConfidence":
			return CausalConfidenceRange
		case "span_id", "spanId", "parent_span_id", "parentSpanId", "tool_span_id", "toolSpanId":
			return CausalNormalization
		}
	}
	return SchemaValidationFailed
}
