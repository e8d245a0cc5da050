package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// chromium is Debian's, which CI installs; axe is fetched by `make node`.
var (
	chromium = env("CHROMIUM", "chromium")
	axe      = "../.servers/node/node_modules/axe-core/axe.min.js"
)

// browser is a tab of a real Chromium. Whatever a page's script throws, and whatever its content security policy
// refuses, fails the test.
type browser struct {
	ctx context.Context
	url string
	t   *testing.T

	mu      sync.Mutex
	trouble []string
}

// watching reports what the policy of a page refuses, and by how much its parts move while it comes
// (https://web.dev/articles/cls).
const watching = `window.refused = []; addEventListener("securitypolicyviolation",
	(e) => window.refused.push(e.effectiveDirective + " " + e.blockedURI + " " + e.sample));
	window.shift = 0; new PerformanceObserver((list) => {
		for (const e of list.getEntries()) if (!e.hadRecentInput) window.shift += e.value;
	}).observe({type: "layout-shift", buffered: true})`

func newBrowser(t *testing.T, d *docket) *browser {
	t.Helper()
	need(t, chromium)
	alloc, stop := chromedp.NewExecAllocator(
		t.Context(),
		append(
			chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.DisableGPU,
			chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		)...,
	)
	t.Cleanup(stop)
	// The library knows fewer events than Chromium has, and complains of the others.
	ctx, end := chromedp.NewContext(alloc, chromedp.WithErrorf(func(string, ...any) {}))
	t.Cleanup(end)
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	t.Cleanup(cancel)
	b := &browser{ctx: ctx, url: "http://" + d.console, t: t}
	chromedp.ListenTarget(ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			b.fails("a script threw: " + e.ExceptionDetails.Error())
		case *log.EventEntryAdded:
			// A page that is not there, or a login that fails, is what some tests are about.
			if e.Entry.Level == log.LevelError && e.Entry.Source != log.SourceNetwork {
				b.fails("the browser says: " + e.Entry.Text)
			}
		}
	})
	b.do(log.Enable(), chromedp.ActionFunc(func(ctx context.Context) error {
		_, err := page.AddScriptToEvaluateOnNewDocument(watching).Do(ctx)
		return err
	}))
	b.size(1280, 900)
	t.Cleanup(b.quiet)
	return b
}

func (b *browser) fails(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trouble = append(b.trouble, what)
}

// quiet requires that nothing was thrown or refused so far.
func (b *browser) quiet() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.trouble) > 0 {
		b.t.Errorf("%s", strings.Join(b.trouble, "\n"))
	}
	b.trouble = nil
}

// do does something in the browser, within ten seconds.
func (b *browser) do(actions ...chromedp.Action) {
	b.t.Helper()
	if err := b.try(actions...); err != nil {
		var where, text string
		_ = chromedp.Run(b.ctx, chromedp.Location(&where), chromedp.Text("main", &text, chromedp.ByQuery))
		require.NoError(b.t, err, "at %s, which shows:\n%.2000s", where, text)
	}
}

// try does something within ten seconds. The first use of a browser starts it, and it ends with the context of that.
func (b *browser) try(actions ...chromedp.Action) error {
	if chromedp.FromContext(b.ctx).Target == nil {
		return chromedp.Run(b.ctx, actions...)
	}
	ctx, cancel := context.WithTimeout(b.ctx, 10*time.Second)
	defer cancel()
	return chromedp.Run(ctx, actions...)
}

func (b *browser) size(width, height int64) {
	b.t.Helper()
	b.do(chromedp.EmulateViewport(width, height))
}

// open goes to a page, and requires that its policy refused nothing.
func (b *browser) open(path string) {
	b.t.Helper()
	b.do(chromedp.Navigate(b.url+path), chromedp.WaitReady("main", chromedp.ByQuery))
	var refused []string
	b.do(chromedp.Evaluate(`window.refused ?? []`, &refused))
	require.Empty(b.t, refused, path)
}

// still requires that a page's parts did not move while it came.
func (b *browser) still(path string) {
	b.t.Helper()
	b.open(path)
	b.eventually("all of it is there", `document.readyState === "complete"`)
	var shift float64
	b.do(chromedp.Evaluate(`new Promise((r) => requestAnimationFrame(() => setTimeout(() => r(window.shift), 200)))`, &shift,
		func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	require.Less(b.t, shift, 0.01, path)
}

// sees waits until the page shows texts.
func (b *browser) sees(texts ...string) {
	b.t.Helper()
	for _, text := range texts {
		b.eventually("the page shows "+text, fmt.Sprintf(`document.body.innerText.includes(%s)`, quote(text)))
	}
}

// at waits until the address has something in it.
func (b *browser) at(part string) {
	b.t.Helper()
	b.eventually("the address has "+part, fmt.Sprintf(`decodeURIComponent(location.href.replaceAll("+", " ")).includes(%s)`, quote(part)))
}

// eventually waits until an expression is true.
func (b *browser) eventually(what, expression string) {
	b.t.Helper()
	eventually(b.t, 15*time.Second, func() error {
		var is bool
		if err := b.try(chromedp.Evaluate("!!("+expression+")", &is)); err != nil || is {
			return err // a page that is being left has no answer
		}
		var now string
		err := b.try(chromedp.Evaluate(`location.href + "\n" + (document.querySelector("main")?.innerText ?? "")`, &now))
		return fmt.Errorf("not so: %s (%w); it is %.3000s", what, err, now)
	})
}

// keys presses keys where the focus is. A key that a script takes for itself types nothing, as with a keyboard.
func (b *browser) keys(keys ...string) {
	b.t.Helper()
	b.eventually("the page's script is there", `document.readyState === "complete"`)
	for _, k := range keys {
		press, release := input.DispatchKeyEvent(input.KeyDown).WithKey(k), input.DispatchKeyEvent(input.KeyUp).WithKey(k)
		if code, special := codes[k]; special {
			press = press.WithCode(k).WithWindowsVirtualKeyCode(code)
			release = release.WithCode(k).WithWindowsVirtualKeyCode(code)
		}
		switch {
		case k == enter:
			press = press.WithText("\r")
		case len(k) == 1:
			press = press.WithText(k)
		}
		b.do(press, release)
	}
}

// Keys that are no letters, as the DOM names them, and their codes.
const (
	enter  = "Enter"
	escape = "Escape"
	down   = "ArrowDown"
	left   = "ArrowLeft"
)

var codes = map[string]int64{enter: 13, escape: 27, left: 37, down: 40}

func (b *browser) click(selector string) {
	b.t.Helper()
	b.do(chromedp.Click(selector, chromedp.ByQuery))
}

func quote(text string) string {
	quoted, err := json.Marshal(text)
	if err != nil {
		panic(err) // of a string
	}
	return string(quoted)
}

// shoot keeps a picture of the page, where the environment says where.
func (b *browser) shoot(name string) {
	b.t.Helper()
	dir := os.Getenv("CONSOLE_IMAGES")
	if dir == "" {
		return
	}
	var picture []byte
	b.do(chromedp.CaptureScreenshot(&picture))
	require.NoError(b.t, os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644))
}

// accessible requires of a page what passes does, in light and dark, on a phone and on a desk.
func (b *browser) accessible(path string) {
	b.t.Helper()
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{390, 1280} {
			b.do(emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{
				{Name: "prefers-color-scheme", Value: scheme},
			}))
			b.size(width, 900)
			b.open(path)
			// A page's own policy would keep axe from making markup, so that it is asked without.
			b.do(page.SetBypassCSP(true), chromedp.Reload(), chromedp.WaitReady("main", chromedp.ByQuery))
			b.passes(fmt.Sprintf("%s, %s, %d pixels", path, scheme, width))
			b.do(page.SetBypassCSP(false))
		}
	}
	b.do(emulation.SetEmulatedMedia())
	b.size(1280, 900)
}

// passes requires that axe finds nothing in what is shown, without a content security policy, and that nothing is wider
// than the page.
func (b *browser) passes(what string) {
	b.t.Helper()
	script, err := os.ReadFile(axe)
	require.NoError(b.t, err, "make node fetches it")
	var found []struct {
		ID, Help string
		Nodes    []struct{ HTML, FailureSummary string }
	}
	var wider bool
	b.do(
		chromedp.Evaluate(string(script)+"; 0", nil),
		chromedp.Evaluate(
			`axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]})
			.then((r) => r.violations)`, &found,
			func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) },
		),
		chromedp.Evaluate(`document.documentElement.scrollWidth > document.documentElement.clientWidth`, &wider),
	)
	require.Empty(b.t, found, what)
	require.False(b.t, wider, "%s is wider than the window", what)
}
