package runs

import (
	"errors"
	"fmt"

	"github.com/tidwall/gjson"

	"sallyport/signer/chain"
	"sallyport/signer/receipt"
	"sallyport/signer/record"
)

var errNoJSON = errors.New("not a JSON object")

// The index reads each record once, beside the calls that it is about, so it takes the few members that it needs and decodes
// nothing else.

// members visits an object's members.
func members(raw []byte, visit func(name string, v gjson.Result)) error {
	if !gjson.ValidBytes(raw) || raw[0] != '{' {
		return fmt.Errorf("%w: %.40q", errNoJSON, raw)
	}
	each(gjson.ParseBytes(raw), visit)
	return nil
}

func each(object gjson.Result, visit func(name string, v gjson.Result)) {
	object.ForEach(func(k, v gjson.Result) bool {
		visit(k.Str, v)
		return true
	})
}

// readIntent is what the index keeps of an intent and its place in the chain.
func readIntent(raw []byte) (l record.Logged, err error) {
	err = members(raw, func(name string, v gjson.Result) {
		switch name {
		case "id":
			l.ID = v.Str
		case "time_ms":
			l.TimeMS = v.Int()
		case "run_id":
			l.RunID = v.Str
		case "mission_id":
			l.MissionID = v.Str
		case "token_hash":
			l.TokenHash = v.Str
		case "policy_hash_b64u":
			l.PolicyHash = v.Str
		case "sub":
			l.Subject = v.Str
		case "event_hash_b64u":
			l.EventHash = v.Str
		case "action":
			l.Action = v.Str
		case "provider":
			l.Provider = v.Str
		case "model":
			l.Model = v.Str
		case "host":
			l.Host = v.Str
		case "secret_class":
			l.SecretClass = v.Str
		case "chain":
			l.Chain = readLink(v)
		}
	})
	return l, err
}

func readLink(object gjson.Result) *chain.Link {
	l := &chain.Link{}
	each(object, func(name string, v gjson.Result) {
		switch name {
		case "part":
			l.Part = int(v.Int())
		case "index":
			l.Index = int(v.Int())
		case "span_id":
			l.Span = v.Str
		case "parent_span_id":
			l.Parent = v.Str
		case "event":
			l.Event.Hash = v.Get("event_hash_b64u").Str
		}
	})
	return l
}

// readReceipt is what the index keeps of a receipt's envelope.
func readReceipt(raw []byte) (p receipt.Payload, err error) {
	err = members(raw, func(name string, v gjson.Result) {
		if name != "payload" {
			return
		}
		each(v, func(name string, v gjson.Result) {
			switch name {
			case "receipt_id":
				p.ReceiptID = v.Str
			case "tokens_input":
				p.TokensInput = v.Int()
			case "tokens_output":
				p.TokensOutput = v.Int()
			case "binding":
				p.Binding.RunID, p.Binding.Nonce = v.Get("run_id").Str, v.Get("nonce").Str
			case "metadata":
				each(v.Get("sallyport"), func(name string, v gjson.Result) {
					switch name {
					case "mission_id":
						p.Metadata.Sallyport.MissionID = v.Str
					case "token_hash":
						p.Metadata.Sallyport.TokenHash = v.Str
					case "outcome":
						p.Metadata.Sallyport.Outcome = record.Outcome(v.Str)
					}
				})
			}
		})
	})
	return p, err
}
