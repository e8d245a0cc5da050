package suites

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/prometheus/procfs"

	"github.com/docket-project/docket/bench/report"
	"github.com/docket-project/docket/bench/stack"
	"github.com/docket-project/docket/internal/testserver"
)

// describe is the machine, and the versions of all that runs on it.
func describe(docket, k6 string) ([]report.Fact, error) {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return nil, err
	}
	processors, err := fs.CPUInfo()
	if err != nil {
		return nil, err
	}
	memory, err := fs.Meminfo()
	if err != nil {
		return nil, err
	}
	facts := []report.Fact{
		{
			Name: "machine",
			Value: fmt.Sprintf(
				"%d cores of %s, %.0f GiB, which the load, the service and all servers share", runtime.NumCPU(),
				processors[0].ModelName, float64(*memory.MemTotal)/(1<<20),
			),
		},
	}
	for _, program := range []struct {
		name string
		args []string
	}{{"kernel", []string{"uname", "-sr"}}, {"docket", []string{docket, "version"}}, {"k6", []string{k6, "version"}},
		{"Java", []string{"java", "--version"}}} {
		out, err := exec.Command(program.args[0], program.args[1:]...).Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", program.args[0], err)
		}
		line, _, _ := strings.Cut(string(out), "\n")
		facts = append(
			facts,
			report.Fact{Name: program.name, Value: strings.TrimSpace(strings.TrimPrefix(line, program.name+" "))},
		)
	}
	kafka, err := testserver.KafkaVersion()
	if err != nil {
		return nil, err
	}
	postgres, err := testserver.PostgresVersion()
	if err != nil {
		return nil, err
	}
	return append(
		facts,
		report.Fact{Name: "Kafka", Value: kafka + ", a broker that is controller as well unless it says otherwise, -Xmx768m"},
		report.Fact{Name: "PostgreSQL", Value: postgres + ", " + strings.Join(stack.PostgresSettings, ", ")},
	), nil
}

// ScriptsOf is where k6's scripts are, seen from docket's binary, which is in bin.
func ScriptsOf(docket string) string { return filepath.Join(filepath.Dir(docket), "..", "k6") }
