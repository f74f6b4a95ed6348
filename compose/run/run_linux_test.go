package run

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// host listens on the host in every way that a program could try, and answers "host".
type host struct{ tcp4, tcp6, udp, path, abstract string }

func newHost(t *testing.T) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "host") // short: a socket's path has little room
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h := &host{path: filepath.Join(dir, "s.sock"), abstract: fmt.Sprintf("@sallyport-test-%d", os.Getpid())}
	listen := func(network, address string) string {
		l, err := net.Listen(network, address)
		if err != nil {
			return "" // a machine without IPv6
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Read(make([]byte, 64))
				_, _ = io.WriteString(c, "host")
				c.Close()
			}
		}()
		return l.Addr().String()
	}
	h.tcp4, h.tcp6 = listen("tcp4", "127.0.0.1:0"), listen("tcp6", "[::1]:0")
	listen("unix", h.path)
	listen("unix", h.abstract)
	p, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	go func() {
		buf := make([]byte, 64)
		for {
			_, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = p.WriteTo([]byte("host"), from)
		}
	}()
	h.udp = p.LocalAddr().String()
	return h
}

// TestNoOtherWayOut tries each way round the gate, first in the caller's namespaces, where those on this machine must
// work (else the test shows nothing), and then isolated, where none may.
func TestNoOtherWayOut(t *testing.T) {
	h, g := newHost(t), newGateway(t)
	for name, tc := range map[string]struct {
		args    []string
		outside bool // it works without isolation
	}{
		"TCP to the host":           {[]string{"dial", "tcp4", h.tcp4}, true},
		"UDP to the host":           {[]string{"dial", "udp4", h.udp}, true},
		"UDP to a public address":   {[]string{"dial", "udp4", "93.184.216.34:443"}, false},
		"IPv6 to the host":          {[]string{"dial", "tcp6", h.tcp6}, h.tcp6 != ""},
		"IPv6 to a public address":  {[]string{"dial", "tcp6", "[2606:4700::1111]:443"}, false},
		"IPv6 DNS":                  {[]string{"dial", "udp6", "[2001:4860:4860::8888]:53"}, false},
		"abstract Unix socket":      {[]string{"dial", "unix", h.abstract}, true},
		"Unix socket by path":       {[]string{"dial", "unix", h.path}, true},
		"refused name, UDP":         {[]string{"lookup", "udp", "8.8.8.8:53", "data.of.mine.evil.test"}, false},
		"refused name, TCP":         {[]string{"lookup", "tcp", "8.8.8.8:53", "evil.test"}, false},
		"packet socket":             {[]string{"socket", "17", "3", "0"}, os.Getuid() == 0},
		"vsock":                     {[]string{"socket", "40", "1", "0"}, false},
		"raw socket":                {[]string{"socket", "2", "3", "1"}, os.Getuid() == 0},
		"typing into the terminal":  {[]string{"typein"}, true},
		"io_uring":                  {[]string{"uring"}, false},
		"the first process's state": {[]string{"trace"}, false},
		"the token in any process":  {[]string{"findtoken", testToken}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.outside {
				j := newJob(t, g, append([]string{self(t), "attempt"}, tc.args...)...)
				j.NoIsolation = true
				if r, out, _ := j.run(t); r.ExitCode != 0 {
					t.Fatalf("it does not work outside either: %s", out)
				}
			}
			r, out, errs := newJob(t, g, append([]string{self(t), "attempt"}, tc.args...)...).run(t)
			if r.ExitCode != 1 || !strings.HasPrefix(out, "refused:") {
				t.Errorf("exit %d: %s%s", r.ExitCode, out, errs)
			}
		})
	}
}

func TestWaysThroughTheGate(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		out  string // in what the program prints
		gate string // in what the gate was asked
	}{
		"TLS with a name":            {[]string{"tls", "93.184.216.34:443", "api.example.com"}, `"sni":"api.example.com"`, "CONNECT api.example.com:443 "},
		"TLS without a name":         {[]string{"tls", "93.184.216.34:443", ""}, `"sni":""`, "CONNECT 93.184.216.34:443 "},
		"TLS to a resolved name":     {[]string{"tls", "api.example.com:443", ""}, `"sni":""`, "CONNECT api.example.com:443 "},
		"bytes, no name":             {[]string{"dial", "tcp", "93.184.216.34:9999"}, "ping", "CONNECT 93.184.216.34:9999 "},
		"bytes, resolved name":       {[]string{"dial", "tcp", "x.example.com:2222"}, "ping", "CONNECT x.example.com:2222 "},
		"metadata address":           {[]string{"tls", "169.254.169.254:443", ""}, "", "CONNECT 169.254.169.254:443 "},
		"1 MiB both ways, half-open": {[]string{"echo", "x.example.com:2222", "1048576"}, "reached: 1048576", "CONNECT x.example.com:2222 "},
		"a name, from any server":    {[]string{"lookup", "udp", "9.9.9.9:53", "a.example.com"}, "198.18.", ""},
		"a name, by TCP":             {[]string{"lookup", "tcp", "9.9.9.9:53", "a.example.com"}, "198.18.", ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t)
			r, out, errs := newJob(t, g, append([]string{self(t), "attempt"}, tc.args...)...).run(t)
			if r.ExitCode != 0 || !strings.Contains(out, tc.out) {
				t.Errorf("exit %d: %s%s", r.ExitCode, out, errs)
			}
			if tc.gate != "" && !g.asked(tc.gate) {
				t.Errorf("the gate was asked %q", g.seen)
			}
		})
	}
}

func TestShell(t *testing.T) {
	secretDir := t.TempDir()
	if err := os.WriteFile(filepath.Join(secretDir, "key"), []byte("private"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		script string
		change func(*job)
		exit   int
		out    string
	}{
		"exit status":                 {script: "exit 7", exit: 7},
		"killed by a signal":          {script: "kill -9 $$", exit: 137},
		"standard input":              {script: "cat", change: func(j *job) { j.stdin = "hello" }, out: "hello"},
		"working directory":           {script: "pwd", change: func(j *job) { j.Dir = "/usr" }, out: "/usr\n"},
		"the same user":               {script: "id -u", out: fmt.Sprintln(os.Getuid())},
		"own files stay one's own":    {script: `stat -c %u .`, out: fmt.Sprintln(os.Getuid())},
		"few processes":               {script: `ls /proc | grep -c '^[0-9]' | awk '{print ($1 < 8)}'`, out: "1\n"},
		"no process of the host":      {script: fmt.Sprintf("cat /proc/%d/cmdline", os.Getpid()), exit: 1},
		"no privilege":                {script: "grep -c 'Cap...:.0000000000000000' /proc/self/status; grep NoNewPrivs /proc/self/status", out: "5\nNoNewPrivs:\t1\n"},
		"hidden directory":            {script: "ls -A " + secretDir, change: func(j *job) { j.Hide = []string{secretDir} }, out: ""},
		"hidden file":                 {script: "cat " + secretDir + "/key", change: func(j *job) { j.Hide = []string{secretDir + "/key"} }, out: ""},
		"not hidden":                  {script: "cat " + secretDir + "/key", out: "private"},
		"hidden for good":             {script: "umount " + secretDir + " 2>&1 >/dev/null | grep -c .; unshare -Urm umount " + secretDir + " 2>/dev/null; ls -A " + secretDir, change: func(j *job) { j.Hide = []string{secretDir} }, out: "1\n"},
		"empty /tmp":                  {script: "ls -A /tmp | grep -vc sallyport-run; test -s $SSL_CERT_FILE && echo bundle", change: func(j *job) { j.PrivateTmp = true; j.Dir = "/" }, out: "0\nbundle\n"},
		"settings are read-only":      {script: "(echo 1 > /proc/sys/net/ipv4/ip_forward) 2>/dev/null || echo no", out: "no\n"},
		"the rules stay":              {script: "unshare -Un true; test -e /proc/sys/net/ipv4/conf/eth0 || echo alone", out: "alone\n"},
		"hidden services":             {script: "find /run -type s | grep -c .", exit: 1, out: "0\n"},
		"daemons die with the job":    {script: "setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 1; done' >/dev/null 2>&1 & echo started", out: "started\n"},
		"a broken pipe ends a writer": {script: "sh -c 'kill -PIPE $$'; echo $?", out: "141\n"},
		"orphans are reaped":          {script: "(sleep 0.1 & ) ; sleep 0.3; ls /proc | grep -c '^[0-9]' | awk '{print ($1 < 8)}'", out: "1\n"},
		"localhost is the program's":  {script: "getent ahostsv4 localhost | head -1 | cut -d' ' -f1", out: "127.0.0.1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			j := newJob(t, newGateway(t), "sh", "-c", tc.script)
			j.Dir = t.TempDir()
			if tc.change != nil {
				tc.change(j)
			}
			r, out, errs := j.run(t)
			if r.ExitCode != tc.exit || out != tc.out {
				t.Errorf("exit %d, wanted %d; printed %q, wanted %q; %s", r.ExitCode, tc.exit, out, tc.out, errs)
			}
		})
	}
}

func TestProgramsThatDoNotStart(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("no program"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		program string
		exit    int
	}{"not found": {"/no/such/program", exitNotFound}, "not in PATH": {"no-such-program-here", exitNotFound}, "not executable": {plain, exitNotExecutable}} {
		for _, open := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, no isolation %t", name, open), func(t *testing.T) {
				j := newJob(t, newGateway(t), tc.program)
				j.NoIsolation = open
				if r, _, errs := j.run(t); r.ExitCode != tc.exit || !strings.Contains(errs, "sallyport: ") {
					t.Errorf("exit %d: %s", r.ExitCode, errs)
				}
			})
		}
	}
}

func TestHidingTheWorkingDirectoryIsRefused(t *testing.T) {
	j := newJob(t, newGateway(t), "true")
	j.Dir = t.TempDir()
	j.Hide = []string{filepath.Dir(j.Dir)}
	if _, _, _, err := j.try(t); err == nil || !strings.Contains(err.Error(), "working directory") {
		needNamespaces(t, err)
		t.Errorf("error %v", err)
	}
}

func TestDescriptorsStayOut(t *testing.T) {
	r, out, errs := newJob(t, newGateway(t), self(t), "attempt", "dumpfds").run(t)
	if r.ExitCode != 0 || strings.Contains(out, "socket:") {
		t.Errorf("exit %d: %s%s", r.ExitCode, out, errs)
	}
}

func TestCurlByEveryWay(t *testing.T) {
	if _, err := os.Stat("/usr/bin/curl"); err != nil {
		t.Skip("curl is not here")
	}
	bare := "unset HTTPS_PROXY https_proxy HTTP_PROXY http_proxy ALL_PROXY all_proxy; "
	big := "head -c 1048576 /dev/zero | "
	for name, tc := range map[string]struct{ script, out, gate string }{
		"proxy":               {"curl -sS https://api.example.com/a", `"path":"/a"`, "CONNECT api.example.com:443"},
		"transparent":         {bare + "curl -sS https://api.example.com/a", `"path":"/a"`, "CONNECT api.example.com:443"},
		"1 MiB, proxy":        {big + "curl -sS -T - https://api.example.com/a", `"bytes":1048576`, "CONNECT api.example.com:443"},
		"1 MiB, transparent":  {bare + big + "curl -sS -T - https://api.example.com/a", `"bytes":1048576`, "CONNECT api.example.com:443"},
		"plain, proxy":        {"curl -sS http://api.example.com/a?b=%2F", `"uri":"http://api.example.com/a?b=%2F"`, "GET api.example.com http://"},
		"plain, transparent":  {bare + big + "curl -sS -T - http://api.example.com/a", `"bytes":1048576`, "PUT api.example.com http://"},
		"plain, another port": {bare + "curl -sS http://api.example.com:8080/a", `"uri":"http://api.example.com:8080/a"`, "GET api.example.com:8080 http://"},
		"plain, refused":      {bare + "curl -sS http://refused.example.com/a", "EGRESS_DENIED", "GET refused.example.com"},
		"base URL":            {`curl -sS $OPENAI_BASE_URL/models -H "Authorization: Bearer $OPENAI_API_KEY"`, `"uri":"/openai/v1/models"`, "GET " + ReverseHost + " /openai/v1/models Bearer " + testToken},
		"base URL, x-api-key": {`curl -sS $ANTHROPIC_BASE_URL/v1/messages -H "x-api-key: $ANTHROPIC_API_KEY"`, `"uri":"/anthropic/v1/messages"`, "Bearer " + testToken},
		"base URL, by proxy":  {`unset NO_PROXY no_proxy; curl -sS $OPENAI_BASE_URL/models`, `"uri":"/openai/v1/models"`, "GET " + ReverseHost},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t)
			r, out, errs := newJob(t, g, "sh", "-c", tc.script).run(t)
			if r.ExitCode != 0 || !strings.Contains(out, tc.out) || strings.Contains(out, Placeholder) {
				t.Errorf("exit %d: %s%s", r.ExitCode, out, errs)
			}
			if !g.asked(tc.gate) {
				t.Errorf("the gate was asked %q", g.seen)
			}
		})
	}
}

func TestSummaryOfARun(t *testing.T) {
	g := newGateway(t)
	j := newJob(t, g, "sh", "-c", `curl -s https://api.example.com/; curl -s http://refused.example.com/; curl -s https://refused.example.com/; curl -s --noproxy '*' https://evil.test/; true`)
	r, _, errs := j.run(t)
	s := r.Summary
	if s.Allowed != 1 || s.Refused != 2 || s.Codes["EGRESS_DENIED"] != 2 || !slices.Equal(s.RefusedNames, []string{"evil.test"}) ||
		!slices.Equal(s.Receipts, []string{"rcpt_1", "dec_1", "dec_1"}) || s.Hosts["refused.example.com:443"].Refused != 1 {
		t.Errorf("%+v %s", s, errs)
	}
}

func TestGatewayGone(t *testing.T) {
	g := newGateway(t)
	j := newJob(t, g, "sh", "-c", `curl -s http://api.example.com/; curl -sS https://api.example.com/; unset HTTPS_PROXY https_proxy ALL_PROXY all_proxy; curl -sS https://api.example.com/; echo $?`)
	g.Close()
	begin := time.Now()
	r, out, errs := j.run(t)
	if r.ExitCode != 0 || !strings.Contains(out, "GATEWAY_UNREACHABLE") || !strings.Contains(errs, "503") || strings.Contains(out, "\n0\n") || r.Summary.Failed != 3 {
		t.Errorf("%+v %s %s", r, out, errs)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
}
