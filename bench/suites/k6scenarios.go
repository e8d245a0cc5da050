package suites

import (
	"fmt"
	"time"

	"github.com/docket-project/docket/bench/report"
	"github.com/docket-project/docket/bench/stack"
)

// k6Scenario is what make load runs under a name.
type k6Scenario struct {
	title, about string
	cases        []k6Case
	verdicts     func([]*k6Figures) []report.Verdict
	tables       func([]*k6Figures) []report.Table
}

// warmSynchronous is the other service's share of warmUploads: it has no broker whose bytecode is to be compiled.
const warmSynchronous = 50_000

func k6Scenarios(rate int, soak time.Duration, users int) map[string]k6Scenario {
	if soak == 0 {
		soak = 30 * time.Minute
	}
	steady := map[string]string{"RATE": fmt.Sprint(rate)}
	none := func([]*k6Figures) []report.Table { return nil }
	reference := func(service, condition string, delay time.Duration) k6Case {
		c := k6Case{
			service: service, condition: condition, script: "ingest.js", env: steady, length: time.Minute, delay: delay,
			warm: warmUploads,
		}
		if service == stack.Synchronous {
			c.warm = warmSynchronous
		}
		return c
	}
	outage := func(service, condition string, from, to float64) k6Case {
		c := reference(service, condition, 0)
		c.script, c.away = "outage.js", &[2]float64{from, to}
		return c
	}
	stress := make([]int64, 0, stressSteps)
	for i := range int64(stressSteps) {
		stress = append(stress, int64(rate)/2*(i+1))
	}
	return map[string]k6Scenario{
		"smoke": {
			title: "Smoke",
			about: "Twenty uploads a second for ten seconds.",
			cases: []k6Case{
				{service: "docket", condition: "database as it is", script: "smoke.js", length: 10 * time.Second, warm: 100},
			},
			verdicts: func(f []*k6Figures) []report.Verdict {
				return []report.Verdict{
					zero("dropped uploads", f[0].Dropped), zero("refused and failed uploads", f[0].Refused+f[0].Failed),
					stored(f[0]),
				}
			},
			tables: none,
		},
		"reference": {
			title: "The reference scenario",
			about: fmt.Sprintf(
				"k6 sends %s uploads a second for 60 s at a constant rate of arrivals, gzip, 1 to 5 decisions each, none of them "+
					"twice; to docket and to a synchronous service that inserts before it answers, with the database on the same "+
					"machine and 2 ms away.",
				n(int64(rate)),
			),
			cases: []k6Case{
				reference(stack.Synchronous, "database as it is", 0),
				reference("docket", "database as it is", 0),
				reference(stack.Synchronous, "database 2 ms away", 2*time.Millisecond),
				reference("docket", "database 2 ms away", 2*time.Millisecond),
			},
			verdicts: func(f []*k6Figures) (out []report.Verdict) {
				for _, i := range []int{1, 3} {
					out = append(
						out,
						named(
							f[i].Condition, zero("dropped uploads", f[i].Dropped),
							zero("refused and failed uploads", f[i].Refused+f[i].Failed), atMost("p95", 6, f[i].P95), stored(f[i]),
						)...)
				}
				return out
			},
			tables: none,
		},
		"outage": {
			title: "The reference scenario while the database is away",
			about: "The reference scenario with the database, without it for the middle third of the minute, and without it " +
				"from before k6 begins until after it has ended; then it comes back, and everything has to be stored.",
			cases: []k6Case{
				reference("docket", "database as it is", 0),
				outage("docket", "database away for the middle third", 1.0/3, 2.0/3),
				outage("docket", "database away for the whole run", 0, 1),
				outage(stack.Synchronous, "database away for the middle third", 1.0/3, 2.0/3),
			},
			verdicts: func(f []*k6Figures) (out []report.Verdict) {
				for _, i := range []int{1, 2} {
					out = append(
						out,
						named(
							f[i].Condition,
							zero("dropped uploads", f[i].Dropped),
							zero("refused and failed uploads", f[i].Refused+f[i].Failed),
							atMost(fmt.Sprintf("p95 while it is away (%.1f ms with it)", f[0].P95), outageLimit(f), f[i].AwayP95),
							stored(f[i]),
							zero("dead letters", int64(f[i].DeadLetters)),
						)...)
				}
				return out
			},
			tables: none,
		},
		"spike": {
			title: "A spike",
			about: fmt.Sprintf(
				"150 users, %s within 30 s, who stay for 15 s and leave within 5 s. A user uploads about once a second and keeps "+
					"its connection. All of them, docket and its servers share two cores.",
				n(int64(users)),
			),
			cases: []k6Case{
				{
					service:   "docket",
					condition: "database as it is",
					script:    "spike.js",
					env:       map[string]string{"USERS": fmt.Sprint(users)},
					length:    110 * time.Second,
					warm:      warmUploads,
				},
			},
			verdicts: func(f []*k6Figures) []report.Verdict {
				after := f[0].metrics["http_req_duration{phase:after}"]
				return []report.Verdict{
					zero(
						"acknowledged decisions lost",
						int64(f[0].Lost),
					),
					zero("uploads that failed otherwise than by a clean 503 or 429", f[0].Failed),
					atMost("p95 from 10 s after the spike's end on", 50, after["p(95)"]),
					zero("refused from then on", int64(f[0].metrics["uploads_refused{phase:after}"]["count"])),
					stored(f[0]),
					{
						What:     "users that were there at once",
						Asked:    n(int64(users)),
						Measured: n(int64(f[0].metrics["vus"]["max"])),
						Met:      f[0].metrics["vus"]["max"] >= float64(users),
					},
				}
			},
			tables: func(f []*k6Figures) []report.Table {
				t := report.Table{
					Title:   "Latency by phase, ms",
					Columns: []string{"phase", "average", "p50", "p90", "p95", "p99", "max"},
				}
				for _, phase := range []string{"before", "storm", "after"} {
					m := f[0].metrics["http_req_duration{phase:"+phase+"}"]
					t.Rows = append(
						t.Rows,
						[]string{
							phase,
							millis(m["avg"]),
							millis(m["med"]),
							millis(m["p(90)"]),
							millis(m["p(95)"]),
							millis(m["p(99)"]),
							millis(m["max"]),
						},
					)
				}
				return []report.Table{t}
			},
		},
		"stress": {
			title: "Stress",
			about: fmt.Sprintf(
				"Steps of 20 s, each %s uploads a second faster than the one before, until one drops uploads or has a p95 of 50 "+
					"ms or more. The last one before that is the knee: of k6, docket and its servers together, which share the "+
					"machine.",
				n(int64(rate)/2),
			),
			cases: []k6Case{
				{
					service:   "docket",
					condition: "database as it is",
					script:    "stress.js",
					length:    stressSteps * (stressSeconds + 11) * time.Second,
					warm:      warmUploads,
					env: map[string]string{
						"FIRST":   fmt.Sprint(rate / 2),
						"STEP":    fmt.Sprint(rate / 2),
						"STEPS":   fmt.Sprint(stressSteps),
						"SECONDS": fmt.Sprint(stressSeconds),
					},
				},
			},
			verdicts: func(f []*k6Figures) []report.Verdict {
				return []report.Verdict{
					zero("acknowledged decisions lost", int64(f[0].Lost)),
					zero("uploads that failed otherwise than by a clean 503 or 429", f[0].Failed), stored(f[0]),
				}
			},
			tables: func(f []*k6Figures) []report.Table {
				t := report.Table{
					Title:   "Steps",
					Columns: []string{"uploads/s asked for", "accepted/s", "dropped", "p50 ms", "p95 ms", "p99 ms", ""},
				}
				knee := ""
				for i, rate := range stress {
					name := fmt.Sprintf("{scenario:at_%d}", rate)
					latency := f[0].metrics["http_req_duration"+name]
					dropped := int64(f[0].metrics["dropped_iterations"+name]["count"])
					accepted := f[0].metrics["uploads_accepted"+name]["count"]
					if accepted == 0 {
						break // the run ended before
					}
					t.Rows = append(t.Rows, []string{n(rate), fmt.Sprintf("%.0f", accepted/stressSeconds), n(dropped),
						millis(latency["med"]), millis(latency["p(95)"]), millis(latency["p(99)"]), ""})
					if dropped == 0 && latency["p(95)"] < 50 && (i == 0 || knee == n(stress[i-1])) {
						knee = n(rate)
					}
				}
				for i := range t.Rows {
					if t.Rows[i][0] == knee {
						t.Rows[i][6] = "the knee"
					}
				}
				return []report.Table{t}
			},
		},
		"soak": {
			title: "Soak",
			about: fmt.Sprintf("%s uploads a second for %s.", n(int64(rate)), soak),
			cases: []k6Case{
				{
					service:   "docket",
					condition: "database as it is",
					script:    "soak.js",
					env:       map[string]string{"RATE": fmt.Sprint(rate), "DURATION": soak.String()},
					length:    soak,
					warm:      10_000,
				},
			},
			verdicts: func(f []*k6Figures) (out []report.Verdict) {
				out = []report.Verdict{
					zero("dropped uploads", f[0].Dropped), zero("refused and failed uploads", f[0].Refused+f[0].Failed),
					stored(f[0]),
				}
				for _, role := range []string{"ingest", "saver", "parking"} {
					slope := f[0].Slopes[role]
					out = append(
						out,
						report.Verdict{
							What: "memory of " + role + ", rise over the second half", Asked: "within 2 %",
							Measured: fmt.Sprintf("%+.1f %%", slope), Met: slope <= 2,
						},
					)
				}
				for _, role := range []string{"ingest", "saver", "parking"} {
					out = append(out, atMostCount("goroutines of "+role, 1000, int64(f[0].Goroutines[role])))
				}
				return append(
					out,
					atMostCount("decisions that wait, at most (two seconds' worth)", int64(6*rate), int64(f[0].PeakWaiting)),
				)
			},
			tables: func(f []*k6Figures) []report.Table {
				t := report.Table{
					Title:   "Over the second half",
					Columns: []string{"role", "memory rose by", "heap in use rose by", "memory at most", "goroutines at most"},
				}
				for _, role := range []string{"ingest", "saver", "parking", "console"} {
					t.Rows = append(
						t.Rows,
						[]string{
							role,
							fmt.Sprintf("%+.1f %%", f[0].Slopes[role]),
							fmt.Sprintf("%+.1f %%", f[0].HeapSlopes[role]),
							fmt.Sprintf("%.0f MiB", f[0].Memory[role]),
							n(int64(f[0].Goroutines[role])),
						},
					)
				}
				return []report.Table{t}
			},
		},
	}
}

// stress.js is given these.
const (
	stressSteps   = 6
	stressSeconds = 20
)

func zero(what string, measured int64) report.Verdict { return atMostCount(what, 0, measured) }

func atMostCount(what string, asked, measured int64) report.Verdict {
	v := report.Verdict{What: what, Asked: n(asked), Measured: n(measured), Met: measured <= asked}
	if asked > 0 {
		v.Asked = "at most " + v.Asked
	}
	return v
}

func atMost(what string, asked, measured float64) report.Verdict {
	return report.Verdict{
		What: what, Asked: fmt.Sprintf("at most %.1f ms", asked), Measured: fmt.Sprintf("%.1f ms", measured),
		Met: measured > 0 && measured <= asked,
	}
}

// stored is whether everything that was acknowledged is stored, once, and nothing else but what was sent.
func stored(f *k6Figures) report.Verdict {
	return report.Verdict{
		What: "acknowledged decisions that are stored, each once", Asked: n(int64(f.Acked)),
		Measured: n(int64(f.Acked - f.Lost - f.Twice)), Met: f.Acked > 0 && f.Sound() == nil,
	}
}

// named puts a condition in front of what was measured under it.
func named(condition string, verdicts ...report.Verdict) []report.Verdict {
	for i := range verdicts {
		verdicts[i].What = condition + ": " + verdicts[i].What
	}
	return verdicts
}
