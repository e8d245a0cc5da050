package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// timeline is what happened, as a postmortem tells it.
type timeline struct {
	t     *testing.T
	began time.Time
}

func (l *timeline) note(format string, args ...any) {
	l.t.Helper()
	l.t.Logf("T+%s %s", time.Since(l.began).Round(time.Second), fmt.Sprintf(format, args...))
}

// operate runs one of the operator's commands.
func (c *cluster) operate(t *testing.T, code int, args ...string) string {
	t.Helper()
	out, got := c.command(t, args...)
	require.Equal(t, code, got, "docket %s: %s", strings.Join(args, " "), out)
	return out
}

type deadGroup struct {
	Fingerprint, Sample, Class, Code string
	Open, Stored                     int64
}

func (c *cluster) groups(t *testing.T, query string) []deadGroup {
	t.Helper()
	var answer struct{ Items []deadGroup }
	require.Equal(t, 200, c.getJSON(t, "/api/v1/dead-letters/groups?"+query, &answer))
	return answer.Items
}

// TestDrillDeadLetters has somebody add a constraint in the middle of the day, and somebody else on call: under load,
// with the commands of docket help replay, and with the parking role killed in the middle of the replay.
func TestDrillDeadLetters(t *testing.T) {
	c := oneBroker(t)
	log := timeline{t, time.Now()}
	d := c.drill(t, "a check constraint rejects 0.8 % of the rows; replay with kill -9", 250, decisions(shortName(), 8))
	const add, drop = `ALTER TABLE decisions ADD CONSTRAINT people CHECK (principal IS DISTINCT FROM 'mallory') NOT VALID`,
		`ALTER TABLE decisions DROP CONSTRAINT people`
	exec := func(sql string) { require.NoError(t, c.servers.postgres.Exec(c.database, sql)) }
	d.inject(func() func() {
		log.began = time.Now()
		exec(add)
		log.note("the constraint is added")
		return nothing
	})
	eventually(t, time.Minute, func() error {
		n, err := c.roles["console"].metric("docket_dead_letters_open")
		if err == nil && n == 0 {
			err = fmt.Errorf("no dead letter is open yet")
		}
		return err
	})
	log.note("docket_dead_letters_open is above 0: the page")
	eventually(t, time.Minute, func() error {
		if groups := c.groups(t, "state=open"); len(groups) != 1 || groups[0].Open < 60 {
			return fmt.Errorf("the groups are %v", groups)
		}
		return nil
	})
	g := c.groups(t, "state=open")[0]
	require.Equal(t, "invalid 23514", g.Class+" "+g.Code)
	out := c.operate(t, 0, "dlq", "groups")
	require.Contains(t, out, `violates check constraint "people"`)
	require.Contains(t, out, "runbook.md#rejected")
	require.Contains(t, c.operate(t, 0, "dlq", "show", g.Sample), `"mallory"`)
	log.note("docket dlq groups: one group, %d open", g.Open)
	out = c.operate(t, 1, "dlq", "replay", "--fingerprint", g.Fingerprint)
	require.Contains(t, out, "do not replay them yet")
	out = c.operate(t, 1, "dlq", "replay", "--fingerprint", g.Fingerprint, "--yes", "--comment", "in a hurry")
	require.Contains(t, out, "--anyway")
	log.note("the dry run: do not replay them yet")
	// At most 50: a job that has more to send stops itself after 100 failures and stays open.
	out, code := c.command(
		t, "dlq", "replay", "--fingerprint", g.Fingerprint, "--yes", "--comment", "a try in spite of that", "--max", "50",
		"--anyway",
	)
	require.Equal(t, 1, code, out)
	require.Contains(t, out, "failed again")
	log.note("a replay in spite of that: everything came back")

	exec(drop)
	log.note("the constraint is dropped")
	d.heal()
	log.note("docket is healthy")
	out = c.operate(t, 0, "dlq", "replay", "--fingerprint", g.Fingerprint)
	require.Contains(t, out, "safe to replay")
	log.note("the dry run: safe to replay")
	open := c.groups(t, "state=open")[0].Open
	out = c.operate(
		t, 0, "dlq", "replay", "--fingerprint", g.Fingerprint, "--yes", "--comment", "constraint dropped", "--rate", "15",
		"--detach", "-o", "json",
	)
	var job struct {
		ID, State     string
		Done, Matched int64
	}
	require.NoError(t, json.Unmarshal([]byte(out), &job))
	path := "/api/v1/jobs/" + job.ID
	eventually(t, time.Minute, func() error {
		if c.getJSON(t, path, &job); job.Done < job.Matched/4 {
			return fmt.Errorf("job %+v", job)
		}
		return nil
	})
	out = c.operate(t, 1, "dlq", "replay", "--fingerprint", g.Fingerprint, "--yes", "--comment", "somebody else's")
	require.Contains(t, out, "job "+job.ID+" does the same")
	c.kill9("parking")
	log.note("the replay at 15/s, at %d of %d: kill -9 of the parking role", job.Done, job.Matched)
	out = c.operate(t, 0, "jobs", "show", job.ID)
	require.Contains(t, out, "0 failed again")
	log.note("the replay is done")
	require.Empty(t, c.groups(t, "state=open"))
	stored := c.groups(t, "state=stored")
	require.Len(t, stored, 1)
	require.Equal(t, open, stored[0].Stored)
	out = c.operate(t, 0, "audit")
	for _, action := range []string{"replay.create", "replay.done", "constraint dropped"} {
		require.Contains(t, out, action)
	}
	require.Contains(t, c.operate(t, 0, "trail", "--opa", "opa-1", idOfDead(t, c, g.Sample)), "STORED")
	require.Contains(t, c.operate(t, 4, "trail", "never-sent"), "NOT FOUND")
	log.note("docket audit and docket trail agree")
	d.verify(time.Minute, 0)
	log.note("every acknowledged decision is a row; %d were late by the replay", open)

	c.without(t, func() {
		for _, args := range [][]string{{"dlq", "replay", "--yes", "--comment", "x"}, {"dlq", "groups"}, {"audit"}, {"trail",
			"never-sent"}} {
			out, code := c.command(t, args...)
			require.Equal(t, 3, code, "docket %s while PostgreSQL is away: %s", strings.Join(args, " "), out)
		}
	})
}

func idOfDead(t *testing.T, c *cluster, sample string) string {
	t.Helper()
	var l struct {
		DecisionID string `json:"decision_id"`
	}
	require.Equal(t, 200, c.getJSON(t, "/api/v1/dead-letters/"+sample, &l))
	return l.DecisionID
}

// TestCompletion is what a shell asks when somebody presses tab.
func TestCompletion(t *testing.T) {
	need(t, docketBinary)
	p := start(t, []string{"COMP_LINE=docket dlq re", "COMP_POINT=13"}, docketBinary)
	require.Zero(t, p.wait(t, 10*time.Second))
	require.ElementsMatch(t, []string{"replay", "reindex"}, strings.Fields(p.out.String()))
}
