package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/testserver"
)

// order is a decision about an order, denied to guests.
func order(id string, ago time.Duration, user, role string) string {
	return fmt.Sprintf(
		`{"decision_id":%q,"timestamp":%q,"path":"orders/allow","labels":{"id":"opa-1","app":"shop"},
		"input":{"user":%q,"action":"DELETE","resource":"/orders/7","role":%q,"request":{"id":"%032x"},"token":"***"},
		"result":{"allow":%t,"reason":%q},"bundles":{"orders":{"revision":"r1"}},"masked":["/input/token"],
		"metrics":{"timer_rego_query_eval_ns":81000,"timer_server_handler_ns":210000}}`,
		id, time.Now().Add(-ago).UTC().Format(time.RFC3339Nano), user, role, sha256.Sum256([]byte(id)), role == "admin",
		map[string]string{"guest": "guests may not delete"}[role],
	)
}

// orders are some that are allowed and some that are denied.
func orders(n int) (events []string) {
	for i := range n {
		role := "admin"
		if i%10 == 3 {
			role = "guest"
		}
		ago := time.Duration(i) * time.Minute
		events = append(events, order(fmt.Sprintf("o-%d", i), ago, fmt.Sprintf("user-%d", i%7), role))
	}
	return events
}

// holds waits until so many decisions can be found.
func (d *docket) holds(t *testing.T, n int) {
	t.Helper()
	eventually(t, 30*time.Second, func() error {
		var stats struct{ Total int }
		if status := d.getJSON(t, "/api/v1/decisions/stats?since=30d", &stats); status != 200 || stats.Total != n {
			return fmt.Errorf("%d: %d decisions are stored", status, stats.Total)
		}
		return nil
	})
}

// guestsMay is a policy that allows what orders deny.
const guestsMay = `package orders

allow := {"allow": true, "reason": "the owner" } if not admin

allow := {"allow": true, "reason": "an admin"} if admin

admin if input.role == "admin"
`

func TestConsole(t *testing.T) {
	d := newDocket(t, t.TempDir())
	d.serve(t)
	b := newBrowser(t, d)

	b.open("/")
	b.sees("OK", "No OPA has sent anything yet", "url: http://"+d.upload, "Waiting for the first upload")
	b.shoot("empty")
	d.post(t, orders(400)...)
	b.sees("The first upload has come.")
	d.holds(t, 400)

	t.Run("from a denial to its reason", func(t *testing.T) {
		b.t = t
		b.open("/")
		b.sees("Everything that was uploaded is stored", "guests may not delete", "denied 40")
		b.shoot("overview")
		b.click("table.decisions tbody a")
		b.sees("was denied DELETE on /orders/7 by orders/allow: guests may not delete.", "masked",
			"What was different the last time it was allowed", `"admin"`)
		b.shoot("decision")
		b.click(`a[href*="/compare?"]`)
		b.sees("What differs", "input.role", `"guest"`)
		b.shoot("compare")
	})
	t.Run("search", func(t *testing.T) {
		b.t = t
		b.open("/decisions")
		b.sees("allowed 360", "denied 40")
		b.keys("/", "o", "u", "t", "c")
		suggested := func(text string) {
			b.eventually(text+" is suggested", `document.querySelector("#suggestions li")?.innerText.includes("`+text+`")`)
		}
		suggested("outcome")
		b.keys(down, enter) // the field
		suggested("allowed")
		b.keys("d", "e", "n")
		suggested("denied")
		b.keys(down, enter) // its value
		b.keys(enter)
		b.at("q=outcome:denied")
		b.sees("guests may not delete")
		b.click(`.facet[data-field=principal] a.value`)
		b.at("principal:user-")
		b.click(`.facet[data-field=principal] a.value`) // again: no longer only that one
		b.eventually("the term is gone", `!location.href.includes("principal")`)
		b.open("/decisions")
		b.click(`.facet[data-field=outcome] a.without`)
		b.at("-outcome:allowed")
		b.sees("guests may not delete")
		b.open("/decisions?q=outcome:denied -outcome:denied")
		b.sees("No decision fits this search")
	})
	t.Run("keys", func(t *testing.T) {
		b.t = t
		b.open("/decisions?q=outcome:denied")
		b.keys("j", "j", "k", enter)
		b.sees("All about this decision", "roleguest")
		b.eventually("the first row is open", `document.querySelector("tbody tr:nth-child(2)").classList.contains("place")`)
		b.shoot("decisions")
		b.keys(enter)
		b.eventually("it is closed", `!document.querySelector("tr.place")`)
		b.keys("?")
		b.eventually("the keys are shown", `document.getElementById("keys").open`)
		b.keys(escape, "j", "o")
		b.at("/decisions/o-13")
	})
	t.Run("brush", func(t *testing.T) {
		b.t = t
		b.open("/decisions")
		b.do(chromedp.Focus(".chart [tabindex]", chromedp.ByQuery))
		b.keys(left, left, enter)
		b.at("until=")
		b.open("/decisions")
		var box struct{ X, Y, Width, Height float64 }
		b.do(chromedp.Evaluate(`document.querySelector(".chart svg").getBoundingClientRect().toJSON()`, &box))
		mouse := func(what input.MouseType, x float64) chromedp.Action {
			return input.DispatchMouseEvent(what, x, box.Y+20).WithButton(input.Left).WithClickCount(1)
		}
		from, to := box.X+box.Width/2, box.X+box.Width*3/4
		b.do(mouse(input.MousePressed, from), mouse(input.MouseMoved, to), mouse(input.MouseReleased, to))
		b.at("until=")
	})
	t.Run("tail", func(t *testing.T) {
		b.t = t
		b.open("/decisions?q=outcome:denied")
		b.click("#live")
		b.sees("shown as they come")
		b.at("live=1")
		d.post(t, order("new", 0, "eve", "guest"), order("other", 0, "eve", "admin"))
		b.eventually("it came", `document.querySelector("tbody tr.new")?.innerText.includes("eve")`)
		b.eventually("alone", `document.querySelectorAll("tbody tr.new").length === 1`)
	})
	t.Run("contrast", func(t *testing.T) {
		b.t = t
		b.open("/contrast?q=outcome:denied")
		b.sees("input.role", "guest", "100 %")
		b.shoot("contrast")
		b.click("td.narrow a")
		b.at("/decisions?q=outcome:denied ")
	})
	t.Run("another policy", func(t *testing.T) {
		b.t = t
		b.open("/decisions/o-13")
		b.click(`a[href*="/replay-policy?"]`)
		b.at("q=id:o-13")
		b.do(chromedp.SendKeys("textarea", guestsMay, chromedp.ByQuery))
		b.click(`form[action^="/replay-policy"] button`)
		b.sees("It comes out with another outcome.", "policy.rego:3")
		b.quiet()
		b.do(
			page.SetBypassCSP(true), chromedp.SetValue("input[name=q]", "principal:user-*", chromedp.ByQuery),
			chromedp.SetValue("input[name=limit]", "100", chromedp.ByQuery),
		)
		b.click(`form[action^="/replay-policy"] button`)
		b.sees("100 decisions: 0 the same, 90 with another result, 10 with another outcome.")
		b.sees("A mask replaced a part of it")
		b.click("section details summary")
		b.sees(`input.role == "admin"`)
		b.shoot("policy-replay")
		b.passes("what a policy says")
		b.do(page.SetBypassCSP(false))
	})
	t.Run("two of a list", func(t *testing.T) {
		b.t = t
		b.open("/decisions")
		b.do(chromedp.Evaluate(`document.querySelectorAll("input[name=pick]").forEach((c, i) => { c.checked = i < 2 }); 0`, nil))
		b.click(".paging button")
		b.sees("What differs", "first", "second")
	})
	t.Run("dead letters", func(t *testing.T) {
		b.t = t
		d.post(t, `"no decision"`, `17`)
		eventually(t, 30*time.Second, func() error {
			var groups struct{ Items []struct{ Open int } }
			if d.getJSON(t, "/api/v1/dead-letters/groups", &groups); len(groups.Items) == 0 || groups.Items[0].Open != 2 {
				return fmt.Errorf("dead letters are not indexed: %v", groups)
			}
			return nil
		})
		b.open("/dead-letters")
		b.sees("not_object", "2 open")
		b.shoot("dead-letters")
		b.click("details.act summary")
		b.click(`form[action="/dead-letters/replays"] button`)
		b.at("/jobs/")
		b.sees("done", "What would happen")
		b.open("/dead-letters")
		b.click("details.act summary")
		b.do(chromedp.SendKeys(`form[action="/dead-letters/discards"] input[name=comment]`, "a test of ours", chromedp.ByQuery))
		b.click(`form[action="/dead-letters/discards"] input[type=checkbox]`)
		b.click(`form[action="/dead-letters/discards"] button`)
		b.at("/jobs/")
		b.sees("done", "a test of ours")
		b.open("/audit")
		b.sees("discard.create", "a test of ours")
		b.open("/dead-letters")
		b.sees("0 open", "2 discarded")
	})
	t.Run("pages without script", func(t *testing.T) {
		b.t = t
		b.do(emulation.SetScriptExecutionDisabled(true))
		b.do(chromedp.Navigate(b.url + "/decisions"))
		b.do(chromedp.SetValue("#q", "outcome:denied", chromedp.ByQuery), chromedp.Click(".search button", chromedp.ByQuery))
		b.do(chromedp.WaitVisible(`.facet[data-field=outcome] a[aria-current]`, chromedp.ByQuery))
		var text string
		b.do(chromedp.Text("table.decisions", &text, chromedp.ByQuery))
		require.Contains(t, text, "guests may not delete")
		require.Regexp(t, `\d\d:\d\d:\d\dZ`, text, "times are UTC")
		b.do(chromedp.Click("table.decisions tbody a", chromedp.ByQuery), chromedp.WaitVisible(".verdict", chromedp.ByQuery))
		b.do(emulation.SetScriptExecutionDisabled(false))
	})
	t.Run("nothing moves", func(t *testing.T) {
		b.t = t
		for _, width := range []int64{390, 1280} {
			b.size(width, 900)
			for _, path := range []string{"/", "/decisions", "/decisions?q=input.role:guest", "/decisions/o-13"} {
				b.still(path)
			}
		}
	})
	t.Run("for everybody", func(t *testing.T) {
		b.t = t
		for _, path := range []string{
			"/", "/decisions", "/decisions?q=outcome:(", "/decisions/o-13", "/compare", "/compare?a=o-13",
			"/contrast?q=outcome:denied", "/replay-policy?q=outcome:denied", "/dead-letters", "/dead-letters/list", "/jobs",
			"/opas", "/pipeline", "/audit", "/nothing",
		} {
			b.accessible(path)
		}
	})
	b.t = t
	require.NotContains(t, d.out.String(), "level=ERROR")
	d.terminate(t)
}

func TestConsoleOfMuch(t *testing.T) {
	d := newDocket(t, t.TempDir())
	d.serve(t)
	var events []string
	for i := range 10_000 {
		events = append(events, fmt.Sprintf(
			`{"decision_id":"m-%d","timestamp":%q,"path":"p/allow","result":%t,"input":{"user":"user-%d"},"labels":{"id":"opa-%d"}}`,
			i, time.Now().Add(-time.Duration(i)*time.Second).UTC().Format(time.RFC3339Nano), i%2 == 0, i, i/10,
		))
	}
	for at := 0; at < len(events); at += 10 { // an upload is of one OPA
		d.post(t, events[at:at+10]...)
	}
	d.post(t, fmt.Sprintf(`{"decision_id":"large","path":"p/allow","result":false,"input":{"text":%q,"many":[%s0]}}`,
		strings.Repeat("x", 2<<20), strings.Repeat("1234567,", 200_000)))
	d.holds(t, 10_001)
	b := newBrowser(t, d)
	eventually(t, 30*time.Second, func() error { // values are counted for half a second, which may be too short at first
		b.open("/decisions")
		b.sees("user-0")
		var counted bool
		b.do(chromedp.Evaluate(`document.body.textContent.includes("and 9\u202f99")`, &counted))
		if !counted {
			return errors.New("it does not say how many principals have no room")
		}
		return nil
	})
	b.open("/decisions/large")
	b.sees("2\u202f096\u202f752 characters more, in the event")
	b.eventually("an array is cut", `document.body.textContent.includes("199\u202f801 more, in the event")`)
	var bytes int
	b.do(chromedp.Evaluate(`document.documentElement.outerHTML.length`, &bytes))
	require.Less(t, bytes, 500_000)
	eventually(t, 30*time.Second, func() error { // ingest reports them every 10 seconds
		b.open("/opas")
		var rows int
		if b.do(chromedp.Evaluate(`document.querySelectorAll("tbody tr").length`, &rows)); rows < 1000 {
			return fmt.Errorf("%d OPAs are listed", rows)
		}
		return nil
	})
	d.terminate(t)
}

func TestConsoleOnPostgreSQL(t *testing.T) {
	pg, err := testserver.StartPostgres("")
	testserver.Need(t, err)
	t.Cleanup(func() { require.NoError(t, pg.Close()) })
	require.NoError(t, pg.Exec("postgres", "CREATE DATABASE docket"))
	d := newDocket(t, t.TempDir(), "DOCKET_DATABASE_URL="+pg.URL("docket", "postgres"))
	d.serve(t)
	d.post(t, orders(100)...)
	d.holds(t, 100)
	eventually(t, 20*time.Second, func() error { // the overview begins with whether an OPA was heard of
		var opas struct{ Items []json.RawMessage }
		if d.getJSON(t, "/api/v1/opas", &opas); len(opas.Items) == 0 {
			return errors.New("no OPA is listed yet")
		}
		return nil
	})
	b := newBrowser(t, d)
	for path, text := range map[string]string{
		"/": "guests may not delete", "/decisions?q=input.role:guest": "guests may not delete",
		"/decisions/o-3": "was denied DELETE", "/compare?a=o-3": "input.role", "/contrast?q=outcome:denied": "input.role",
		"/opas": "opa-1", "/pipeline": "closed", "/dead-letters": "There is none", "/jobs": "There is none",
		"/audit": "Nobody",
	} {
		b.open(path)
		b.sees(text)
	}

	require.NoError(t, pg.Stop(true))
	b.open("/")
	b.sees("DEGRADED", "Nothing is lost", "The newest denials cannot be shown")
	b.open("/decisions")
	b.sees("The decisions cannot be shown")
	b.click("#live")
	b.sees("shown as they come")
	d.post(t, order("meanwhile", 0, "eve", "guest"))
	b.eventually("it came", `document.querySelector("tbody tr.new")?.innerText.includes("eve")`)
	b.open("/pipeline")
	b.sees("saver")
	require.NoError(t, pg.Start())
	d.holds(t, 101)
	b.open("/decisions/meanwhile")
	b.sees("eve was denied DELETE")
	d.terminate(t)
}

// TestConsoleWithoutKafka shows what is stored, and says what it cannot know.
func TestConsoleWithoutKafka(t *testing.T) {
	c := oneBroker(t)
	c.post(t, append(orders(20), "17")...)
	c.holds(t, 20)
	b := newBrowser(t, c.docket)
	require.NoError(t, c.servers.kafka.Kill(0))
	t.Cleanup(func() { require.NoError(t, c.servers.kafka.Start(0)) })
	b.open("/decisions?q=outcome:denied")
	b.sees("guests may not delete")
	b.click("#live")
	b.sees("docket shows no new ones at the moment")
	b.open("/dead-letters/list")
	b.sees("not_object")
	b.click("table a")
	b.sees("What is known of it", "ask Kafka for the first offsets")
	eventually(t, 30*time.Second, func() error { // the processes tell of themselves every few seconds
		b.open("/pipeline")
		var text string
		if b.do(chromedp.Text("main", &text, chromedp.ByQuery)); !strings.Contains(text, "DOWN The log takes no records") {
			return errors.New(text)
		}
		return nil
	})
	b.open("/")
	b.sees("DOWN The log takes no records", "guests may not delete")
}

func TestConsoleWithTokens(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(
		nil, "vera viewer %x\nolga operator %x\n", sha256.Sum256([]byte("see")), sha256.Sum256([]byte("do")),
	), 0o600))
	d := newDocket(t, t.TempDir(), "DOCKET_CONSOLE_TOKENS_FILE="+file, "DOCKET_CONSOLE_PREFIX=/docket")
	d.serve(t)
	d.post(t, append(orders(20), "17")...)
	b := newBrowser(t, d)
	login := func(token string) {
		b.open("/docket/decisions?q=outcome:denied")
		b.at("/docket/login?to=/decisions?q=outcome")
		b.do(chromedp.SendKeys("input[name=token]", token, chromedp.ByQuery))
		b.keys(enter)
	}
	login("wrong")
	b.sees("This token is not known here")
	b.accessible("/docket/login")
	login("see")
	b.at("/docket/decisions?q=outcome:denied")
	b.sees("vera, viewer", "guests may not delete")
	b.keys("j", enter)
	b.sees("All about this decision") // scripts ask the API with the session
	b.click("#live")
	b.sees("shown as they come")
	eventually(t, 30*time.Second, func() error {
		b.open("/docket/dead-letters")
		var text string
		b.do(chromedp.Text("main", &text, chromedp.ByQuery))
		if !strings.Contains(text, "1 open") {
			return fmt.Errorf("the dead letter is not indexed: %s", text)
		}
		require.NotContains(t, text, "Replay or discard")
		return nil
	})
	b.click(".who button")
	b.at("/docket/login")
	login("do")
	b.sees("olga, operator")
	b.open("/docket/dead-letters")
	b.sees("Replay or discard")
	// A token that is taken away ends its sessions.
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, "vera viewer %x\n", sha256.Sum256([]byte("see"))), 0o600))
	eventually(t, 10*time.Second, func() error {
		b.open("/docket/")
		var where string
		if b.do(chromedp.Location(&where)); !strings.Contains(where, "/login") {
			return fmt.Errorf("still at %s", where)
		}
		return nil
	})
	d.terminate(t)
}
