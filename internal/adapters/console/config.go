package console

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Config is what can be set about pages.
type Config struct {
	Prefix         string `help:"Path under which a proxy serves the console, such as /docket." env:"DOCKET_CONSOLE_PREFIX"`
	TraceURL       string `name:"trace-url" help:"Where a trace is shown: an address with {trace_id} in it." env:"DOCKET_CONSOLE_TRACE_URL"`
	SessionKeyFile string `help:"Key that sessions are sealed with, 32 bytes or more, which all consoles behind one name share. Unset: sessions end with the process." env:"DOCKET_CONSOLE_SESSION_KEY_FILE" type:"path"`
}

// prefixes are paths that need no escapes, and ownPaths what they may not begin with.
var (
	prefixes = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)+$`)
	ownPaths = []string{
		"api", "assets", "login", "logout", "decisions", "decision", "compare", "contrast", "replay-policy", "opas",
		"pipeline", "audit", "credentials", "jobs", "dead-letters",
	}
)

// traceID stands for the id of a trace.
const traceID = "{trace_id}"

// Validate reports everything that is wrong.
func (c *Config) Validate() error {
	var errs []error
	if p := c.Prefix; p != "" {
		first, _, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
		if !prefixes.MatchString(p) || path.Clean(p) != p || slices.Contains(ownPaths, first) {
			errs = append(errs, fmt.Errorf("console_prefix %q: it is a path such as /docket, of letters, digits and ._~-, "+
				"without a slash at its end, and none of docket's own", p))
		}
	}
	if t := c.TraceURL; t != "" {
		u, err := url.Parse(strings.ReplaceAll(t, traceID, "0"))
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || !strings.Contains(t, traceID) {
			errs = append(errs, fmt.Errorf("console_trace_url %q: it is an address with %s in it", t, traceID))
		}
	}
	return errors.Join(errs...)
}

// traceLink is where a trace is shown; "" where nobody said.
func (c *Config) traceLink(id string) string {
	if c.TraceURL == "" || id == "" {
		return ""
	}
	return strings.ReplaceAll(c.TraceURL, traceID, url.QueryEscape(id))
}
