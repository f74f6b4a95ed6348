package clawverify_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/signer/chain"
	"sallyport/signer/clawverify"
	"sallyport/signer/envelope"
	"sallyport/signer/internal/testarchive"
	"sallyport/signer/jcs"
	"sallyport/signer/keyring"
)

type object = map[string]any

var (
	agent, gateway, other = testarchive.Key(3), testarchive.Key(1), testarchive.Key(9)
	began                 = testarchive.Start
)

func sealed(t testing.TB, typ string, payload any, k *keyring.Key, at time.Time) json.RawMessage {
	t.Helper()
	env, err := envelope.Seal(typ, payload, k, at)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := env.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// events are a chain of n events of one run.
func events(n int) []chain.Event {
	var out []chain.Event
	var prev *string
	for i := range n {
		e := chain.Event{ID: fmt.Sprint("evt_", i), RunID: "run_1", Type: chain.ModelCall, Timestamp: envelope.FormatTime(began), PayloadHash: jcs.Hash([]byte{byte(i)}), Prev: prev}
		e.Hash = e.Sum()
		h := e.Hash
		prev = &h
		out = append(out, e)
	}
	return out
}

// bundle is a bundle with one receipt for each given set of binding members; edit changes its payload before it is signed.
func bundle(t testing.TB, bindings []object, edit func(payload object)) []byte {
	t.Helper()
	es := events(max(len(bindings), 1))
	var receipts []json.RawMessage
	for i, extra := range bindings {
		b := object{"run_id": "run_1", "event_hash_b64u": es[i].Hash}
		at := began
		for name, v := range extra {
			if name == "at" {
				at = began.Add(v.(time.Duration))
				continue
			}
			b[name] = v
		}
		receipts = append(receipts, sealed(t, envelope.TypeGatewayReceipt, object{
			"receipt_version": "1", "receipt_id": fmt.Sprint("rcpt_", i), "gateway_id": "g", "provider": "openai", "model": "m",
			"request_hash_b64u": jcs.Hash(nil), "response_hash_b64u": jcs.Hash(nil), "tokens_input": 1, "tokens_output": 1, "latency_ms": 1,
			"timestamp": envelope.FormatTime(at), "binding": b,
		}, gateway, began.Add(time.Minute)))
	}
	p := object{"bundle_version": "1", "bundle_id": "b", "agent_did": agent.DID(), "event_chain": es}
	if len(receipts) > 0 {
		p["receipts"] = receipts
	}
	if edit != nil {
		edit(p)
	}
	return sealed(t, envelope.TypeProofBundle, p, agent, began.Add(time.Minute))
}

func with(name string, values ...any) func(object) {
	return func(p object) { p[name] = values }
}

func sideEffect(extra object) object {
	out := object{"receipt_version": "1", "receipt_id": "se", "effect_class": "network_egress", "hash_algorithm": "SHA-256", "agent_did": agent.DID(), "timestamp": envelope.FormatTime(began)}
	maps.Copy(out, extra)
	return out
}

func approval(extra object) object {
	out := object{
		"receipt_version": "1", "receipt_id": "ap", "approval_type": "explicit_approve", "approver_subject": "somebody", "agent_did": agent.DID(),
		"scope_hash_b64u": jcs.Hash(nil), "hash_algorithm": "SHA-256", "timestamp": envelope.FormatTime(began),
	}
	maps.Copy(out, extra)
	return out
}

func tool(extra object) object {
	out := object{
		"receipt_version": "1", "receipt_id": "tr", "tool_name": "bash", "args_hash_b64u": jcs.Hash(nil), "result_hash_b64u": jcs.Hash(nil),
		"hash_algorithm": "SHA-256", "agent_did": agent.DID(), "timestamp": envelope.FormatTime(began), "latency_ms": 1,
	}
	maps.Copy(out, extra)
	return out
}

// disclosed is a tool receipt of version 2 whose arguments are opened in part.
func disclosed(t testing.TB, typ string, edit func(d object)) object {
	t.Helper()
	leaf, err := jcs.Marshal(object{"salt_b64u": "c2FsdHNhbHQ", "type": "string", "value": "ls"})
	if err != nil {
		t.Fatal(err)
	}
	leaves := []string{jcs.Hash(append([]byte("command:"), leaf...)), jcs.Hash([]byte("redacted"))}
	slices.Sort(leaves)
	list, err := jcs.Marshal(leaves)
	if err != nil {
		t.Fatal(err)
	}
	d := object{
		"disclosure_algorithm": "vir_v2_typed_lexicographical", "merkle_root_b64u": jcs.Hash(list), "redacted_leaf_hashes_b64u": []string{jcs.Hash([]byte("redacted"))},
		"disclosed_leaves": object{"command": object{"type": typ, "value": "ls", "salt_b64u": "c2FsdHNhbHQ"}},
	}
	if edit != nil {
		edit(d)
	}
	return tool(object{"receipt_version": "2", "args_salt_b64u": "c2FsdHNhbHQ", "result_salt_b64u": "c2FsdHNhbHQ", "args_hash_b64u": jcs.Hash(list), "args_disclosure": d})
}

// cosigned is a tool receipt of version 2 in its envelope, with a second signature by a key under the name of another.
func cosigned(t testing.TB, by, named *keyring.Key) object {
	t.Helper()
	payload := tool(object{"receipt_version": "2", "args_salt_b64u": "c2FsdHNhbHQ", "result_salt_b64u": "c2FsdHNhbHQ"})
	canonical, err := jcs.Marshal(payload)
	if err != nil {
		t.Fatal(err)
	}
	hash := jcs.Hash(canonical)
	return object{
		"envelope_version": "2", "envelope_type": "tool_receipt", "payload": payload, "payload_hash_b64u": hash, "hash_algorithm": "SHA-256",
		"signature_b64u": jcs.EncodeB64u(agent.Sign([]byte(hash))), "algorithm": "Ed25519", "signer_did": agent.DID(), "issued_at": envelope.FormatTime(began),
		"co_signatures": []object{{"signature_b64u": jcs.EncodeB64u(by.Sign([]byte(hash))), "algorithm": "Ed25519", "signer_did": named.DID(), "issued_at": envelope.FormatTime(began), "role": "auditor"}},
	}
}

func TestRules(t *testing.T) {
	t.Parallel()
	spans := []object{{"span_id": "a"}, {"span_id": "b", "parent_span_id": "a"}}
	one := []object{{"span_id": "a"}}
	for name, tt := range map[string]struct {
		bindings []object
		edit     func(object)
		code     clawverify.Code
		field    string
	}{
		"spans":                     {spans, nil, clawverify.OK, ""},
		"both spellings agree":      {[]object{{"span_id": "a", "spanId": "a"}}, nil, clawverify.OK, ""},
		"both spellings differ":     {[]object{{"span_id": "a", "spanId": "b"}}, nil, clawverify.CausalFieldConflict, "receipts[0].payload.binding.span_id"},
		"blank span":                {[]object{{"span_id": " "}}, nil, clawverify.CausalNormalization, "span_id"},
		"dangling parent":           {[]object{{"span_id": "a", "parent_span_id": "z"}}, nil, clawverify.CausalDangling, "parent_span_id"},
		"dangling tool":             {[]object{{"span_id": "a", "tool_span_id": "z"}}, nil, clawverify.CausalDangling, "tool_span_id"},
		"its own parent":            {[]object{{"span_id": "a", "parent_span_id": "a"}}, nil, clawverify.CausalCycle, ""},
		"cycle":                     {[]object{{"span_id": "a", "parent_span_id": "b"}, {"span_id": "b", "parent_span_id": "a"}}, nil, clawverify.CausalCycle, ""},
		"child before its parent":   {[]object{{"span_id": "a", "at": time.Second}, {"span_id": "b", "parent_span_id": "a"}}, nil, clawverify.CausalClock, "receipts[1]"},
		"issued before it happened": {[]object{{"span_id": "a", "at": time.Hour}}, nil, clawverify.CausalClock, "timestamp"},
		"span at two times":         {[]object{{"span_id": "a"}, {"span_id": "a", "at": time.Second}}, nil, clawverify.CausalClock, "receipts[1]"},
		"span with two phases":      {[]object{{"span_id": "a", "phase": "setup"}, {"span_id": "a", "phase": "planning"}}, nil, clawverify.CausalSpanReuse, "receipts[1]"},
		"phase that may follow":     {[]object{{"span_id": "a", "phase": "setup"}, {"span_id": "b", "parent_span_id": "a", "phase": "planning"}}, nil, clawverify.OK, ""},
		"phase that may not":        {[]object{{"span_id": "a", "phase": "teardown"}, {"span_id": "b", "parent_span_id": "a", "phase": "setup"}}, nil, clawverify.CausalPhaseTransition, "receipts[1]"},
		"unknown phase":             {[]object{{"span_id": "a", "phase": "lunch"}}, nil, clawverify.CausalPhaseInvalid, "phase"},
		"confidence of a link":      {[]object{{"span_id": "a"}, {"span_id": "b", "parent_span_id": "a", "attribution_confidence": 1}}, nil, clawverify.OK, ""},
		"confidence of a lone span": {[]object{{"span_id": "a", "attribution_confidence": 0.6}}, nil, clawverify.CausalConfidence, "attribution_confidence"},
		"confidence of nothing":     {[]object{{"attribution_confidence": 0.1}}, nil, clawverify.CausalConfidence, "attribution_confidence"},
		"confidence above one":      {[]object{{"span_id": "a", "attribution_confidence": 2}}, nil, clawverify.CausalConfidenceRange, "attribution_confidence"},
		"two pieces":                {[]object{{"span_id": "a"}, {"span_id": "b"}}, nil, clawverify.CausalDisconnected, "receipts[1]"},
		"same receipt twice": {one, func(p object) {
			r := p["receipts"].([]json.RawMessage)
			p["receipts"] = append(r, r[0])
		}, clawverify.OK, ""},
		"receipt without a chain": {[]object{{}}, func(p object) { delete(p, "event_chain") }, clawverify.BindingMismatch, "receipts[0]"},
		"receipt of another run":  {[]object{{"run_id": "run_2"}}, nil, clawverify.BindingMismatch, "run_id"},
		"receipt of no event":     {[]object{{"event_hash_b64u": jcs.Hash(nil)}}, nil, clawverify.BindingMismatch, "event_hash_b64u"},

		"side effect":              {one, with("side_effect_receipts", sideEffect(object{"binding": object{"tool_span_id": "a"}})), clawverify.OK, ""},
		"orphaned side effect":     {one, with("side_effect_receipts", sideEffect(object{"binding": object{"tool_span_id": "z", "span_id": "a"}})), clawverify.CausalSideEffectOrphaned, "side_effect_receipts[0]"},
		"unbound side effect":      {one, with("side_effect_receipts", sideEffect(nil)), clawverify.CausalSideEffectOrphaned, ""},
		"side effect of no class":  {one, with("side_effect_receipts", sideEffect(object{"effect_class": "magic"})), clawverify.SchemaValidationFailed, "effect_class"},
		"side effect of version 9": {one, with("side_effect_receipts", sideEffect(object{"receipt_version": "9"})), clawverify.UnknownVersion, ""},
		"side effect of another":   {one, with("side_effect_receipts", sideEffect(object{"agent_did": other.DID()})), clawverify.AgentMismatch, ""},
		"approval":                 {one, with("human_approval_receipts", approval(object{"binding": object{"span_id": "a"}})), clawverify.OK, ""},
		"orphaned approval":        {one, with("human_approval_receipts", approval(object{"binding": object{}})), clawverify.CausalApprovalOrphaned, ""},
		"approval of no type":      {one, with("human_approval_receipts", approval(object{"approval_type": "maybe"})), clawverify.SchemaValidationFailed, "approval_type"},

		"tool":                {one, with("tool_receipts", tool(nil)), clawverify.OK, ""},
		"tool of version 9":   {one, with("tool_receipts", tool(object{"receipt_version": "9"})), clawverify.SchemaValidationFailed, "receipt_version"},
		"tool of another":     {one, with("tool_receipts", tool(object{"agent_did": other.DID()})), clawverify.AgentMismatch, ""},
		"tool of another run": {one, with("tool_receipts", tool(object{"binding": object{"run_id": "run_2"}})), clawverify.BindingMismatch, ""},
		"tool of no event":    {one, with("tool_receipts", tool(object{"binding": object{"event_hash_b64u": jcs.Hash(nil)}})), clawverify.BindingMismatch, ""},
		"tool by BLAKE3":      {one, with("tool_receipts", tool(object{"hash_algorithm": "BLAKE3"})), clawverify.UnknownHashAlgorithm, ""},
		"signed tool": {one, func(p object) {
			p["tool_receipts"] = []json.RawMessage{sealed(t, "tool_receipt", tool(nil), other, began)}
		}, clawverify.OK, ""},
		"co-signed tool":          {one, with("tool_receipts", cosigned(t, other, other)), clawverify.OK, ""},
		"badly co-signed tool":    {one, with("tool_receipts", cosigned(t, agent, other)), clawverify.CoSignatureInvalid, "co_signatures[0]"},
		"disclosure":              {one, with("tool_receipts", disclosed(t, "string", nil)), clawverify.OK, ""},
		"disclosure, other type":  {one, with("tool_receipts", disclosed(t, "number", nil)), clawverify.DisclosureType, "command"},
		"disclosure, other value": {one, with("tool_receipts", disclosed(t, "string", func(d object) { d["disclosed_leaves"].(object)["command"].(object)["value"] = "rm" })), clawverify.DisclosureRoot, ""},
		"disclosure, other way":   {one, with("tool_receipts", disclosed(t, "string", func(d object) { d["disclosure_algorithm"] = "none" })), clawverify.DisclosureAlgorithm, ""},

		"tools alone":         {nil, func(p object) { delete(p, "event_chain"); p["tool_receipts"] = []object{tool(nil)} }, clawverify.MalformedEnvelope, ""},
		"two versions":        {one, func(p object) { p["bundle_version"] = "2" }, clawverify.SchemaValidationFailed, "bundle_version"},
		"unknown member":      {one, func(p object) { p["extra"] = 1 }, clawverify.SchemaValidationFailed, "extra"},
		"agent is another":    {one, func(p object) { p["agent_did"] = other.DID() }, clawverify.InvalidDIDFormat, "agent_did"},
		"large metadata":      {one, func(p object) { p["metadata"] = object{"x": strings.Repeat("x", 17<<10)} }, clawverify.MalformedEnvelope, "metadata"},
		"missing manifest":    {one, func(p object) { p["urm"] = urm(nil) }, clawverify.URMMissing, ""},
		"1001 events":         {nil, func(p object) { p["event_chain"] = events(1001) }, clawverify.MalformedEnvelope, "event_chain"},
		"1000 events":         {nil, func(p object) { p["event_chain"] = events(1000) }, clawverify.OK, ""},
		"evidence not read":   {one, with("vir_receipts", object{}), clawverify.SchemaValidationFailed, "vir_receipts"},
		"metadata not read":   {one, func(p object) { p["metadata"] = object{"prompt_pack": object{}} }, clawverify.SchemaValidationFailed, "prompt_pack"},
		"event out of place":  {spans, func(p object) { slices.Reverse(p["event_chain"].([]chain.Event)) }, clawverify.MalformedEnvelope, "event_chain[0]"},
		"event with no time":  {one, func(p object) { p["event_chain"].([]chain.Event)[0].Timestamp = "yesterday" }, clawverify.SchemaValidationFailed, "timestamp"},
		"event that is wrong": {one, func(p object) { p["event_chain"].([]chain.Event)[0].ID = "evt" }, clawverify.HashMismatch, "event_chain[0].event_hash_b64u"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &clawverify.Config{GatewaySigners: []string{gateway.DID()}, Now: began.Add(time.Hour)}
			r := clawverify.Verify("", bundle(t, tt.bindings, tt.edit), c, "")
			if r.ReasonCode != tt.code || !strings.Contains(r.Reason, tt.field) {
				t.Errorf("%s: %s; want %s at %s", r.ReasonCode, r.Reason, tt.code, tt.field)
			}
		})
	}
}

func urm(document []byte) object {
	return object{"urm_version": "1", "urm_id": "urm_1", "resource_type": "universal_run_manifest", "resource_hash_b64u": jcs.Hash(document)}
}

func TestURM(t *testing.T) {
	t.Parallel()
	document := func(edit func(object)) []byte {
		u := object{"urm_version": "1", "urm_id": "urm_1", "run_id": "run_1", "agent_did": agent.DID(), "event_chain_root_hash_b64u": events(1)[0].Hash}
		if edit != nil {
			edit(u)
		}
		raw, err := jcs.Marshal(u)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	data := bundle(t, []object{{}}, func(p object) { p["urm"] = urm(document(nil)) })
	for name, tt := range map[string]struct {
		document []byte
		code     clawverify.Code
	}{
		"right":         {document(nil), clawverify.OK},
		"another run":   {document(func(u object) { u["run_id"] = "run_2" }), clawverify.URMMismatch},
		"another agent": {document(func(u object) { u["agent_did"] = other.DID() }), clawverify.URMMismatch},
		"another chain": {document(func(u object) { u["event_chain_root_hash_b64u"] = jcs.Hash(nil) }), clawverify.URMMismatch},
		"more in it":    {document(func(u object) { u["more"] = 1 }), clawverify.HashMismatch},
		"no JSON":       {[]byte("x"), clawverify.URMMismatch},
	} {
		c := &clawverify.Config{GatewaySigners: []string{gateway.DID()}, Now: began, URM: tt.document}
		if r := clawverify.Verify("", data, c, ""); r.ReasonCode != tt.code {
			t.Errorf("%s: %s %s", name, r.ReasonCode, r.Reason)
		}
	}
}

func TestAttestation(t *testing.T) {
	t.Parallel()
	a := object{"attester_did": other.DID(), "subject_did": agent.DID(), "expires_at": envelope.FormatTime(began.Add(time.Hour)), "signature_b64u": ""}
	signed, err := jcs.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	a["signature_b64u"] = jcs.EncodeB64u(other.Sign(signed))
	data := bundle(t, []object{{}}, with("attestations", a))
	c := &clawverify.Config{GatewaySigners: []string{gateway.DID()}, AttestationSigners: []string{other.DID()}, Now: began}
	if v := clawverify.Bundle(data, c); v.Result.ProofTier != "sandbox" {
		t.Errorf("a good attestation: %+v", v.Result)
	}
	c.AttestationSigners = nil
	if v := clawverify.Bundle(data, c); v.Result.ProofTier != "gateway" {
		t.Errorf("an attester that is not trusted: %+v", v.Result)
	}
	c.AttestationSigners, c.Now = []string{other.DID()}, began.Add(2*time.Hour)
	if v := clawverify.Bundle(data, c); v.Result.ProofTier != "gateway" {
		t.Errorf("an attestation that expired: %+v", v.Result)
	}
}

func TestExport(t *testing.T) {
	t.Parallel()
	c := &clawverify.Config{GatewaySigners: []string{gateway.DID()}, Now: began}
	make := func(edit func(e object)) []byte {
		inner := json.RawMessage(bundle(t, []object{{}}, nil))
		canonical, err := jcs.Canonical(inner)
		if err != nil {
			t.Fatal(err)
		}
		now := envelope.FormatTime(began)
		e := object{
			"export_version": "1", "export_id": "e", "created_at": now, "issuer_did": other.DID(), "issued_at": now,
			"manifest": object{"manifest_version": "1", "generated_at": now, "entries": []object{{
				"path": "artifacts/proof_bundle_envelope.json", "sha256_b64u": jcs.Hash(canonical), "content_type": "application/json", "size_bytes": len(canonical),
			}}},
			"artifacts": object{"proof_bundle_envelope": inner},
		}
		raw, err := jcs.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		hash := jcs.Hash(raw)
		e["bundle_hash_b64u"], e["hash_algorithm"], e["algorithm"] = hash, "SHA-256", "Ed25519"
		e["signature_b64u"] = jcs.EncodeB64u(other.Sign([]byte(hash)))
		if edit != nil {
			edit(e)
		}
		if raw, err = jcs.Marshal(e); err != nil {
			t.Fatal(err)
		}
		return raw
	}
	for name, tt := range map[string]struct {
		edit func(object)
		code clawverify.Code
	}{
		"right":            {nil, clawverify.OK},
		"other id":         {func(e object) { e["export_id"] = "f" }, clawverify.HashMismatch},
		"manifest":         {func(e object) { e["manifest"].(object)["entries"].([]object)[0]["size_bytes"] = 1 }, clawverify.HashMismatch},
		"nothing listed":   {func(e object) { e["manifest"].(object)["entries"] = []object{} }, clawverify.MissingRequiredField},
		"other signature":  {func(e object) { e["signature_b64u"] = jcs.EncodeB64u(agent.Sign([]byte("x"))) }, clawverify.SignatureInvalid},
		"from the future":  {func(e object) { e["issued_at"] = "2030-01-01T00:00:00.000Z" }, clawverify.FutureTimestamp},
		"expired":          {func(e object) { e["expires_at"] = "2020-01-01T00:00:00.000Z" }, clawverify.ExpiredTTL},
		"unknown member":   {func(e object) { e["more"] = 1 }, clawverify.SchemaValidationFailed},
		"without a bundle": {func(e object) { e["artifacts"] = object{} }, clawverify.SchemaValidationFailed},
	} {
		if r := clawverify.Verify("", make(tt.edit), c, ""); r.ReasonCode != tt.code || r.Kind != clawverify.KindExport {
			t.Errorf("%s: %s %s", name, r.ReasonCode, r.Reason)
		}
	}
}

func TestReceiptAlone(t *testing.T) {
	t.Parallel()
	a := testarchive.New(testarchive.Options{Calls: 1})
	var b struct {
		Payload struct{ Receipts []json.RawMessage }
	}
	if err := json.Unmarshal(a.Files["bundle.json"], &b); err != nil {
		t.Fatal(err)
	}
	raw := string(b.Payload.Receipts[0])
	c := &clawverify.Config{GatewaySigners: []string{gateway.DID()}, Now: began}
	for name, tt := range map[string]struct {
		old, new string
		code     clawverify.Code
	}{
		"right":            {"", "", clawverify.OK},
		"another model":    {`"model":"gpt-4o-mini"`, `"model":"gpt-4o-mimi"`, clawverify.HashMismatch},
		"too many tokens":  {`"tokens_input":10`, `"tokens_input":10000001`, clawverify.MalformedEnvelope},
		"half a token":     {`"tokens_input":10`, `"tokens_input":1.5`, clawverify.MalformedEnvelope},
		"other type":       {`"gateway_receipt"`, `"web_receipt"`, clawverify.UnknownEnvelopeType},
		"other version":    {`"envelope_version":"1"`, `"envelope_version":"2"`, clawverify.UnknownEnvelopeVersion},
		"no DID":           {`"signer_did":"did:key:`, `"signer_did":"key:`, clawverify.InvalidDIDFormat},
		"a member more":    {`"gateway_id":`, `"more":1,"gateway_id":`, clawverify.SchemaValidationFailed},
		"no timestamp":     {`"timestamp":"2026`, `"timestamp":"26`, clawverify.SchemaValidationFailed},
		"a member doubled": {`"gateway_id":`, `"gateway_id":"x","gateway_id":`, clawverify.MalformedEnvelope},
	} {
		text := raw
		if tt.old != "" {
			if text = strings.Replace(raw, tt.old, tt.new, 1); text == raw {
				t.Errorf("%s: nothing to change", name)
			}
		}
		kind := clawverify.KindReceipt
		if r := clawverify.Verify(kind, []byte(text), c, ""); r.ReasonCode != tt.code {
			t.Errorf("%s: %s %s", name, r.ReasonCode, r.Reason)
		}
	}
}

func FuzzVerify(f *testing.F) {
	f.Add(bundle(f, []object{{"span_id": "a"}}, with("tool_receipts", tool(nil))))
	f.Add(bundle(f, []object{{"span_id": "a"}}, with("side_effect_receipts", sideEffect(object{"binding": object{"tool_span_id": "a"}}))))
	f.Add([]byte(`{"export_version":"1"}`))
	c := &clawverify.Config{GatewaySigners: []string{gateway.DID()}, Now: began, AllowUnchecked: true}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := clawverify.Verify("", data, c, "")
		if (r.Status == clawverify.Pass) != (r.ReasonCode == clawverify.OK) {
			t.Errorf("%s with %s", r.Status, r.ReasonCode)
		}
	})
}
