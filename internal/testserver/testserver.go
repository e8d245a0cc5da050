// Package testserver starts the real servers that tests and benchmarks need, on loopback and on free ports: PostgreSQL,
// PgBouncer and Apache Kafka. It owns their processes and directories until Close. The product does not import it.
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

// server is one child process that may be stopped and started again.
type server struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
	log  *os.File
}

// start runs a program whose output goes to logFile. As names the account it runs under; "" is ours.
func start(name, as, dir, logFile, program string, args ...string) (*server, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	s := &server{
		name: name,
		cmd:  exec.CommandContext(context.Background(), program, args...),
		done: make(chan struct{}),
		log:  log,
	}
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = dir, log, log
	if s.cmd.SysProcAttr, err = account(as); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	if err := s.cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	started.Lock()
	started.servers[s] = true
	started.Unlock()
	go func() {
		_ = s.cmd.Wait()
		started.Lock()
		delete(started.servers, s)
		started.Unlock()
		_ = log.Close()
		close(s.done)
	}()
	return s, nil
}

// started are the servers that run.
var started = struct {
	sync.Mutex
	servers map[*server]bool
}{servers: map[*server]bool{}}

// KillAll ends all servers at once, those too that are just being started: for a program that was interrupted. Their
// directories stay behind. They lead process groups of their own, which a terminal's interrupt does not reach.
func KillAll() {
	started.Lock()
	defer started.Unlock()
	for s := range started.servers {
		s.signalAll(syscall.SIGKILL)
	}
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
	if err := s.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.done:
		return nil
	case <-time.After(patience):
		_ = s.cmd.Process.Kill()
		<-s.done
		return fmt.Errorf("%s did not end after %s within %s, and was killed", s.name, sig, patience)
	}
}

// processes are the process and its children, each of which may lead a session of its own.
func (s *server) processes() []int {
	pid := s.cmd.Process.Pid
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
func (s *server) signalAll(sig syscall.Signal) {
	_ = s.cmd.Process.Signal(sig)
	for _, pid := range s.processes()[1:] {
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
		return fmt.Errorf("%s has ended, and cannot be paused; see %s", s.name, s.log.Name())
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

// Pid is the server's process.
func (s *server) Pid() int { return s.cmd.Process.Pid }

// waitFor repeats try until it succeeds or the server has ended.
func (s *server) waitFor(patience time.Duration, try func() error) error {
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if err = try(); err == nil {
			return nil
		}
		select {
		case <-s.done:
			return fmt.Errorf("%s ended while starting; see %s", s.name, s.log.Name())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s did not start within %s: %w; see %s", s.name, patience, err, s.log.Name())
}

// root is the repository's directory.
var root = sync.OnceValue(func() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
})
