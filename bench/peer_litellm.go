package main

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"
)

const litellmName = "litellm"

var (
	//go:embed peer_litellm.requirements.txt
	litellmRequirements string
	//go:embed peer_litellm_hook.py
	litellmHook string
)

// witnessModel is the name under which LiteLLM has the same upstream model at a witness. It is as long as the others.
const witnessModel = "gpt-4o-seen"

// litellm is the LiteLLM proxy with one key for all clients, a list of models, and the upstream as an OpenAI-compatible
// provider. It has no database, so it does less than it can: no keys of their own for clients, no budgets, no spend log.
type litellm struct {
	*process
	gate
	witness *witness
	models  []litellmModel
	pids    []int
}

// litellmModel is an entry of model_list.
type litellmModel struct {
	Name   string            `json:"model_name"`
	Params map[string]string `json:"litellm_params"`
}

func newLitellm(ctx context.Context, e *environment) (peer, error) {
	w, err := startWitness(nil)
	if err != nil {
		return nil, err
	}
	return startLitellm(ctx, e, w, []litellmModel{
		litellmAt(allowedModel, e.upstream.address, credential), litellmAt(witnessModel, w.address, credential),
	})
}

func litellmAt(name, address, key string) litellmModel {
	return litellmModel{name, map[string]string{"model": "openai/" + allowedModel, "api_base": "http://" + address + "/v1", "api_key": key}}
}

// startLitellm lets a test give other models. The witness is stopped with the peer.
func startLitellm(ctx context.Context, e *environment, w *witness, models []litellmModel) (*litellm, error) {
	p := &litellm{witness: w, models: models}
	if err := p.run(ctx, e); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

func (p *litellm) run(ctx context.Context, e *environment) error {
	bin, err := e.pythonEnvironment(ctx, litellmName, litellmRequirements)
	if err != nil {
		return err
	}
	// One worker for each core, as LiteLLM advises for production, and as Envoy has by default.
	workers := strconv.Itoa(runtime.NumCPU())
	e.facts[litellmName] = pinned(litellmRequirements, "litellm[proxy]") + " with " + workers + " workers"
	key, err := litellmKey()
	if err != nil {
		return err
	}
	wrong, err := litellmKey()
	if err != nil {
		return err
	}
	p.gate = gate{e: e, token: key, rewritten: true, refused: []probe{
		{name: "a call without a key", statuses: []int{http.StatusUnauthorized}},
		// Without a database to look other keys up in, it refuses them with 400.
		{name: "a wrong key", token: wrong, statuses: []int{http.StatusBadRequest, http.StatusUnauthorized}},
		{name: "another model", token: key, model: otherModel, statuses: []int{http.StatusBadRequest}},
	}}
	if p.address, err = freeAddress(); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(p.address)
	if err != nil {
		return err
	}
	config, err := p.writeConfig()
	if err != nil {
		return err
	}
	p.process, err = bare(ctx, litellmName, []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + e.dir, "PYTHONDONTWRITEBYTECODE=1", "LITELLM_LOG=ERROR",
		"LITELLM_LOCAL_MODEL_COST_MAP=True", // the list of prices that it brings, instead of one from the network
	}, filepath.Join(bin, "litellm"), "--config", config, "--host", host, "--port", port, "--num_workers", workers)
	if err != nil {
		return err
	}
	if err := p.await(ctx, func() error { return litellmReady(ctx, p.address) }); err != nil {
		return err
	}
	if err := p.warm(ctx, warmCalls); err != nil {
		return err
	}
	p.pids, err = p.settled(ctx)
	return err
}

// litellmKey is a new master key, as long as the token that the other peers carry. LiteLLM wants its prefix.
func litellmKey() (string, error) {
	const prefix = "sk-"
	raw := make([]byte, (len(stockToken)-len(prefix)+1)/2)
	if _, err := rand.Read(raw); err != nil {
		return "", err
	}
	return (prefix + hex.EncodeToString(raw))[:len(stockToken)], nil
}

func (p *litellm) writeConfig() (string, error) {
	if err := os.WriteFile(filepath.Join(p.e.dir, "peer_litellm_hook.py"), []byte(litellmHook), 0o600); err != nil {
		return "", err
	}
	raw, err := json.Marshal(map[string]any{ // JSON is YAML too
		"model_list": p.models,
		"litellm_settings": map[string]any{
			"callbacks": "peer_litellm_hook.plain", "telemetry": false, "set_verbose": false, "num_retries": 0,
			"turn_off_message_logging": true,
		},
		"general_settings": map[string]any{
			"master_key": p.token, "disable_spend_logs": true, "disable_error_logs": true,
		},
	})
	if err != nil {
		return "", err
	}
	file := filepath.Join(p.e.dir, "litellm.yaml")
	return file, os.WriteFile(file, raw, 0o600)
}

func litellmReady(ctx context.Context, address string) error {
	client := &http.Client{Timeout: 5 * time.Second}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/health/liveliness", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %d", resp.StatusCode)
	}
	return nil
}

func (p *litellm) Name() string { return litellmName }

// Check has the gate refuse and forward, and its other model show what leaves it.
func (p *litellm) Check(ctx context.Context) error {
	if err := p.check(ctx); err != nil {
		return err
	}
	return p.witness.expectSwapped(ctx, &p.gate, p.address, witnessModel)
}

// Groups has the process that was started, and all its workers.
func (p *litellm) Groups() map[string][]int { return map[string][]int{litellmName: p.pids} }

func (p *litellm) Stop() {
	p.stop()
	p.witness.stop()
}
