package run

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// attempt is the program of the tests: it tries one thing and says what came of it.
func attempt(args []string) int {
	what, args := args[0], args[1:]
	attempts := map[string]func([]string) (string, error){
		"dial": dial, "lookup": lookup, "tls": dialTLS, "echo": echo, "socket": socket, "typein": typeIn, "uring": uring,
		"signal": awaitSignal, "findtoken": findToken, "trace": trace, "dumpfds": openFiles,
	}
	said, err := attempts[what](args)
	if err != nil {
		fmt.Println("refused:", err)
		return 1
	}
	fmt.Println("reached:", said)
	return 0
}

// dial sends a word to NETWORK ADDRESS and reads the answer.
func dial(args []string) (string, error) {
	c, err := net.DialTimeout(args[0], args[1], 3*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte("ping")); err != nil {
		return "", err
	}
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// lookup asks the DNS server at ADDRESS by NETWORK for NAME.
func lookup(args []string) (string, error) {
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, args[0], args[1])
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	found, err := r.LookupHost(ctx, args[2])
	return strings.Join(found, " "), err
}

// dialTLS speaks TLS to ADDRESS with the server name NAME, "" for none, and asks for a page.
func dialTLS(args []string) (string, error) {
	raw, err := net.Dial("tcp", args[0])
	if err != nil {
		return "", err
	}
	defer raw.Close()
	c := tls.Client(raw, &tls.Config{ServerName: args[1], InsecureSkipVerify: true}) // tls.Dial would take the address's name
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	page, err := io.ReadAll(c)
	return string(page), err
}

// echo sends N bytes to ADDRESS, half-closes and counts what comes back.
func echo(args []string) (string, error) {
	c, err := net.Dial("tcp", args[0])
	if err != nil {
		return "", err
	}
	defer c.Close()
	size, _ := strconv.Atoi(args[1])
	go func() {
		_, _ = c.Write(make([]byte, size))
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	n, err := io.Copy(io.Discard, c)
	return fmt.Sprint(n), err
}

func socket(args []string) (string, error) {
	family, _ := strconv.Atoi(args[0])
	kind, _ := strconv.Atoi(args[1])
	protocol, _ := strconv.Atoi(args[2])
	_, err := unix.Socket(family, kind, protocol)
	return "a socket", err
}

func typeIn([]string) (string, error) {
	c := byte('x')
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, 0, unix.TIOCSTI, uintptr(c)); errno != unix.ENOTTY && errno != unix.EFAULT {
		return "", errno
	}
	return "the ioctl", nil
}

func uring([]string) (string, error) {
	if _, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, 0, 0); errno == unix.ENOSYS {
		return "", errno
	}
	return "io_uring", nil
}

func trace([]string) (string, error) {
	if _, err := os.ReadFile("/proc/1/environ"); err == nil {
		return "environment of the first process", nil
	}
	return "a trace", unix.PtraceAttach(1)
}

// awaitSignal says that it waits, and then which signal came.
func awaitSignal([]string) (string, error) {
	got := make(chan os.Signal, 1)
	signal.Notify(got, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1)
	fmt.Println("waiting")
	select {
	case s := <-got:
		return s.String(), nil
	case <-time.After(20 * time.Second):
		return "", fmt.Errorf("no signal")
	}
}

// findToken looks for WORD in the environment and in everything in /proc that can be read.
func findToken(args []string) (string, error) {
	for _, e := range os.Environ() {
		if strings.Contains(e, args[0]) {
			return "environment", nil
		}
	}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil || e.Name() == strconv.Itoa(os.Getpid()) {
			continue // our own arguments hold the word
		}
		for _, f := range []string{"environ", "cmdline", "comm"} {
			if raw, _ := os.ReadFile("/proc/" + e.Name() + "/" + f); strings.Contains(string(raw), args[0]) {
				return "/proc/" + e.Name() + "/" + f, nil
			}
		}
	}
	return "", fmt.Errorf("not found")
}

func openFiles([]string) (string, error) {
	links := map[string]string{}
	entries, err := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			links[e.Name()] = to
		}
	}
	raw, _ := json.Marshal(links)
	return string(raw), err
}

// ownerProcess is `sallyport run` as far as this package goes: it runs the program at the gateway of ADDRESS.
func ownerProcess(args []string) int {
	r, err := Run(context.Background(), Config{
		ForwardAddress: args[0], Token: func() Token { return testToken }, Program: args[1:], Environ: os.Environ(),
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Notes: io.Discard,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 125
	}
	return r.ExitCode
}
