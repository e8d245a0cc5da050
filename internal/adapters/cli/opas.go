package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/domain"
)

// OPAs is `docket opas`.
type OPAs struct {
	Console `embed:""`
	Form    `embed:""`
	State   []string `help:"Only those that are live, silent or gone." enum:"live,silent,gone" sep:","`
	App     []string `help:"Only those of an application (labels.app)." sep:"none"`
	Limit   int      `help:"The most OPAs to print." default:"100"`
	All     bool     `help:"Also those that are gone: nothing was heard of them for a day."`
}

// Run lists OPAs by their application.
func (o *OPAs) Run(ctx context.Context, out Out) error {
	answer, err := o.get(ctx, "/api/v1/opas", nil)
	if err != nil {
		return err
	}
	list, err := read[api.Items[json.RawMessage]](answer)
	if err != nil {
		return err
	}
	var raw []json.RawMessage
	var all []api.OPA
	for _, item := range list.Items {
		p, err := read[api.OPA](item)
		if err != nil {
			return err
		}
		if o.wanted(p) {
			raw, all = append(raw, item), append(all, p)
		}
	}
	if o.Output != "table" {
		return printItems(out.Stdout, raw, o.Output)
	}
	if len(list.Items) == 0 {
		fmt.Fprintln(out.Stderr, "No OPA has uploaded anything yet: docket status tells more.")
		return nil
	}
	return o.print(out.Stdout, all, time.Now())
}

func (o *OPAs) wanted(p api.OPA) bool {
	return (len(o.State) == 0 || slices.Contains(o.State, string(p.State))) &&
		(len(o.App) == 0 || slices.Contains(o.App, string(p.App)))
}

// print prints one table for each application, what has to be looked at in front.
func (o *OPAs) print(w io.Writer, all []api.OPA, now time.Time) error {
	apps, left := map[string][]api.OPA{}, o.Limit
	for _, p := range all {
		apps[string(p.App)] = append(apps[string(p.App)], p)
	}
	rank := map[domain.OPAState]int{domain.OPASilent: 0, domain.OPALive: 1, domain.OPAGone: 2}
	for i, app := range slices.Sorted(maps.Keys(apps)) {
		own := apps[app]
		slices.SortStableFunc(own, func(a, b api.OPA) int { return cmp.Compare(rank[a.State], rank[b.State]) })
		counts := map[domain.OPAState]int{}
		for _, p := range own {
			counts[p.State]++
		}
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s: %d live, %d silent, %d gone\n", cmp.Or(printable(app), "without labels.app"),
			counts[domain.OPALive], counts[domain.OPASilent], counts[domain.OPAGone])
		if !o.All && !slices.Contains(o.State, string(domain.OPAGone)) {
			own = slices.DeleteFunc(own, func(p api.OPA) bool { return p.State == domain.OPAGone })
		}
		more := max(len(own)-left, 0)
		own = own[:len(own)-more]
		left -= len(own)
		if err := opaTable(w, own, now); err != nil {
			return err
		}
		if more > 0 {
			fmt.Fprintf(w, "  and %d more: choose by --app or --state, or raise --limit\n", more)
		}
	}
	return nil
}

func opaTable(w io.Writer, own []api.OPA, now time.Time) error {
	if len(own) == 0 {
		return nil
	}
	t := newTable(w, "  STATE", "OPA", "LAST", "EVERY", "EVENTS", "VERSION", "REVISION", "DROPPED", "TENANT")
	var notes []string
	for _, p := range own {
		every, dropped := "-", "-"
		if p.IntervalSeconds != nil {
			every = time.Duration(*p.IntervalSeconds * float64(time.Second)).Round(10 * time.Millisecond).String()
		}
		if p.Dropped != nil {
			dropped = strconv.FormatInt(*p.Dropped, 10)
		}
		last := p.LastUpload
		if p.StatusAt.After(last.Time) {
			last = p.StatusAt
		}
		var revisions []string
		for _, name := range slices.Sorted(maps.Keys(p.Revisions)) {
			revisions = append(revisions, name+" "+short(p.Revisions[name], 16))
		}
		name := cmp.Or(p.OPA, "(no labels.id)")
		t.row(
			"  "+string(p.State), name, ago(last, now), every, strconv.FormatInt(p.Events, 10), string(p.Version),
			strings.Join(revisions, ", "), dropped, p.Tenant,
		)
		for _, e := range append(slices.Clone(p.Errors), string(p.Hint)) {
			if e != "" {
				notes = append(notes, fmt.Sprintf("  %s: %s", printable(name), printable(e)))
			}
		}
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, n := range notes {
		fmt.Fprintln(w, n)
	}
	return nil
}
