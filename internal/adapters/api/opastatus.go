package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// opaStatus is what docket reads of an OPA's own status report
// (https://www.openpolicyagent.org/docs/management-status#status-service-api).
type opaStatus struct {
	Bundles map[string]struct {
		ActiveRevision string `json:"active_revision"`
		pluginStatus
	} `json:"bundles"`
	Bundle       pluginStatus               `json:"bundle"`
	Discovery    pluginStatus               `json:"discovery"`
	DecisionLogs pluginStatus               `json:"decision_logs"`
	Metrics      map[string]json.RawMessage `json:"metrics"`
}

// pluginStatus is what a plugin says of what it did last.
type pluginStatus struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Errors  []any  `json:"errors"`
}

// readStatus finds the revisions of bundles, what went wrong, and how many decisions OPA dropped before it could upload
// them. dropped is nil for an OPA that does not count them. A report of another shape says nothing.
func readStatus(report []byte) (revisions map[string]string, errs []string, dropped *int64) {
	var s opaStatus
	if json.Unmarshal(report, &s) != nil {
		return nil, nil, nil
	}
	revisions, errs = map[string]string{}, []string{}
	for _, name := range slices.Sorted(maps.Keys(s.Bundles)) {
		b := s.Bundles[name]
		revisions[name] = b.ActiveRevision
		errs = b.add(errs, "bundle "+name)
	}
	errs = s.Bundle.add(errs, "bundle")
	errs = s.Discovery.add(errs, "discovery")
	errs = s.DecisionLogs.add(errs, "decision logs")
	count := int64(0)
	for _, raw := range s.Metrics {
		var group map[string]json.RawMessage
		if json.Unmarshal(raw, &group) != nil {
			continue
		}
		for name, value := range group {
			var n float64
			if strings.Contains(name, "decision_logs_dropped") && json.Unmarshal(value, &n) == nil {
				count += int64(n)
				dropped = &count
			}
		}
	}
	return revisions, errs, dropped
}

// add adds what went wrong, if anything did.
func (p pluginStatus) add(errs []string, what string) []string {
	if p.Code == "" && p.Message == "" {
		return errs
	}
	text := what + ": " + strings.TrimSpace(p.Code+" "+p.Message)
	if len(p.Errors) > 0 {
		text += fmt.Sprintf(" (%s, the first: %v)", counted(int64(len(p.Errors)), "error", "errors"), p.Errors[0])
	}
	const longest = 400
	if len(text) > longest {
		text = strings.ToValidUTF8(text[:longest], "") + "…"
	}
	return append(errs, text)
}
