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
	"github.com/docket-project/docket/internal/deadletter"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/operate"
	"github.com/docket-project/docket/internal/parking"
	"github.com/docket-project/docket/internal/saver"
	"github.com/docket-project/docket/internal/status"
)

// upkeepTimeout bounds upkeep that asks servers.
const upkeepTimeout = 30 * time.Second

// groups are the consumer groups and what each of them consumes.
func groups(topics domain.Topics) map[string][]string {
	return map[string][]string{
		saver.Group: {topics.Decisions}, parking.Group: {topics.Parking},
		parking.HeldGroup: {topics.Held}, deadletter.IndexGroup: {topics.DLQ, topics.ParkingDLQ},
	}
}

// migrateTopics creates the topics that are missing, and has groups whose name did not carry the prefix go on.
func migrateTopics(ctx context.Context, log *kafka.Log, topics domain.Topics) (created []string, err error) {
	created, err = log.Migrate(ctx)
	for group, consumed := range groups(topics) {
		if renamed := topics.Group(group); err == nil && renamed != group {
			err = log.CopyCommits(ctx, group, renamed, consumed...)
		}
	}
	return created, err
}

// Migrate creates or updates what docket keeps, wherever the configuration says, and writes what it did to w.
func Migrate(ctx context.Context, cfg Config, logger *slog.Logger, w io.Writer) error {
	cfg.Migrate = true
	if err := cfg.Validate(status.Serve); err != nil {
		return err
	}
	var errs []error
	if cfg.Kafka.On() {
		errs = append(errs, migrateKafka(ctx, cfg, logger, w))
	}
	if cfg.DatabaseURL != "" {
		errs = append(errs, migratePostgres(ctx, cfg, logger, w))
	}
	if cfg.Embedded() {
		errs = append(errs, migrateEmbedded(ctx, cfg, logger, w))
	}
	return errors.Join(errs...)
}

func migrateKafka(ctx context.Context, cfg Config, logger *slog.Logger, w io.Writer) (err error) {
	log, err := newKafka(cfg, logger, nil, func(domain.Loss) {}, func(string, int32, error) {})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, upkeepTimeout)
	defer cancel()
	created, err := migrateTopics(ctx, log, cfg.Topics())
	for _, topic := range created {
		fmt.Fprintf(w, "Topic %s was created.\n", topic)
	}
	if err != nil {
		return err
	}
	weak, err := log.Check(ctx)
	for _, why := range weak {
		fmt.Fprintf(w, "Less safe than docket promises: %s.\n", why.Text)
	}
	if err == nil {
		fmt.Fprintln(w, "Kafka has the topics of this version; docket changed none that existed.")
	}
	return err
}

func migratePostgres(ctx context.Context, cfg Config, logger *slog.Logger, w io.Writer) error {
	store, err := newPostgres(cfg, logger)
	if err != nil {
		return err
	}
	defer store.Close()
	if err := store.Migrate(ctx); err != nil { // it takes the time that it takes
		return err
	}
	_, err = fmt.Fprintln(w, "PostgreSQL has the schema of this version, and partitions for the next days.")
	return err
}

func migrateEmbedded(ctx context.Context, cfg Config, logger *slog.Logger, w io.Writer) (err error) {
	dir, err := sqlite.OpenDir(cfg.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	failed := func(err error) { logger.Error("the disk lost a write", "error", err) }
	if cfg.DatabaseURL == "" {
		store, err := sqlite.OpenStore(ctx, dir, sqlite.StoreOptions{
			Window: cfg.Retention.Window(), Fatal: failed, Log: logger, Migrate: true,
		})
		if err != nil {
			return err
		}
		if err := store.Close(); err != nil {
			return err
		}
	}
	if !cfg.Kafka.On() {
		log, err := sqlite.OpenLog(ctx, dir, logOptions(cfg.Topics(), logger, failed, func(domain.Loss) {}))
		if err != nil {
			return err
		}
		if err := log.Close(); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(w, "%s has the schema of this version.\n", cfg.Data)
	return err
}

// AcceptLoss finds what the log has lost, or can never deliver, and writes it to w. With yes, the groups go on behind
// it. No role may run on the log. Its error says that nothing was changed.
func AcceptLoss(ctx context.Context, cfg Config, logger *slog.Logger, yes bool, w io.Writer) error {
	if cfg.Kafka.On() {
		return acceptKafkaLoss(ctx, cfg, logger, yes, w)
	}
	return acceptEmbeddedLoss(ctx, cfg, yes, w)
}

// acceptEmbeddedLoss repairs the embedded log in place.
func acceptEmbeddedLoss(ctx context.Context, cfg Config, yes bool, w io.Writer) (err error) {
	if _, err := os.Stat(cfg.Data); err != nil {
		return domain.Errorf(domain.Misconfigured, "there is no data directory: %w", err)
	}
	dir, err := sqlite.OpenDir(cfg.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	options := logOptions(cfg.Topics(), slog.New(slog.DiscardHandler), func(error) {}, func(domain.Loss) {})
	losses, err := sqlite.AcceptLoss(ctx, dir, options, !yes)
	if err != nil {
		return err
	}
	if len(losses) == 0 {
		fmt.Fprintln(w, "The log is whole: there is nothing to give up.")
		return nil
	}
	for _, l := range losses {
		fmt.Fprintf(w, "%s offsets %d to %d: %d records, %s\n", l.Topic, l.First, l.Last, l.Last-l.First+1, l.Reason)
	}
	if !yes {
		return fmt.Errorf(
			"nothing was changed: these decisions may be lost for good. Restore %s from a backup, or repeat with --yes",
			cfg.Data,
		)
	}
	fmt.Fprintln(w, "docket has given these records up, and noted it in the log's table of losses. You can start docket "+
		"again.")
	if err := noteEmbeddedLosses(ctx, cfg, dir, losses); err != nil {
		fmt.Fprintf(w, "The store could not be told, so docket trail will not know of them: %v\n", err)
	}
	return nil
}

// noteEmbeddedLosses tells the store what was given up, for docket trail. The log has its own note of it.
func noteEmbeddedLosses(ctx context.Context, cfg Config, dir *sqlite.Dir, losses []sqlite.Loss) (err error) {
	store, err := sqlite.OpenStore(ctx, dir, sqlite.StoreOptions{
		Window: cfg.Retention.Window(), Log: slog.New(slog.DiscardHandler), Migrate: true, Fatal: func(error) {},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	for _, l := range losses {
		if err := store.NoteLoss(ctx, domain.Loss{
			At: time.Now(), Caller: upkeepCaller(), Topic: l.Topic, First: l.First, Last: l.Last,
		}); err != nil {
			return err
		}
	}
	return nil
}

// acceptKafkaLoss lets the groups go on behind records that fell off their topics.
func acceptKafkaLoss(ctx context.Context, cfg Config, logger *slog.Logger, yes bool, w io.Writer) (err error) {
	log, err := newKafka(cfg, logger, nil, func(domain.Loss) {}, func(string, int32, error) {})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, upkeepTimeout)
	defer cancel()
	topics := cfg.Topics()
	var losses []kafka.Loss
	for group, consumed := range groups(topics) {
		found, err := log.Losses(ctx, topics.Group(group), consumed...)
		if err != nil {
			return err
		}
		losses = append(losses, found...)
	}
	if len(losses) == 0 {
		fmt.Fprintln(w, "Every group is within its topic: there is nothing to give up.")
		return nil
	}
	for _, l := range losses {
		fmt.Fprintf(
			w, "%s/%d offsets %d to %d: %d records that %s had not done\n", l.Topic, l.Partition, l.First, l.Last, l.Records(),
			l.Group,
		)
	}
	if !yes {
		return errors.New(
			"nothing was changed: these decisions may be lost for good. Bring them back if you can, or repeat with --yes",
		)
	}
	caller := upkeepCaller()
	if err := noteLosses(ctx, cfg, logger, losses, caller); err != nil {
		return err
	}
	if err := log.AcceptLoss(ctx, losses, time.Now().UTC().Format(time.RFC3339)+" by "+caller); err != nil {
		return err
	}
	fmt.Fprintln(w, "docket has given these records up. Start the roles: they continue behind them.")
	return nil
}

// noteLosses writes down what is given up, before it is.
func noteLosses(ctx context.Context, cfg Config, logger *slog.Logger, losses []kafka.Loss, caller string) (err error) {
	_, control, done, err := upkeepStore(ctx, cfg, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	for _, l := range losses {
		if err := control.Audit(ctx, domain.AuditEntry{
			At: time.Now().UTC(), Caller: caller, Tenants: domain.AllTenants(), Action: "log.accept-loss",
			Target: fmt.Sprintf("%s/%d/%d-%d", l.Topic, l.Partition, l.First, l.Last), Done: l.Records(),
			Outcome: domain.Say(operate.LossAccepted, domain.Args{"group": l.Group}),
		}); err != nil {
			return fmt.Errorf("nothing was changed, because it cannot be noted: %w", err)
		}
		l.Caller = caller
		if err := control.NoteLoss(ctx, l.Loss); err != nil {
			return fmt.Errorf("nothing was changed, because it cannot be noted: %w", err)
		}
	}
	return nil
}

// Backup copies the embedded log and store to an empty directory, while docket may be running, and reads the copy.
func Backup(ctx context.Context, cfg Config, logger *slog.Logger, to string, w io.Writer) error {
	if !cfg.Embedded() {
		return domain.Errorf(
			domain.Misconfigured, "nothing is kept in %s: back PostgreSQL up with its own tools, and read docs/production.md "+
				"for what docket does after a restore", cfg.Data,
		)
	}
	copied, err := sqlite.Backup(ctx, cfg.Data, to)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "Copied %s to %s.\n", strings.Join(copied, " and "), to)
	cfg.Data = to
	return Verify(ctx, cfg, logger, w)
}

// Verify reads everything in the data directory, which no process may be using, and writes what is wrong to w.
func Verify(ctx context.Context, cfg Config, logger *slog.Logger, w io.Writer) (err error) {
	if _, err := os.Stat(cfg.Data); err != nil {
		return domain.Errorf(domain.Misconfigured, "there is no data directory: %w", err)
	}
	dir, err := sqlite.OpenDir(cfg.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	failed := func(err error) { logger.Error("the disk lost a write", "error", err) }
	found, err := sqlite.Verify(ctx, dir, logOptions(cfg.Topics(), slog.New(slog.DiscardHandler), failed, nil))
	if err != nil {
		return err
	}
	for _, what := range found {
		fmt.Fprintln(w, what)
	}
	if len(found) > 0 {
		return domain.Errorf(domain.Misconfigured, "%s is not whole: restore it from a backup", cfg.Data)
	}
	_, err = fmt.Fprintf(
		w, "%s is whole: every checksum and hash fits, and the log and the store belong together.\n", cfg.Data,
	)
	return err
}
