package domain

import "time"

// What a held record waits for, as the header docket-held-for spells it.

// HeldForDay is that the store takes decisions of a day (UTC) again; those without a timestamp share one.
func HeldForDay(d *Decision) string {
	if d.Timestamp.IsZero() {
		return "day:none"
	}
	return DayOf(d.Timestamp).HeldFor()
}

// HeldFor is HeldForDay for the decisions of a day.
func (d Day) HeldFor() string { return "day:" + d.Start().Format(time.DateOnly) }

// HeldForTenant is that it takes decisions of a tenant again.
func HeldForTenant(tenant string) string { return "tenant:" + tenant }

// HeldForFingerprint is that it takes rows again that fail in one way.
func HeldForFingerprint(fingerprint string) string { return "fingerprint:" + fingerprint }
