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

	"github.com/docket-project/docket/internal/adapters/cli"
	"github.com/docket-project/docket/internal/adapters/kafka"
	"github.com/docket-project/docket/internal/adapters/sqlite"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/parking"
	"github.com/docket-project/docket/internal/saver"
)

// upkeepTimeout bounds commands that ask servers.
const upkeepTimeout = 30 * time.Second

// migrateCommand is `docket migrate`.
type migrateCommand struct {
	Config `embed:""`
}

// Run creates or updates what docket keeps, wherever the settings say, and stops.
func (c *migrateCommand) Run(ctx context.Context, out cli.Out) error {
	c.Migrate = true
	if err := c.validate(Serve); err != nil {
		return err
	}
	logger := newLogger(out.Stderr, c.Config)
	var errs []error
	if len(c.KafkaBrokers) > 0 {
		errs = append(errs, migrateKafka(ctx, c.Config, logger, out.Stdout))
	}
	if c.DatabaseURL != "" {
		errs = append(errs, migratePostgres(ctx, c.Config, logger, out.Stdout))
	}
	if c.embedded() {
		errs = append(errs, migrateEmbedded(ctx, c.Config, logger, out.Stdout))
	}
	return errors.Join(errs...)
}

func migrateKafka(ctx context.Context, cfg Config, logger *slog.Logger, w io.Writer) (err error) {
	log, err := newKafka(cfg, logger, func(string, int64) {}, func(string, int32, error) {})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, upkeepTimeout)
	defer cancel()
	created, err := log.Migrate(ctx)
	for _, topic := range created {
		fmt.Fprintf(w, "Topic %s was created.\n", topic)
	}
	if err != nil {
		return err
	}
	weak, err := log.Check(ctx)
	for _, why := range weak {
		fmt.Fprintf(w, "Less safe than docket promises: %s.\n", why)
	}
	if err == nil {
		fmt.Fprintln(w, "Kafka has the topics of this version; those that were there are as they were.")
	}
	return err
}

func migratePostgres(ctx context.Context, cfg Config, logger *slog.Logger, w io.Writer) error {
	store, err := newPostgres(cfg, logger)
	if err != nil {
		return err
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(ctx, upkeepTimeout)
	defer cancel()
	if err := store.Migrate(ctx); err != nil {
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
		store, err := sqlite.OpenStore(ctx, dir, sqlite.StoreOptions{Window: cfg.window(), Fatal: failed, Log: logger, Migrate: true})
		if err != nil {
			return err
		}
		if err := store.Close(); err != nil {
			return err
		}
	}
	if len(cfg.KafkaBrokers) == 0 {
		log, err := sqlite.OpenLog(ctx, dir, logOptions(domain.TopicsWithPrefix(cfg.TopicPrefix), logger, failed, func(string, int64) {}))
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

// logCommands are `docket log …`.
type logCommands struct {
	AcceptLoss acceptLossCommand `cmd:"" help:"Give up damaged or missing records of the log, note which, and go on behind them."`
}

type acceptLossCommand struct {
	Config `embed:""`
	Yes    bool `help:"Do it. Without this, only say what would be given up."`
}

// Run mends the log that the settings name.
func (c *acceptLossCommand) Run(ctx context.Context, out cli.Out) error {
	if len(c.KafkaBrokers) > 0 {
		return c.kafka(ctx, out)
	}
	return c.embeddedLog(ctx, out)
}

// embeddedLog mends the embedded log in place; docket must not be running on it.
func (c *acceptLossCommand) embeddedLog(ctx context.Context, out cli.Out) (err error) {
	if _, err := os.Stat(c.Data); err != nil {
		return domain.Errorf(domain.Misconfigured, "there is no data directory: %w", err)
	}
	dir, err := sqlite.OpenDir(c.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	options := logOptions(domain.TopicsWithPrefix(c.TopicPrefix), slog.New(slog.DiscardHandler), func(error) {}, func(string, int64) {})
	losses, err := sqlite.AcceptLoss(ctx, dir, options, !c.Yes)
	if err != nil {
		return err
	}
	if len(losses) == 0 {
		fmt.Fprintln(out.Stdout, "The log is whole: nothing to give up.")
		return nil
	}
	for _, l := range losses {
		fmt.Fprintf(out.Stdout, "%s offsets %d to %d: %d records, %s\n", l.Topic, l.First, l.Last, l.Last-l.First+1, l.Reason)
	}
	if !c.Yes {
		return fmt.Errorf("nothing was changed: these decisions may be lost for good. Restore %s from a backup, or repeat with --yes", c.Data)
	}
	fmt.Fprintln(out.Stdout, "Given up, and noted in the log's table of losses. docket can start again.")
	return nil
}

// kafka lets the groups go on behind records that fell off their topics; the roles that consume them must not run.
func (c *acceptLossCommand) kafka(ctx context.Context, out cli.Out) (err error) {
	log, err := newKafka(c.Config, newLogger(out.Stderr, c.Config), func(string, int64) {}, func(string, int32, error) {})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, upkeepTimeout)
	defer cancel()
	topics := domain.TopicsWithPrefix(c.TopicPrefix)
	var losses []kafka.Loss
	for group, consumed := range map[string][]string{
		saver.Group: {topics.Decisions}, parking.Group: {topics.Parking}, parking.IndexGroup: {topics.DLQ, topics.ParkingDLQ},
	} {
		found, err := log.Losses(ctx, group, consumed...)
		if err != nil {
			return err
		}
		losses = append(losses, found...)
	}
	if len(losses) == 0 {
		fmt.Fprintln(out.Stdout, "Every group is within its topic: nothing to give up.")
		return nil
	}
	for _, l := range losses {
		fmt.Fprintf(out.Stdout, "%s/%d offsets %d to %d: %d records that %s had not done\n", l.Topic, l.Partition, l.First, l.Last, l.Records(), l.Group)
	}
	if !c.Yes {
		return errors.New("nothing was changed: these decisions may be lost for good. Bring them back if you can, or repeat with --yes")
	}
	who := os.Getenv("USER")
	if host, err := os.Hostname(); err == nil {
		who = strings.TrimPrefix(who+"@"+host, "@")
	}
	if err := c.noteLosses(ctx, losses, who); err != nil {
		return err
	}
	if err := log.AcceptLoss(ctx, losses, time.Now().UTC().Format(time.RFC3339)+" by "+who); err != nil {
		return err
	}
	fmt.Fprintln(out.Stdout, "Given up. The roles go on behind these records when they are started.")
	return nil
}

// noteLosses writes down for good what is given up, before it is.
func (c *acceptLossCommand) noteLosses(ctx context.Context, losses []kafka.Loss, who string) error {
	if c.DatabaseURL == "" {
		return nil // the offset's metadata has to do
	}
	store, err := newPostgres(c.Config, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer store.Close()
	for _, l := range losses {
		if err := store.Audit(ctx, domain.AuditEntry{
			At: time.Now().UTC(), Who: who, Action: "log.accept-loss", Target: fmt.Sprintf("%s/%d/%d-%d", l.Topic, l.Partition, l.First, l.Last), Done: l.Records(),
			Outcome: "given up for " + l.Group,
		}); err != nil {
			return fmt.Errorf("nothing was changed, because it cannot be noted: %w", err)
		}
		if err := store.NoteLoss(ctx, l.Group, l.Topic, l.Partition, l.First, l.Last, who); err != nil {
			return fmt.Errorf("nothing was changed, because it cannot be noted: %w", err)
		}
	}
	return nil
}
