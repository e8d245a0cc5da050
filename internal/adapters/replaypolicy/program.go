// Package replaypolicy has stored decisions decided again by a policy: it starts the process that does it, feeds it,
// and gathers what comes out otherwise. It owns how the two speak to each other, and what is told about a policy
// that took too much. It leaves deciding to that process, which is package rego in `docket replay-policy`: OPA's
// library, and what a policy may do to the memory, stay out of whatever asks.
package replaypolicy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/domain"
)

// MaxLine is longer than any line that the two sides exchange, and any of an export, in bytes: an event of 64 MiB, at
// most, and its columns.
const MaxLine = 80 << 20

// Order is the first line that the process reads; decisions follow as an export has them.
type Order struct {
	// Policy is the path of a directory, a file of Rego, or a bundle. Without one, Text is Rego or a bundle.
	Policy string `json:"policy,omitempty"`
	Text   []byte `json:"text,omitempty"`
	// Mappings are those that make outcomes of results.
	Mappings []domain.Mapping `json:"mappings"`
}

// Line is what the process answers: a decision, or what is wrong with the policy, which ends it.
type Line struct {
	*api.Replayed
	Fault string `json:"fault,omitempty"`
}

// Decider is the process's part: it reads an order and decisions, and writes lines. Programs without OPA's library have
// none.
type Decider func(ctx context.Context, in io.Reader, out io.Writer) error

// Program is what decides.
type Program struct {
	// Path is docket's own; "" is that this program cannot decide.
	Path     string
	Mappings []domain.Mapping
}

// ErrNoDecider is a program without OPA's library.
var ErrNoDecider = errors.New("this program cannot decide by a policy, because OPA is not in it: use docket itself")

// FaultError is what is wrong with a policy: it does not compile, or takes more than it may.
type FaultError struct{ Text string }

// Error says it.
func (e *FaultError) Error() string { return "the policy: " + e.Text }

// Decide has the process decide what feed writes, by the policy of an order, and visits its answers in their order.
// feed ends when nobody reads any more. The process has nothing of this one's environment.
func (p Program) Decide(
	ctx context.Context, order Order, feed func(context.Context, io.Writer) error, visit func(*api.Replayed) error,
) error {
	if p.Path == "" {
		return ErrNoDecider
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	cmd := exec.CommandContext(running, p.Path, "replay-policy", "--stdin")
	cmd.Env = []string{"GOTRACEBACK=none"}
	apart(cmd)
	var complaint beginning
	cmd.Stderr = &complaint
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	answers, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the process that decides: %w", err)
	}
	fed := make(chan error, 1)
	go func() {
		order.Mappings = p.Mappings
		err := Feed(in, append(api.Marshal(order), '\n'))
		if err == nil {
			err = feed(running, in)
		}
		_ = in.Close() // it may have ended before
		fed <- err
	}()
	readErr := eachLine(answers, visit)
	if readErr != nil {
		stop()
	}
	ended := cmd.Wait()
	stop()
	feedErr := <-fed
	switch {
	case readErr != nil:
		return readErr
	case ctx.Err() != nil:
		return ctx.Err()
	case feedErr != nil && !errors.Is(feedErr, errNobodyReads):
		return feedErr
	case ended != nil:
		return fate(ended, complaint.String())
	}
	return nil
}

// errNobodyReads is how a feed ends where the process has ended, which says itself why.
var errNobodyReads = errors.New("the process that decides has ended")

// Feed writes a line, for those who feed the process.
func Feed(to io.Writer, line []byte) error {
	if _, err := to.Write(line); err != nil {
		return errNobodyReads
	}
	return nil
}

func eachLine(answers io.Reader, visit func(*api.Replayed) error) error {
	lines := bufio.NewScanner(answers)
	lines.Buffer(make([]byte, 0, 64<<10), MaxLine)
	for lines.Scan() {
		line := Line{Replayed: new(api.Replayed)}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return fmt.Errorf("the process that decides answers what is no answer: %w", err)
		}
		if line.Fault != "" {
			return &FaultError{line.Fault}
		}
		if err := visit(line.Replayed); err != nil {
			return err
		}
	}
	return lines.Err()
}

// fate says why the process ended early. Go's own last words tell of memory that it did not get.
func fate(ended error, complaint string) error {
	for _, sign := range []string{"out of memory", "cannot allocate memory", "stack exceeds"} {
		if strings.Contains(complaint, sign) {
			return &FaultError{"it takes more memory than a replay has, which is 1 GiB"}
		}
	}
	if ended.Error() == "signal: killed" {
		return errors.New("somebody killed the process that decides; where memory is short, that is the kernel")
	}
	return fmt.Errorf("the process that decides ended early: %w: %s", ended, strings.TrimSpace(complaint))
}

// beginning keeps that of what a process complains about.
type beginning struct{ bytes.Buffer }

// Write keeps what there is room for.
func (t *beginning) Write(b []byte) (int, error) {
	const most = 4 << 10
	t.Buffer.Write(b[:min(len(b), max(0, most-t.Len()))])
	return len(b), nil
}
