package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/adapters/kafka"
	"github.com/docket-project/docket/internal/adapters/sqlite"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/operate"
	"github.com/docket-project/docket/internal/parking"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/saver"
)

// upkeepCaller is who runs a command on the log or the store themselves.
func upkeepCaller() string {
	caller := os.Getenv("USER")
	if host, err := os.Hostname(); err == nil {
		caller = strings.TrimPrefix(caller+"@"+host, "@")
	}
	return caller
}

// upkeepStore opens the store that the settings name, without a process around it.
func upkeepStore(
	ctx context.Context, cfg Config, logger *slog.Logger,
) (ports.Decisions, ports.Control, func() error, error) {
	if cfg.DatabaseURL != "" {
		store, err := newPostgres(cfg, logger)
		if err != nil {
			return nil, nil, nil, err
		}
		done := func() error {
			store.Close()
			return nil
		}
		return store, store, done, nil
	}
	if _, err := os.Stat(cfg.Data); err != nil {
		return nil, nil, nil, domain.Errorf(domain.Misconfigured, "there is no data directory: %w", err)
	}
	dir, err := sqlite.OpenDir(cfg.Data)
	if err != nil {
		return nil, nil, nil, err
	}
	store, err := sqlite.OpenStore(ctx, dir, sqlite.StoreOptions{
		Window: cfg.Retention.Window(), Log: logger,
		Fatal: func(err error) { logger.Error("the disk lost a write", "error", err) },
	})
	if err != nil {
		return nil, nil, nil, errors.Join(err, dir.Close())
	}
	return store, store, func() error { return errors.Join(store.Close(), dir.Close()) }, nil
}

// ApplyRetention puts the configured retention in force and drops what is past it, at once. Without yes it only writes
// to w what that would be. The embedded store has to be stopped.
func ApplyRetention(ctx context.Context, cfg Config, logger *slog.Logger, yes bool, w io.Writer) (err error) {
	retention := time.Duration(cfg.Retention.Retention)
	if retention < domain.LeastRetention {
		return domain.Errorf(domain.Misconfigured, "a retention is at least a day, and %s is not", retention)
	}
	decisions, control, done, err := upkeepStore(ctx, cfg, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	state, err := decisions.RetentionState(ctx)
	if err != nil {
		return err
	}
	days, err := decisions.Days(ctx)
	if err != nil {
		return err
	}
	var past []domain.Day
	for _, day := range days {
		if day.Past(retention, state.Now) && day.MayGo(state.Now) {
			past = append(past, day)
		}
	}
	fmt.Fprintf(w, "In force: %s. Configured: %s.\n", spellDays(state.InForce), spellDays(retention))
	if len(past) > 0 {
		fmt.Fprintf(w, "Days with decisions that are past it: %d, from %s to %s.\n", len(past), past[0], past[len(past)-1])
	} else {
		fmt.Fprintln(w, "No day with decisions is past it.")
	}
	if !yes {
		fmt.Fprintln(w, "Nothing was changed. Repeat with --yes to put it in force; these days are gone for good then.")
		return nil
	}
	if err := decisions.SetRetention(ctx, retention); err != nil {
		return err
	}
	if err := control.Audit(ctx, domain.AuditEntry{
		At: time.Now().UTC(), Caller: upkeepCaller(), Tenants: domain.AllTenants(), Action: "retention.apply",
		Target: spellDays(retention), Matched: int64(len(past)),
		Outcome: domain.Say(operate.RetentionApplied, domain.Args{"days": int64(len(past))}),
	}); err != nil {
		return fmt.Errorf("no day was dropped, because it cannot be noted: %w", err)
	}
	for i, day := range past {
		if _, err := decisions.DropDay(ctx, day, 0); err != nil {
			return fmt.Errorf("%d of %d days were dropped; repeat the command: %w", i, len(past), err)
		}
	}
	fmt.Fprintf(w, "The retention is %s now, and %d days were dropped.\n", spellDays(retention), len(past))
	return nil
}

// spellDays spells a retention as its setting does.
func spellDays(d time.Duration) string {
	switch {
	case d == 0:
		return "nothing yet"
	case d%(24*time.Hour) == 0:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	default:
		return d.String()
	}
}

// Rewind has the groups that save read the log again from a time on, after a store was lost that had more. Without yes
// it only writes to w what that would be. No saver or parking role may run. Saving again stores nothing twice.
func Rewind(ctx context.Context, cfg Config, logger *slog.Logger, from string, yes bool, w io.Writer) (err error) {
	since, err := domain.ParseInstant(from, time.Now())
	if err != nil {
		return domain.Errorf(domain.Misconfigured, "--since: %w", err)
	}
	if !cfg.Kafka.On() {
		return domain.Errorf(
			domain.Misconfigured, "the embedded log keeps nothing that was stored: restore %s from a backup instead", cfg.Data,
		)
	}
	log, err := newKafka(cfg, logger, nil, func(domain.Loss) {}, func(string, int32, error) {})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, upkeepTimeout)
	defer cancel()
	topics := cfg.Topics()
	var moves []kafka.Move
	total := int64(0)
	for _, of := range []struct{ group, topic string }{
		{saver.Group, topics.Decisions}, {parking.Group, topics.Parking}, {parking.HeldGroup, topics.Held},
	} {
		found, err := log.Rewindable(ctx, topics.Group(of.group), of.topic, since)
		if err != nil {
			return err
		}
		moves = append(moves, found...)
	}
	for _, m := range moves {
		fmt.Fprintf(w, "%s/%d from offset %d back to %d: %d records again\n", m.Topic, m.Partition, m.From, m.To, m.From-m.To)
		total += m.From - m.To
	}
	switch {
	case len(moves) == 0:
		fmt.Fprintf(w, "No group has gone on since %s, or the log has nothing of that time any more.\n",
			since.UTC().Format(time.RFC3339))
		return nil
	case !yes:
		fmt.Fprintf(w, "Nothing was changed: %d records would be saved again. Stop the saver and parking roles, and repeat "+
			"with --yes.\n", total)
		return nil
	}
	_, control, done, err := upkeepStore(ctx, cfg, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	caller := upkeepCaller()
	if err := control.Audit(ctx, domain.AuditEntry{
		At: time.Now().UTC(), Caller: caller, Tenants: domain.AllTenants(), Action: "log.rewind",
		Target: since.UTC().Format(time.RFC3339), Matched: total,
		Outcome: domain.Say(operate.LogRewound, domain.Args{"records": total}),
	}); err != nil {
		return fmt.Errorf("nothing was changed, because it cannot be noted: %w", err)
	}
	// The marks first: one that is lower than the commit only has more read again, and the command can be repeated.
	marks := make([]domain.Mark, len(moves))
	for i, m := range moves {
		marks[i] = domain.Mark{Group: m.Group, Topic: m.Topic, TopicID: m.TopicID, Partition: m.Partition, Offset: m.To}
	}
	if err := control.SetLogMarks(ctx, marks); err != nil {
		return err
	}
	if err := log.Rewind(ctx, moves, "rewound by "+caller); err != nil {
		return err
	}
	fmt.Fprintf(w, "%d records are read again. Start the roles: what is stored already is recognised.\n", total)
	return nil
}
