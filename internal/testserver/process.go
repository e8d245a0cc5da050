package testserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Process is a program that runs for a test or a benchmark. It leads a process group of its own, which a terminal's
// interrupt does not reach: KillAll ends it.
type Process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
}

// Launch starts a program, with vars besides this process's environment. What it prints goes to output, which may be
// nil.
func Launch(vars []string, output io.Writer, program string, args ...string) (*Process, error) {
	cmd := exec.CommandContext(context.Background(), program, args...)
	cmd.Env = append(os.Environ(), vars...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return launch(filepath.Base(program), cmd)
}

func launch(name string, cmd *exec.Cmd) (*Process, error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{name: name, cmd: cmd, done: make(chan struct{})}
	started.Lock()
	started.processes[p] = true
	started.Unlock()
	go func() {
		_ = cmd.Wait()
		started.Lock()
		delete(started.processes, p)
		started.Unlock()
		close(p.done)
	}()
	return p, nil
}

// started are the processes that run.
var started = struct {
	sync.Mutex
	processes map[*Process]bool
}{processes: map[*Process]bool{}}

// KillAll ends all processes at once, those too that are just being started: for a program that was interrupted. Their
// directories stay behind.
func KillAll() {
	started.Lock()
	defer started.Unlock()
	for p := range started.processes {
		_ = syscall.Kill(-p.Pid(), syscall.SIGKILL)
		p.signalAll(syscall.SIGKILL) // PostgreSQL's children lead sessions of their own
	}
}

// Pid is the process's id, which is also its group's.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed once the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// ExitCode is what the process ended with, or -1.
func (p *Process) ExitCode() int { return p.cmd.ProcessState.ExitCode() }

// Signal sends a signal to the process alone.
func (p *Process) Signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// Kill ends the process and its group at once, and waits until it has ended.
func (p *Process) Kill() {
	select {
	case <-p.done: // its number may be another's by now
		return
	default:
	}
	_ = syscall.Kill(-p.Pid(), syscall.SIGKILL)
	<-p.done
}

// Within waits for the process to end, and reports whether it did.
func (p *Process) Within(patience time.Duration) bool {
	select {
	case <-p.done:
		return true
	case <-time.After(patience):
		return false
	}
}

// Terminate asks the process to stop in good order. Its error says that it did not in time, and was killed, or that it
// could not do everything.
func (p *Process) Terminate(patience time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if !p.Within(patience) {
		p.Kill()
		return fmt.Errorf("%s did not stop within %s, and was killed", p.name, patience)
	}
	if code := p.ExitCode(); code != 0 {
		return fmt.Errorf("%s stopped with exit code %d", p.name, code)
	}
	return nil
}

// DocketOptions say how a process of docket runs.
type DocketOptions struct {
	// Binary is the program that has every role. Those with one role each are beside it.
	Binary string
	// Role is serve, or one role, and Admin the address of its admin listener.
	Role, Admin string
	// Vars are its environment besides this process's, and Under a program that runs it, such as strace.
	Vars, Under []string
	// Output takes what it prints; it may be nil.
	Output io.Writer
}

// Docket is one process of docket.
type Docket struct {
	*Process
	Role, Admin string
}

// LaunchDocket starts a process of docket. It does not wait until it is ready.
func LaunchDocket(o DocketOptions) (*Docket, error) {
	command := []string{filepath.Join(filepath.Dir(o.Binary), o.Role)}
	if o.Role == "serve" || o.Role == "console" { // which have no program of their own
		command = []string{o.Binary, o.Role}
	}
	command = append(append([]string{}, o.Under...), command...)
	p, err := Launch(append([]string{"DOCKET_ADMIN_LISTEN=" + o.Admin}, o.Vars...), o.Output, command[0], command[1:]...)
	if err != nil {
		return nil, err
	}
	return &Docket{Process: p, Role: o.Role, Admin: o.Admin}, nil
}

// WaitReady waits until the process with this admin listener is ready.
func WaitReady(admin string, patience time.Duration) error {
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = ready(admin); err == nil {
			return nil
		}
	}
	return fmt.Errorf("docket did not become ready within %s: %w", patience, err)
}

func ready(admin string) error {
	resp, err := http.Get("http://" + admin + "/readyz") //nolint:noctx // bounded by its caller
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		answer, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		return fmt.Errorf("%s: %s", resp.Status, answer)
	}
	return nil
}
