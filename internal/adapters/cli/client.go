// Package cli has the operator's commands. They speak HTTP to a running docket and print tables for people or JSON
// for programs. Parsing of flags and everything that runs a server is left to the caller.
package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// Exit codes, a contract with scripts.
const (
	ExitDone          = 0
	ExitFailed        = 1
	ExitUsage         = 2
	ExitUnavailable   = 3
	ExitNotFound      = 4
	ExitRefused       = 5
	ExitMisconfigured = 6
)

// Failure is an error that has chosen its exit code.
type Failure struct {
	Code int
	Err  error
	// Status is that of docket's answer, where there was one, and RetryAfter what it asks to wait for.
	Status     int
	RetryAfter time.Duration
}

// Error is the cause's; "" for one that has said everything already.
func (f *Failure) Error() string {
	if f.Err == nil {
		return ""
	}
	return f.Err.Error()
}

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

func fail(code int, format string, args ...any) error {
	return &Failure{Code: code, Err: fmt.Errorf(format, args...)}
}

// ExitCode is what a process ends with after err.
func ExitCode(err error) int {
	var f *Failure
	switch {
	case err == nil:
		return ExitDone
	case errors.As(err, &f):
		return f.Code
	default:
		return exitOf(domain.ClassOf(err))
	}
}

// exitOf is total over the classes.
func exitOf(c domain.Class) int {
	switch c {
	case domain.Unavailable:
		return ExitUnavailable
	case domain.Misconfigured:
		return ExitMisconfigured
	case domain.Canceled, domain.Invalid, domain.Unknown:
		return ExitFailed
	}
	return ExitFailed
}

// Out is where commands print.
type Out struct {
	Stdout, Stderr io.Writer
	// Raw takes exact bytes: the same as Stdout where that is a terminal, and otherwise whatever is behind it.
	Raw io.Writer
	// Terminal says that Stderr is one, so that progress may be shown.
	Terminal bool
}

// Form is how a command prints.
type Form struct {
	Output  string   `short:"o" help:"How to print: ${enum}." enum:"${forms=table,json,ndjson}" default:"table"`
	Wide    bool     `help:"Print every column whole, however wide that is."`
	Columns []string `help:"Print only these columns of a table, such as outcome,reason,decision_id." placeholder:"NAME,…"`
	UTC     bool     `name:"utc" help:"Tell times in UTC, as RFC 3339; on a screen they are relative and local."`
}

// Reach is how every command that asks reaches a docket; its flags stand in front of a command or behind it.
type Reach struct {
	Server   string `help:"Console listener of the docket to ask." default:"http://127.0.0.1:8081" env:"DOCKET_SERVER" placeholder:"URL"`
	Identity `embed:""`
}

// Console is a docket that a command asks, as Reach says.
type Console struct {
	Server   string `kong:"-"`
	Identity `kong:"-"`
}

// noRoute is how every listener of docket's answers for a path that it does not serve.
const noRoute = "there is nothing at "

// maxAnswer is longer than any of docket's answers, in bytes.
const maxAnswer = 64 << 20

// requestTimeout bounds one request of a command.
const requestTimeout = 30 * time.Second

// urlOf is where a server has a path. White space around its address does not count, nor does a slash behind it.
func urlOf(server, path string) string {
	return strings.TrimRight(strings.TrimSpace(server), "/") + path
}

// get asks the console listener and returns the body of a 200.
func (s Console) get(ctx context.Context, path string, query url.Values) ([]byte, error) {
	u := urlOf(s.Server, path)
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	return do(ctx, http.MethodGet, u, s.Identity, nil, "")
}

// do makes one request and turns every failure into one message with an exit code.
func do(
	caller context.Context, method, u string, who Identity, body []byte, encoding string,
) ([]byte, error) {
	ctx, cancel := context.WithTimeout(caller, requestTimeout)
	defer cancel()
	resp, err := answerTo(ctx, caller, method, u, who, body, encoding)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := wholeOf(resp)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusAccepted {
		return answer, nil
	}
	return nil, refusal(resp, answer)
}

// wholeOf reads the body of an answer.
func wholeOf(resp *http.Response) ([]byte, error) {
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if len(answer) > maxAnswer {
		return nil, fail(ExitFailed, "%s sends more than docket ever does: is this its address?", resp.Request.URL.Host)
	}
	if err != nil {
		return nil, fail(ExitUnavailable, "the answer broke off: %v", err)
	}
	return answer, nil
}

// answerTo makes a request within ctx, for a caller who may interrupt it, and returns the answer, whatever its status.
func answerTo(
	ctx, caller context.Context, method, u string, who Identity, body []byte, encoding string,
) (*http.Response, error) {
	if parsed, err := url.Parse(u); err != nil || parsed.Host == "" ||
		(parsed.Scheme != "http" && parsed.Scheme != "https") {
		return nil, fail(ExitUsage, "%q is not the URL of a docket, such as http://127.0.0.1:8081", u)
	}
	req, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(body))
	if err != nil {
		return nil, fail(ExitUsage, "%q is not the URL of a docket: %v", u, err)
	}
	if method == http.MethodGet {
		req.Header.Set("Cache-Control", "no-cache") // statistics of this moment
	}
	if encoding != "" {
		req.Header.Set("Content-Encoding", encoding)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	client, err := who.show(req)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil && caller.Err() != nil {
		return nil, fail(ExitFailed, "interrupted")
	}
	if err != nil {
		return nil, fail(
			ExitUnavailable,
			"docket does not answer: %v\n%s", err, whyNot(err),
		)
	}
	return resp, nil
}

func exitOfStatus(status int) int {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return ExitRefused
	case http.StatusNotFound:
		return ExitNotFound
	case http.StatusBadRequest:
		return ExitUsage
	case http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusGatewayTimeout:
		return ExitUnavailable
	default:
		return ExitFailed
	}
}

// refusal reads the problem in an answer. Its class, where it has one, knows more than the status.
func refusal(resp *http.Response, answer []byte) error {
	var p struct {
		Title, Detail string
		Class         domain.Class
	}
	asked, code := resp.Request.URL, exitOfStatus(resp.StatusCode)
	switch {
	case json.Unmarshal(answer, &p) != nil || p.Title == "":
		if code == ExitNotFound { // by whom?
			code = ExitUsage
		}
		return fail(code, "%s answered %s, which is not docket's way: is this its address?", asked.Host, resp.Status)
	case strings.HasPrefix(p.Detail, noRoute):
		return fail(
			ExitUsage, "%s is another listener of docket's, or another version of it: %s. Look at --server and --upload-server",
			asked.Host, p.Detail,
		)
	case p.Class != "":
		code = exitOf(p.Class)
	}
	wait, _ := strconv.Atoi(resp.Header.Get("Retry-After")) // seconds, or a date, which docket does not send
	return &Failure{
		Code: code, Status: resp.StatusCode, RetryAfter: time.Duration(wait) * time.Second,
		Err: errors.New(cmp.Or(p.Detail, p.Title) + hint(resp, p.Class)),
	}
}

// hint says what to do about a refusal that does not say it itself.
func hint(resp *http.Response, class domain.Class) string {
	switch {
	case resp.StatusCode == http.StatusUnauthorized && resp.Request.Header.Get("Authorization") == "":
		return "\nGive the token with --token-file FILE, or DOCKET_TOKEN_FILE."
	case class == domain.Unavailable && strings.HasPrefix(resp.Request.URL.Path, "/api/"):
		return "\nNothing is lost: what was uploaded stays in the log until the store is back. docket status tells more."
	}
	return ""
}

// read decodes an answer.
func read[T any](body []byte) (v T, err error) {
	if err := json.Unmarshal(body, &v); err != nil {
		return v, fail(ExitFailed, "the answer is not docket's: %w", err)
	}
	return v, nil
}

// printAnswer prints what docket has answered: as a table, which only print can make, or as JSON.
func printAnswer[T any](out Out, body []byte, output string, print func(io.Writer, T) error) error {
	if output != "table" {
		return printJSON(out.Stdout, json.RawMessage(body), output)
	}
	v, err := read[T](body)
	if err != nil {
		return err
	}
	return print(out.Stdout, v)
}

// show asks for one thing and prints it: as a table, which only print can make, as JSON, or raw, which are the exact
// bytes, so that their hash can be compared.
func show[T any](
	ctx context.Context, s Console, out Out, path, output string, print func(io.Writer, T) error,
) error {
	if output == "raw" {
		path += "/raw"
	}
	body, err := s.get(ctx, path, nil)
	if err != nil {
		return err
	}
	if output == "raw" {
		_, err = out.Raw.Write(body)
		return err
	}
	return printAnswer(out, body, output, print)
}

// post asks the console listener to do something.
func (s Console) post(ctx context.Context, path string, body []byte) ([]byte, error) {
	return do(ctx, http.MethodPost, urlOf(s.Server, path), s.Identity, body, "")
}

// remove asks the console listener to delete something.
func (s Console) remove(ctx context.Context, path string) ([]byte, error) {
	return do(ctx, http.MethodDelete, urlOf(s.Server, path), s.Identity, nil, "")
}
