package gate

import (
	"slices"

	"sallyport/extproc/message"
	"sallyport/signer/code"
	"sallyport/signer/contract/args"
)

// arguments are what a contract's rules about a tool's arguments may name. Method, host and path are the decision's to add.
func (x *exchange) arguments(body []byte) *args.Call {
	c := &args.Call{Query: x.req.query, ContentEncoding: x.req.contentEncoding, Body: body}
	for _, h := range x.req.rest {
		if h.Name == "content-type" {
			c.ContentType = h.Value
		}
	}
	return c
}

// disguises are headers by which frameworks take a request for one with another method or path.
var disguises = []string{"x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"}

// disguised refuses a call of a tool that says it is another one: the contract has judged what the request line says.
func (x *exchange) disguised() *code.Denial {
	if x.tool == "" {
		return nil
	}
	i := slices.IndexFunc(x.req.rest, func(h message.Header) bool { return slices.Contains(disguises, h.Name) })
	if i < 0 {
		return nil
	}
	return code.Deny(code.InvalidRequest, "%s gives the call of a tool another method or path; send the method and path themselves", x.req.rest[i].Name)
}
