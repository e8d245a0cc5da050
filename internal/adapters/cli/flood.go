package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"
)

// Flood is `docket flood`.
type Flood struct {
	Show   FloodShow   `cmd:"" default:"withargs" help:"Tell which rows the store refused within ten minutes, and whether a flood is stopped."`
	Accept FloodAccept `cmd:"" help:"Let rows with a fingerprint be dead-lettered for 24 h: you have looked, and they are at fault."`
}

// FloodShow is `docket flood show`.
type FloodShow struct {
	Console
	Output string `short:"o" help:"How to print: table, json or ndjson." enum:"table,json,ndjson" default:"table"`
}

// FloodAccept is `docket flood accept`.
type FloodAccept struct {
	Console
	Output      string `short:"o" help:"How to print: table, json or ndjson." enum:"table,json,ndjson" default:"table"`
	Reason      string `help:"Why; it is kept." required:""`
	Fingerprint string `arg:"" help:"As docket flood prints it."`
}

type flood struct {
	Stopping bool  `json:"stopping"`
	Judged   int64 `json:"judged"`
	Blamed   int64 `json:"blamed"`
	Items    []struct {
		Fingerprint    string     `json:"fingerprint"`
		Class          string     `json:"class"`
		Code           string     `json:"code"`
		Error          string     `json:"error"`
		Path           string     `json:"path"`
		Rows           int64      `json:"rows"`
		AcceptedUntil  *time.Time `json:"accepted_until"`
		AcceptedBy     string     `json:"accepted_by"`
		AcceptedReason string     `json:"accepted_reason"`
	} `json:"items"`
}

// Run lists what the store refused.
func (f *FloodShow) Run(ctx context.Context, out Out) error {
	answer, err := f.get(ctx, "/api/v1/flood", nil)
	if err != nil {
		return err
	}
	return printFlood(out.Stdout, answer, f.Output)
}

// Run accepts a fingerprint and lists what there is then.
func (f *FloodAccept) Run(ctx context.Context, out Out) error {
	body, err := json.Marshal(map[string]string{"fingerprint": f.Fingerprint, "reason": f.Reason})
	if err != nil {
		return err
	}
	answer, err := f.post(ctx, "/api/v1/flood/acceptances", body)
	if err != nil {
		return err
	}
	return printFlood(out.Stdout, answer, f.Output)
}

func printFlood(w io.Writer, answer []byte, output string) error {
	if output != "table" {
		return printJSON(w, json.RawMessage(answer), output)
	}
	f, err := read[flood](answer)
	if err != nil {
		return err
	}
	state := "There is no flood: blamed rows are dead-lettered."
	if f.Stopping {
		state = "Flood stop: blamed rows are parked, not dead-lettered, until the cause is mended or their fingerprints are accepted."
	}
	fmt.Fprintf(w, "%s\nWithin ten minutes %d rows were judged, and %d of them blamed that nobody has accepted.\n", state, f.Judged, f.Blamed)
	if len(f.Items) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := newTable(w, "FINGERPRINT", "ROWS", "CLASS", "CODE", "PATH", "ACCEPTED", "ERROR")
	for _, i := range f.Items {
		accepted := "no"
		if i.AcceptedUntil != nil {
			accepted = "by " + cmp.Or(i.AcceptedBy, "somebody") + ": " + i.AcceptedReason
		}
		t.row(i.Fingerprint, strconv.FormatInt(i.Rows, 10), i.Class, i.Code, i.Path, short(accepted, 40), short(i.Error, 100))
	}
	return t.flush()
}
