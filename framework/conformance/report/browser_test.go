package report

import (
	"context"
	"io"
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
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// browser finds a Chromium; without one the test is skipped, and fails where
// CHROMIUM=required says that there has to be one.
func browser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome-headless-shell"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CHROMIUM") == "required" {
		t.Fatal("no Chromium: apt-get install chromium")
	}
	t.Skip("no Chromium: apt-get install chromium")
	return ""
}

// opened is the page of a report with everything in it, in a browser without
// network.
func opened(t *testing.T) (context.Context, *[]string) {
	t.Helper()
	r := failing(t)
	q := &r.Requirements[0].Specs[0]
	q.Evidence = []EvidenceTable{{"tpm", "none", []EvidenceClaim{{"register of the init-data", "00", "ff"}, {"tpm.pcr08", "", "ff"}}}}
	q.Pods = []PodTimeline{{Namespace: "ns", Name: "p", Events: []RPCEvent{{0, "CreateSandbox", "CreateSandboxRequest", "allowed", "OK", ""}, {12, "ExecProcess", "ExecProcessRequest", "denied", "PermissionDenied", "the rule at line 3"}}, Dropped: 3}}
	q.Files = []File{{"failed/x/console.log", strings.Repeat("0", 64), 3}}
	r.conclude()
	return openedPage(t, r.HTML, "#filter")
}

// openedPage is what write writes, in a browser without network, when ready is
// visible.
func openedPage(t *testing.T, write func(io.Writer) error, ready string) (context.Context, *[]string) {
	t.Helper()
	path := browser(t)
	file := filepath.Join(t.TempDir(), "report.html")
	w, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := write(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.UserDataDir(t.TempDir()))
	ctx, stop := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, expire := context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(expire)
	trouble := &[]string{}
	var lock sync.Mutex
	tell := func(text string) {
		lock.Lock()
		defer lock.Unlock()
		*trouble = append(*trouble, text)
	}
	page := (&url.URL{Scheme: "file", Path: file}).String()
	if _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Call(ctx, runtime.Enable, cdp.Empty{}); err != nil {
		t.Fatal(err)
	}
	if err := chromedp.Listen(ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventConsoleAPICalled:
			tell("console: " + string(e.Type))
		case *runtime.EventExceptionThrown:
			tell("exception: " + e.ExceptionDetails.Text)
		case *network.EventRequestWillBeSent:
			if e.Request.URL != page {
				tell("request: " + e.Request.URL)
			}
			tell("sent")
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := chromedp.Do(ctx, chromedp.Navigate(page), chromedp.WaitVisible(ready)); err != nil {
		t.Fatal(err)
	}
	return ctx, trouble
}

// js evaluates an expression in the page.
func js[T any](t *testing.T, ctx context.Context, expression string) T {
	t.Helper()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return v
}

func do(t *testing.T, ctx context.Context, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(ctx, actions...); err != nil {
		t.Fatal(err)
	}
}

const visible = `Array.from(document.querySelectorAll("details.requirement")).filter(d => d.offsetParent !== null).map(d => d.id).join(" ")`

func TestPage(t *testing.T) {
	ctx, trouble := opened(t)
	all := "POLICY-EXEC-001 POLICY-EXEC-002 ATTEST-BINDING-001 ATTEST-BINDING-002 POD-EXEC-001"

	t.Run("shows everything", func(t *testing.T) {
		if got := js[string](t, ctx, visible); got != all {
			t.Errorf("shown: %s", got)
		}
		if got := js[string](t, ctx, `document.querySelector(".cards").innerText`); !strings.Contains(got, "does not conform") || !strings.Contains(got, "conforms, simulated") {
			t.Errorf("verdicts: %s", got)
		}
		if got := js[string](t, ctx, `Array.from(document.querySelectorAll("details[open]")).map(d => d.id).join(" ")`); got != "POLICY-EXEC-001" {
			t.Errorf("open at first: %s; want what failed", got)
		}
		for _, want := range []string{"ExecProcessRequest", "PermissionDenied", "the rule at line 3", "and 3 more", "≠", "failed/x/console.log", "did <b>not</b>"} {
			if !js[bool](t, ctx, `document.getElementById("POLICY-EXEC-001").textContent.includes(`+"`"+want+"`"+`)`) {
				t.Errorf("%q is not shown", want)
			}
		}
		if strings.Contains(js[string](t, ctx, `document.documentElement.outerHTML`), "ZgotmplZ") {
			t.Error("the template refused a value")
		}
	})

	t.Run("filters", func(t *testing.T) {
		choose := func(id, value string) {
			do(t, ctx, chromedp.SetValue(id, value))
			js[bool](t, ctx, `document.querySelector("`+id+`").dispatchEvent(new Event("input", {bubbles: true}))`)
		}
		for _, c := range []struct{ id, value, want string }{
			{"#f-result", "failed", "POLICY-EXEC-001"},
			{"#f-profile", "attestation", "ATTEST-BINDING-001 ATTEST-BINDING-002"},
			{"#f-level", "SHOULD", "POLICY-EXEC-002"},
		} {
			choose(c.id, c.value)
			if got := js[string](t, ctx, visible); got != c.want {
				t.Errorf("%s=%s: %s, want %s", c.id, c.value, got, c.want)
			}
			choose(c.id, "")
		}
		do(t, ctx, chromedp.SendKeys("#f-text", "host_data"))
		if got := js[string](t, ctx, visible); got != "ATTEST-BINDING-002" {
			t.Errorf("text: %s", got)
		}
		if got := js[string](t, ctx, `document.getElementById("shown").textContent`); got != "1 of 5 requirements" {
			t.Errorf("told: %s", got)
		}
		do(t, ctx, chromedp.Click("#filter button[type=reset]"))
		if _, err := chromedp.Run(ctx, chromedp.Poll[bool](`document.getElementById("shown").textContent === "5 of 5 requirements"`)); err != nil {
			t.Error(err)
		}
	})

	t.Run("is for keyboards and screen readers", func(t *testing.T) {
		do(t, ctx, chromedp.Focus("#POD-EXEC-001 > summary"), chromedp.KeyEvent(kb.Enter))
		if !js[bool](t, ctx, `document.getElementById("POD-EXEC-001").open`) {
			t.Error("the Enter key opens nothing")
		}
		for expression, want := range map[string]string{
			`document.documentElement.lang`:                                 "en",
			`document.querySelectorAll("main, header, footer").length + ""`: "3",
			`document.querySelectorAll("h1").length + ""`:                   "1",
			`document.getElementById("shown").getAttribute("aria-live")`:    "polite",
			`document.querySelector("a.skip").getAttribute("href")`:         "#requirements",
			`document.querySelectorAll("th:not([scope])").length + ""`:      "0",
			`document.querySelector("#filter").getAttribute("role")`:        "search",
			`Array.from(document.querySelectorAll("#filter select, #filter input")).filter(f => !document.querySelector("label[for='" + f.id + "']")).length + ""`:              "0",
			`Array.from(document.querySelectorAll("h1,h2,h3,h4")).reduce((r, h, i, all) => r + (i && +h.tagName[1] > +all[i-1].tagName[1] + 1 ? h.textContent + ";" : ""), "")`: "",
		} {
			if got := js[string](t, ctx, expression); got != want {
				t.Errorf("%s: %q, want %q", expression, got, want)
			}
		}
	})

	t.Run("shows that requirements open, and leads to the open MUSTs", func(t *testing.T) {
		for id, want := range map[string]string{"POLICY-EXEC-001": "▾", "POLICY-EXEC-002": "▸"} {
			if got := js[string](t, ctx, `getComputedStyle(document.querySelector("#`+id+` > summary"), "::before").content`); !strings.Contains(got, want) {
				t.Errorf("%s has the marker %s, want %s", id, got, want)
			}
		}
		do(t, ctx, chromedp.SetValue("#f-result", "passed"))
		js[bool](t, ctx, `document.querySelector("#f-result").dispatchEvent(new Event("input", {bubbles: true}))`)
		js[bool](t, ctx, `document.getElementById("POLICY-EXEC-001").open = false`)
		js[bool](t, ctx, `(document.querySelector(".cards details").open = true, document.querySelector(".cards a[href='#POLICY-EXEC-001']").click(), true)`)
		if _, err := chromedp.Run(ctx, chromedp.Poll[bool](`document.getElementById("POLICY-EXEC-001").open && document.getElementById("POLICY-EXEC-001").offsetParent !== null`)); err != nil {
			t.Errorf("the card's link does not show its requirement: %v", err)
		}
	})

	t.Run("fits narrow windows", func(t *testing.T) {
		for _, width := range []int64{1200, 900, 500, 320} {
			fits(t, ctx, width)
		}
		resize(t, ctx, 500)
		if got := js[string](t, ctx, `getComputedStyle(document.querySelector("dl.facts")).gridTemplateColumns.split(" ").length + ""`); got != "1" {
			t.Errorf("at 500 pixels the facts have %s columns", got)
		}
		resize(t, ctx, 1200)
	})

	t.Run("has a light and a dark side, both readable", func(t *testing.T) {
		seen := map[string]string{}
		for _, scheme := range []string{"light", "dark"} {
			if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}); err != nil {
				t.Fatal(err)
			}
			seen[scheme] = js[string](t, ctx, `getComputedStyle(document.body).backgroundColor`)
			for _, selector := range []string{"body", ".soft", ".result.passed", ".result.failed", ".result.not-applicable", "a[href]"} {
				if ratio := js[float64](t, ctx, contrast(selector)); ratio < 4.5 {
					t.Errorf("%s: %s has a contrast of %.1f, want 4.5 (WCAG 2.2, 1.4.3)", scheme, selector, ratio)
				}
			}
		}
		if seen["light"] == seen["dark"] {
			t.Errorf("both are %s", seen["light"])
		}
	})

	// The page itself was asked for: requests are seen.
	if len(*trouble) != 1 || (*trouble)[0] != "sent" {
		t.Errorf("the page is not quiet, or was not watched: %v", *trouble)
	}
}

// TestMatrixPage opens the matrix of four platforms.
func TestMatrixPage(t *testing.T) {
	r := failing(t)
	m, err := Merge(r, r, r, r)
	if err != nil {
		t.Fatal(err)
	}
	ctx, _ := openedPage(t, m.HTML, "h1")
	for _, width := range []int64{1200, 900, 500} {
		fits(t, ctx, width)
	}
}

func resize(t *testing.T, ctx context.Context, width int64) {
	t.Helper()
	if _, err := chromedp.Call(ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: 800, DeviceScaleFactor: 1}); err != nil {
		t.Fatal(err)
	}
}

// fits checks that the page is not wider than a window of so many pixels.
func fits(t *testing.T, ctx context.Context, width int64) {
	t.Helper()
	resize(t, ctx, width)
	if got := js[float64](t, ctx, `document.documentElement.scrollWidth`); got > float64(width) {
		widest := js[string](t, ctx, `Array.from(document.querySelectorAll("body *")).filter(e => e.getBoundingClientRect().right > innerWidth + 1).slice(0, 5).map(e => e.tagName + "." + e.className + "#" + e.id).join(" ")`)
		t.Errorf("at %d pixels the page is %.0f wide: %s", width, got, widest)
	}
}

// contrast is the ratio of an element's colour to the page's, as WCAG 2.2 has it.
func contrast(selector string) string {
	return `(function () {
		function luminance(color) {
			return color.match(/[\d.]+/g).slice(0, 3).map(Number).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4))
				.reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
		}
		var a = luminance(getComputedStyle(document.querySelector("` + selector + `")).color), b = luminance(getComputedStyle(document.body).backgroundColor);
		return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
	})()`
}
