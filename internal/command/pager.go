package command

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
)

// pager holds output back until it is more than a screen, and then gives it to the person's pager.
type pager struct {
	out    io.Writer
	args   []string
	height int
	held   bytes.Buffer
	lines  int
	run    *exec.Cmd
	in     io.WriteCloser
	gone   bool // the person has left it
}

// pagerOf is the person's: $PAGER, or less; nil for one who wants none.
func pagerOf(out io.Writer, height int) *pager {
	name, set := os.LookupEnv("PAGER")
	args := strings.Fields(cmp.Or(name, "less"))
	if set && name == "" || len(args) == 0 || args[0] == "cat" || height < 2 {
		return nil
	}
	return &pager{out: out, args: args, height: height}
}

// Write implements io.Writer.
func (p *pager) Write(b []byte) (int, error) {
	switch {
	case p.gone:
		return len(b), nil
	case p.in != nil:
		if _, err := p.in.Write(b); err != nil {
			p.gone = true
		}
		return len(b), nil
	}
	p.lines += bytes.Count(b, []byte("\n"))
	p.held.Write(b)
	if p.lines >= p.height {
		return len(b), p.start()
	}
	return len(b), nil
}

// start gives what was held back to the pager. Without one it goes to the screen.
func (p *pager) start() error {
	run := exec.Command(p.args[0], p.args[1:]...) //nolint:gosec,noctx // the person chose it, and ends it
	run.Stdout, run.Stderr = p.out, os.Stderr
	if os.Getenv("LESS") == "" {
		run.Env = append(os.Environ(), "LESS=FRX") // colours, and the screen stays
	}
	in, err := run.StdinPipe()
	if err == nil {
		err = run.Start()
	}
	if err != nil {
		p.height = 1 << 30
		_, err := p.out.Write(p.held.Bytes())
		p.held.Reset()
		p.in = nopCloser{p.out}
		return err
	}
	p.run, p.in = run, in
	if _, err := p.in.Write(p.held.Bytes()); err != nil {
		p.gone = true
	}
	p.held.Reset()
	return nil
}

// Close waits until the person has read.
func (p *pager) Close() error {
	if p.in == nil {
		_, err := p.out.Write(p.held.Bytes())
		return err
	}
	err := p.in.Close()
	if p.run != nil {
		_ = p.run.Wait() // how it ended is between the person and the pager
	}
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

type nopCloser struct{ io.Writer }

// Close does nothing.
func (nopCloser) Close() error { return nil }

// paged are the commands whose output people read.
var paged = []string{
	"find", "show", "stats", "trail", "audit", "opas", "help", "mapping test", "dlq list", "dlq groups", "dlq show",
	"dlq guard show", "jobs list",
}

// isPaged reports that a command's output goes through a pager.
func isPaged(command string) bool {
	for _, name := range paged {
		if command == name || strings.HasPrefix(command, name+" ") {
			return true
		}
	}
	return false
}
