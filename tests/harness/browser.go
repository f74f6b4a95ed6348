package harness

import (
	"context"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// browserWait bounds each step of a browser.
const browserWait = 30 * time.Second

// Browser is a headless Chromium with a profile of its own, which reaches loopback addresses only.
type Browser struct {
	t   testing.TB
	ctx context.Context

	mu       sync.Mutex
	problems []string // console errors, uncaught exceptions, violations of the page's policy
	requests []string // URLs
}

// chromiumPath finds Chromium; `make chromium` installs it.
func chromiumPath(t testing.TB) string {
	t.Helper()
	for _, name := range []string{os.Getenv("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); name != "" && err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "" {
		t.Skip("chromium is missing: run make chromium")
	}
	t.Fatal("chromium is missing: run make chromium")
	return ""
}

// StartBrowser starts one that ends with the test.
func StartBrowser(t testing.TB) *Browser {
	t.Helper()
	dir := t.TempDir()
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromiumPath(t)), chromedp.UserDataDir(filepath.Join(dir, "profile")),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"), chromedp.WSURLReadTimeout(browserWait))
	if os.Getuid() == 0 {
		opts = append(opts, chromedp.NoSandbox)
	}
	allocator, free := chromedp.NewExecAllocator(context.Background(), opts...)
	ctx, cancel := chromedp.NewContext(allocator)
	b := &Browser{t: t, ctx: ctx}
	t.Cleanup(func() { cancel(); free() })
	if _, err := chromedp.Run(ctx, chromedp.Navigate("about:blank")); err != nil {
		t.Fatalf("chromium: %v", err)
	}
	target := chromedp.FromContext(ctx).Target
	b.must(func(ctx context.Context, s *chromedp.Target) error {
		_, err := cdp.Call(ctx, s, network.Enable, network.EnableParams{})
		return err
	})
	b.must(func(ctx context.Context, s *chromedp.Target) error {
		_, err := cdp.Call(ctx, s, log.Enable, cdp.Empty{})
		return err
	})
	follow(b, cdp.Events(ctx, target, network.RequestWillBeSent), func(e network.EventRequestWillBeSent) { b.requests = append(b.requests, e.Request.URL) })
	follow(b, cdp.Events(ctx, target, log.EntryAdded), func(e log.EventEntryAdded) {
		if e.Entry.Level == log.EntryLevelError {
			b.problems = append(b.problems, e.Entry.Text+" "+e.Entry.URL)
		}
	})
	follow(b, cdp.Events(ctx, target, runtime.ExceptionThrown), func(e runtime.EventExceptionThrown) {
		text := e.ExceptionDetails.Text
		if x := e.ExceptionDetails.Exception; x != nil {
			text += " " + x.Description
		}
		b.problems = append(b.problems, text)
	})
	follow(b, cdp.Events(ctx, target, runtime.ConsoleAPICalled), func(e runtime.EventConsoleAPICalled) {
		if e.Type == runtime.ConsoleAPICalledTypeError {
			b.problems = append(b.problems, "console.error")
		}
	})
	return b
}

// In has a subtest's steps fail the subtest.
func (b *Browser) In(t *testing.T) {
	before := b.t
	b.t = t
	t.Cleanup(func() { b.t = before })
}

func follow[E any](b *Browser, events func(func(E, error) bool), take func(E)) {
	go func() {
		for e, err := range events {
			if err != nil {
				return
			}
			b.mu.Lock()
			take(e)
			b.mu.Unlock()
		}
	}()
}

func (b *Browser) must(step func(ctx context.Context, s *chromedp.Target) error) {
	b.t.Helper()
	RunIn(b, chromedp.Func(step))
}

// RunIn carries an action out in the browser, in bounded time.
func RunIn[T any](b *Browser, a chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, browserWait)
	defer cancel()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		text, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string]("document.body.innerText.slice(0, 2000)"))
		b.t.Fatalf("browser: %v; the page says:\n%s\nproblems: %q", err, text, b.Problems())
	}
	return v
}

// Problems are console errors, uncaught exceptions and violations of the page's policy, so far.
func (b *Browser) Problems() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.problems...)
}

// Foreign are the URLs that were asked for at other places than the origin, but for what needs no network.
func (b *Browser) Foreign(origin string) (out []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.requests {
		u, err := url.Parse(r)
		if err != nil || u.Scheme != "data" && u.Scheme != "blob" && u.Scheme != "about" && u.Scheme+"://"+u.Host != origin {
			out = append(out, r)
		}
	}
	return out
}

// Open goes to a URL.
func (b *Browser) Open(url string) { b.t.Helper(); RunIn(b, chromedp.Navigate(url)) }

// Wait waits until a JavaScript expression is true.
func (b *Browser) Wait(expression string) {
	b.t.Helper()
	RunIn(b, chromedp.Poll[bool]("Boolean("+expression+")"))
}

// Text is what a JavaScript expression gives, as text.
func (b *Browser) Text(expression string) string {
	b.t.Helper()
	return RunIn(b, chromedp.Evaluate[string]("String("+expression+")"))
}

// Page is the text of the page as people see it.
func (b *Browser) Page() string { b.t.Helper(); return b.Text("document.body.innerText") }

// Click clicks the first element that a CSS selector finds.
func (b *Browser) Click(selector string) { b.t.Helper(); RunIn(b, chromedp.Click(selector)) }

// Keys presses keys, one after the other, where the focus is.
func (b *Browser) Keys(keys string) { b.t.Helper(); RunIn(b, chromedp.KeyEvent(keys)) }

// Choose puts a file into a file field.
func (b *Browser) Choose(selector, path string) {
	b.t.Helper()
	RunIn(b, chromedp.SetUploadFiles(selector, []string{path}))
}

// Look sets the size of the window in CSS pixels, and light or dark.
func (b *Browser) Look(width, height int64, dark bool) {
	b.t.Helper()
	RunIn(b, chromedp.EmulateViewport(width, height))
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	b.Media("", scheme)
}

// Media emulates a medium ("" or print) and a colour scheme.
func (b *Browser) Media(media, scheme string) {
	b.t.Helper()
	b.must(func(ctx context.Context, s *chromedp.Target) error {
		_, err := cdp.Call(ctx, s, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: media, Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		return err
	})
}

// Shot keeps a picture of the window under tests/golden, where UPDATE_GOLDEN is set; it is always taken, so that taking it is
// tested.
func (b *Browser) Shot(name string) {
	b.t.Helper()
	png := RunIn(b, chromedp.CaptureScreenshot())
	if !strings.HasPrefix(string(png), "\x89PNG") {
		b.t.Errorf("%s: %d bytes that are no PNG", name, len(png))
	}
	if os.Getenv("UPDATE_GOLDEN") == "" {
		return
	}
	path := filepath.Join(Root(), "tests", "golden", name+".png")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}
