// Command docket-bench measures docket under load and checks that everything that was acknowledged is stored. It writes
// tables, JSON and reports, sends to loopback only, and ends what it starts. The suites are package suites'.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/docket-project/docket/bench/events"
	"github.com/docket-project/docket/bench/stack"
	"github.com/docket-project/docket/bench/suites"
)

func main() {
	docket := flag.String("docket", "bin/docket", "the docket to measure")
	out := flag.String("out", "bench/out", "where results go")
	rate := flag.Int("rate", 1000, "uploads a second of the open loop")
	seconds := flag.Int("seconds", 30, "length of the open loop; the closed loop takes half of it")
	connections := flag.Int("connections", 64, "connections of the closed loop")
	soak := flag.Duration("soak", 0, "run only an open loop of this length, and watch memory")
	only := flag.String("only", "", "run only scenarios whose name contains this")
	times := flag.Int("times", 1, "how often the roles' scenarios are repeated")
	rows := flag.Int("rows", 1_000_000, "rows of the store or of the days that are searched, or dead letters")
	days := flag.Int("days", 1, "days that are searched")
	indexes := flag.Bool("indexes", false, "compare the store's choices of key and index")
	k6 := flag.String("k6", "e2e/.bin/k6", "the k6 that runs a scenario, which -only names")
	victoriaLogs := flag.String("victorialogs", "victoria-logs", "the VictoriaLogs that stands beside docket")
	users := flag.Int("users", 7000, "users of the spike")
	uploads := flag.Int64("uploads", 2_000_000, "uploads of the burst")
	backlog := flag.Int64("backlog", 30_000, "uploads of a backlog of savers")
	listen := flag.String("listen", "", "of baseline-serve")
	database := flag.String("database", "", "of baseline-serve")
	flag.Usage = func() {
		fmt.Fprintln(
			flag.CommandLine.Output(),
			"docket-bench [flags] embedded|store|search|pages|searched|stampede|replay-policy|victorialogs|roles|dead|slow|"+
				"baseline|k6|burst|savers|policies|hostile",
		)
		flag.PrintDefaults()
	}
	flag.Parse()
	stack.EndOnInterrupt()
	var err error
	switch suite := flag.Arg(0); suite {
	case "embedded", "":
		err = suites.EmbeddedSuite(*docket, *out, *only, *rate, *seconds, *connections, *soak)
	case "store":
		err = suites.StoreSuite(*rows, *only, *indexes, *out)
	case "search":
		err = suites.SearchSuite(*rows, *days, *out)
	case "pages":
		err = suites.PagesSuite(*docket, *rows, *days, *out)
	case "replay-policy":
		err = suites.ReplayPolicySuite(*docket, *rows, *out)
	case "stampede":
		err = suites.StampedeSuite(*rows, *seconds, *out)
	case "searched":
		err = suites.SearchedSuite(*docket, *out, *rate, *seconds, *times)
	case "policies":
		err = suites.PoliciesSuite(*docket, *out, *rate, *seconds, *connections, *times)
	case "hostile":
		err = suites.HostileSuite(*docket, *out, *only, *rate, *seconds, *connections, *times)
	case "victorialogs":
		err = suites.VictoriaLogsSuite(*victoriaLogs, *rows, *days, *out)
	case "roles":
		err = suites.RolesSuite(*docket, *out, *only, *rate, *seconds, *connections, *times, *soak)
	case "dead":
		err = suites.DeadSuite(*docket, *out, *rows)
	case "slow":
		err = suites.SlowSuite(*docket, *out, *connections)
	case "baseline":
		err = suites.BaselineSuite(*docket, *out, *rate, *seconds)
	case "k6":
		err = suites.K6Suite(*docket, *k6, suites.ScriptsOf(*docket), *out, *only, *rate, *soak, *users)
	case "burst":
		err = suites.BurstSuite(*docket, *k6, *out, *uploads, *connections)
	case "savers":
		err = suites.SaversSuite(*docket, *k6, *out, *backlog)
	case "k6-events":
		err = events.WriteParts(os.Stdout)
	case "baseline-serve":
		err = stack.ServeBaseline(*listen, *database)
	default:
		err = fmt.Errorf(
			"%s is no suite: embedded, store, search, searched, stampede, replay-policy, victorialogs, roles, dead, slow, "+
				"baseline, k6, burst, savers, policies or hostile",
			suite,
		)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "docket-bench:", err)
		os.Exit(1)
	}
}
