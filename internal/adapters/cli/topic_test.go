package cli

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// TestCauseTopics keeps what docket help says of causes the same as the runbook: -update copies it.
func TestCauseTopics(t *testing.T) {
	book, err := os.ReadFile("../../../docs/runbook.md")
	require.NoError(t, err)
	for _, cause := range domain.Causes {
		_, rest, found := strings.Cut(string(book), "\n### "+string(cause)+"\n")
		require.True(t, found, "docs/runbook.md has nothing about %s", cause)
		section, _, _ := strings.Cut(rest, "\n### ")
		section, _, _ = strings.Cut(section, "\n## ")
		want := string(cause) + "\n\n" + strings.TrimSpace(section) + "\n"
		name := "topics/cause-" + string(cause) + ".txt"
		if *update {
			require.NoError(t, os.WriteFile(name, []byte(want), 0o644))
		}
		got, err := os.ReadFile(name)
		require.NoError(t, err, "run with -update")
		require.Equal(t, want, string(got), "run with -update")
	}
	out, err := screen(func(o Out) error { return (&Topic{Name: "rejected"}).Run(o) })
	if err == nil { // the texts are embedded when the test is built
		require.True(t, strings.HasPrefix(out, "rejected\n"), out)
	}
	_, err = screen(func(o Out) error { return (&Topic{Name: "weather"}).Run(o) })
	require.Equal(t, ExitUsage, ExitCode(err))
	out, err = screen(func(o Out) error { return (&Topic{}).Run(o) })
	require.NoError(t, err)
	require.Contains(t, out, "bad_gzip")
}
