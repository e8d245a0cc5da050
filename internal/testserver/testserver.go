// Package testserver starts the real servers that tests and benchmarks need, on loopback and on free ports: PostgreSQL,
// PgBouncer and Apache Kafka; and an issuer of tokens and an authority of certificates, which sign real ones. It owns
// their processes and directories until Close. The product does not import it.
package testserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// ErrMissing says that a server is not installed here.
var ErrMissing = errors.New("is not installed")

// Need skips a test on a machine without the server, and fails it in CI, where nothing may be skipped.
func Need(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, ErrMissing) && os.Getenv("CI") == "":
		t.Skip(err)
	default:
		t.Fatal(err)
	}
}

// FreePort finds a port below those that the kernel gives to outgoing connections: a server that is stopped and started
// again has to find its port free. It gives each port once, for whoever asked may not listen there yet.
func FreePort() (int, error) {
	var err error
	for range 1000 {
		port := 10_000 + rand.IntN(22_000)
		if _, given := ports.LoadOrStore(port, true); given {
			continue
		}
		var l net.Listener
		if l, err = new(net.ListenConfig).Listen(context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("no free port: %w", err)
}

// ports are those that were given.
var ports sync.Map

// FreeAddr is such a port's address.
func FreeAddr() (string, error) {
	port, err := FreePort()
	return fmt.Sprintf("127.0.0.1:%d", port), err
}

// server is a Process that may be stopped and started again, and that logs to a file.
type server struct {
	*Process
	log string
}

// start runs a program whose output goes to logFile. As names the account it runs under; "" is ours.
func start(name, as, dir, logFile, program string, args ...string) (*server, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own
	cmd := exec.CommandContext(context.Background(), program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	if cmd.SysProcAttr, err = account(as); err != nil {
		return nil, err
	}
	p, err := launch(name, cmd)
	if err != nil {
		return nil, err
	}
	return &server{p, logFile}, nil
}

// account makes a child run under another account, which only root can.
func account(as string) (*syscall.SysProcAttr, error) {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if as == "" || os.Geteuid() != 0 {
		return attr, nil
	}
	u, err := user.Lookup(as)
	if err != nil {
		return nil, fmt.Errorf("the account %s %w: %w", as, ErrMissing, err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return attr, nil
}

// give hands a directory to an account.
func give(dir, as string) error {
	attr, err := account(as)
	if err != nil || attr.Credential == nil {
		return err
	}
	return os.Chown(dir, int(attr.Credential.Uid), int(attr.Credential.Gid))
}

// end sends a signal and waits for the process to end.
func (s *server) end(sig syscall.Signal, patience time.Duration) error {
	if s == nil {
		return nil
	}
	select {
	case <-s.done:
		return nil
	default:
	}
	s.signalAll(syscall.SIGCONT) // a stopped process does not end
	if err := s.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if s.Within(patience) {
		return nil
	}
	_ = s.Signal(syscall.SIGKILL)
	<-s.done
	return fmt.Errorf("%s did not end after %s within %s, and was killed", s.name, sig, patience)
}

// processes are the process and its children, each of which may lead a session of its own.
func (p *Process) processes() []int {
	pid := p.Pid()
	all := []int{pid}
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for child := range strings.FieldsSeq(string(children)) {
		if n, err := strconv.Atoi(child); err == nil {
			all = append(all, n)
		}
	}
	return all
}

// signalAll signals the process and its children.
func (p *Process) signalAll(sig syscall.Signal) {
	_ = p.Signal(sig)
	for _, pid := range p.processes()[1:] {
		_ = syscall.Kill(pid, sig)
	}
}

// pause stops every process of the server and waits until each thread of them has stopped: the kernel lets a thread
// that runs go on for a while after the signal was sent, and a broker still answers then. When it cannot, the server
// runs on.
func (s *server) pause() error {
	deadline := time.Now().Add(10 * time.Second)
	for stopped := 0; stopped < 2; { // twice: a child that was being forked is not listed the first time
		s.signalAll(syscall.SIGSTOP)
		running := s.running()
		if len(running) == 0 {
			stopped++
			continue
		}
		stopped = 0
		if time.Now().After(deadline) {
			s.signalAll(syscall.SIGCONT)
			return fmt.Errorf("%s did not stop within 10 s of SIGSTOP: these threads run on: %v", s.name, running)
		}
		time.Sleep(time.Millisecond)
	}
	select {
	case <-s.done:
		return fmt.Errorf("%s has ended, and cannot be paused; see %s", s.name, s.log)
	default:
		return nil
	}
}

// running are the server's threads that have not been stopped, as "pid/thread".
func (s *server) running() []string {
	var running []string
	for _, pid := range s.processes() {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, thread := range threads {
			stat, err := os.ReadFile(thread)
			if err != nil {
				continue // it has ended
			}
			// proc_pid_stat(5): the state follows the name, which is in parentheses and may hold any character.
			_, state, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')'):]), " ")
			if !strings.ContainsAny(state[:1], "TtZX") {
				running = append(running, fmt.Sprintf("%d/%s", pid, filepath.Base(filepath.Dir(thread))))
			}
		}
	}
	return running
}

// waitFor repeats try until it succeeds or the server has ended.
func (s *server) waitFor(patience time.Duration, try func() error) error {
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if err = try(); err == nil {
			return nil
		}
		select {
		case <-s.done:
			return fmt.Errorf("%s ended while starting; see %s", s.name, s.log)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s did not start within %s: %w; see %s", s.name, patience, err, s.log)
}

// root is the repository's directory.
var root = sync.OnceValue(func() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
})
