package app

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/adapters/kafka"
	"github.com/docket-project/docket/internal/adapters/postgres"
	"github.com/docket-project/docket/internal/adapters/sqlite"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/job"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/retention"
	"github.com/docket-project/docket/internal/status"
)

const (
	// dlqRetention is how long dead letters stay in the embedded log's topics.
	dlqRetention = 30 * 24 * time.Hour
	// startRetry is how often a process that starts asks for what is not there yet, and startTimeout bounds one question.
	startRetry   = time.Second
	startTimeout = 5 * time.Second
	// weakEvery is how often topics are looked at for a weakening.
	weakEvery = time.Minute
	// standbyEvery is how often the database is asked whether a standby could lose commits.
	standbyEvery = time.Minute
)

// backends are what everything is kept in.
type backends struct {
	Decisions ports.Decisions
	Control   ports.Control
	Log       ports.Log
	// disk is that of the data directory; nil where nothing is kept there.
	disk *disk
}

// free is the part of the data directory's disk that is; nil where nothing is kept there.
func (b backends) free() *float64 {
	if b.disk == nil {
		return nil
	}
	free := 1 - b.disk.inUse()
	return &free
}

// uploads is the log as those take it who bring something new.
func (b backends) uploads(log ports.Log) ports.Log {
	if b.disk == nil {
		return log
	}
	return roomy{log, b.disk}
}

// backends opens the store and the log: each is the embedded one unless a setting names a server.
func (a *App) backends(ctx context.Context) (b backends, err error) {
	dataLoss := newDataLoss(a.reg)
	notes := newLossNotes(a.logger)
	lost := func(l domain.Loss) {
		dataLoss.Add(float64(l.Records()))
		a.health.Lost(domain.Say(status.LogLost, domain.Args{"topic": l.Topic}))
		notes.add(l)
	}
	var dir *sqlite.Dir
	if a.cfg.Embedded() {
		if dir, err = sqlite.OpenDir(a.cfg.Data); err != nil {
			return b, err
		}
		a.onStop("data directory", func(context.Context) error { return dir.Close() })
		b.disk = newDisk(dir.Free, !a.cfg.Kafka.On(), a.health, a.reg, a.logger)
		a.run("disk", b.disk.run)
	}
	if a.cfg.DatabaseURL != "" {
		err = a.openPostgres(ctx, &b)
	} else {
		err = a.openStore(ctx, dir, &b)
	}
	if err != nil {
		return b, err
	}
	a.run("losses of the log", func(ctx context.Context) { notes.write(ctx, b.Control) })
	if a.cfg.Kafka.On() {
		b.Log, err = a.openKafka(ctx, b.Control, lost)
	} else {
		b.Log, err = a.openLog(ctx, dir, b.Control, lost)
	}
	return b, err
}

// openStore opens the embedded store.
func (a *App) openStore(ctx context.Context, dir *sqlite.Dir, b *backends) error {
	s, err := sqlite.OpenStore(ctx, dir, sqlite.StoreOptions{
		Window: a.cfg.Retention.Window(), Fatal: a.fatal, Log: a.logger, Migrate: a.cfg.Migrate,
		JSON: a.cfg.StoreEvents == EventsJSON,
	})
	if err != nil {
		return err
	}
	a.onStop("store", within(s.Close))
	registerPool(a.reg, s.Pool)
	b.Decisions, b.Control = s, s
	a.run("retention", a.retention(s, a.newestRecord).Run)
	return nil
}

// retention keeps the days of a store; newest is the embedded log's, or nil.
func (a *App) retention(days ports.DecisionDays, newest func() time.Time) *retention.Retention {
	return retention.New(days, a.cfg.Retention.Window(), newest, a.logger)
}

// newestRecord is when the embedded log took its newest record; zero without a log, or while it is opened.
func (a *App) newestRecord() time.Time {
	if log := a.embedded.Load(); log != nil {
		return log.Newest()
	}
	return time.Time{}
}

// openLog opens the embedded log.
func (a *App) openLog(
	ctx context.Context, dir *sqlite.Dir, marks ports.LogMarks, lost func(domain.Loss),
) (ports.Log, error) {
	a.health.Phase(domain.Say(status.StartingLog, nil))
	options := logOptions(a.topics, a.logger, a.fatal, lost)
	options.Migrate, options.Marks = a.cfg.Migrate, marks
	log, err := sqlite.OpenLog(ctx, dir, options)
	if err != nil {
		return nil, err
	}
	a.onStop("log", within(log.Close))
	a.embedded.Store(log)
	a.run("marks of the log", log.KeepMarks)
	return log, nil
}

// logOptions are the embedded log's topics and hooks.
func logOptions(
	topics domain.Topics, logger *slog.Logger, fatal func(error), lost func(domain.Loss),
) sqlite.LogOptions {
	renamed := map[string]string{}
	for group := range groups(topics) {
		renamed[group] = topics.Group(group)
	}
	return sqlite.LogOptions{
		Topics: []sqlite.Topic{
			{Name: topics.Decisions}, {Name: topics.Parking}, {Name: topics.Held},
			{Name: topics.ParkingDLQ, Retention: dlqRetention}, {Name: topics.DLQ, Retention: dlqRetention},
		},
		Fatal: fatal, Lost: lost, Log: logger, Migrate: true, Renamed: renamed,
	}
}

// newPostgres makes the store on PostgreSQL; it does not wait for the server.
func newPostgres(cfg Config, logger *slog.Logger) (*postgres.Store, error) {
	return postgres.Open(postgres.Options{
		URL: string(cfg.DatabaseURL), SearchURL: string(cfg.SearchDatabaseURL), Window: cfg.Retention.Window(), Log: logger,
		JSON: cfg.StoreEvents == EventsJSON,
	})
}

// openPostgres opens the store on PostgreSQL. The database being away keeps no process from starting: uploads are taken
// and parked meanwhile. The schema is looked at, or made, as soon as it is back.
func (a *App) openPostgres(ctx context.Context, b *backends) error {
	s, err := newPostgres(a.cfg, a.logger)
	if err != nil {
		return err
	}
	a.onStop("store", within(func() error {
		s.Close()
		return nil
	}))
	registerPool(a.reg, s.Pool)
	b.Decisions, b.Control = s, s
	prepare := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, startTimeout)
		defer cancel()
		return s.CheckSchema(ctx)
	}
	if a.role == status.Serve && a.cfg.Migrate {
		prepare = s.Migrate // which may read every day
	}
	a.health.Phase(domain.Say(status.StartingDatabase, nil))
	first := make(chan error, 1)
	a.run("retention", func(ctx context.Context) {
		failure := prepare(ctx)
		first <- failure
		for failure != nil {
			if sleep(ctx, startRetry) != nil {
				return
			}
			before := failure
			if failure = prepare(ctx); failure != nil && domain.ClassOf(failure) != domain.Unavailable &&
				failure.Error() != before.Error() {
				a.logger.Error("the database is back, but not fit to be used", "error", failure)
			}
		}
		if a.role.Is(status.Saver) {
			a.retention(s, nil).Run(ctx)
		}
	})
	enough := time.NewTimer(startTimeout + time.Second)
	defer enough.Stop()
	select {
	case failure := <-first:
		if failure != nil && domain.ClassOf(failure) != domain.Unavailable {
			return failure
		}
		if failure != nil {
			a.logger.Warn("the database is away; docket starts without it", "error", failure)
		}
	case <-enough.C:
		a.logger.Warn("the schema of the database is being brought up to date; docket starts meanwhile")
	case <-ctx.Done():
		return domain.Errorf(domain.Canceled, "stopped: %w", ctx.Err())
	}
	if a.role.Is(status.Saver) {
		a.run("standby check", func(ctx context.Context) { a.watchStandby(ctx, s) })
	}
	return nil
}

// watchStandby warns while a failover would lose commits that the log believes are stored. docket notices a failover
// and reads the log again from the store's marks; what is not in the log, such as the audit, is gone.
func (a *App) watchStandby(ctx context.Context, s *postgres.Store) {
	for warned := false; ; {
		loses, err := s.LosesCommits(ctx)
		if err == nil && loses && !warned {
			a.logger.Warn(
				"PostgreSQL has a standby that commits do not wait for: what it lacks when it takes over is saved again as far " +
					"as Kafka has it. Set synchronous_standby_names, or know how to run docket log rewind",
			)
		}
		if err == nil {
			warned = loses
		}
		if sleep(ctx, standbyEvery) != nil {
			return
		}
	}
}

// newKafka makes the log on Kafka. marks, unless nil, is the store that its progress is kept in; lost and stopped are
// told what the log turns out to have lost, and which partitions it cannot read on.
func newKafka(
	cfg Config, logger *slog.Logger, marks ports.LogMarks, lost func(domain.Loss),
	stopped func(string, int32, error),
) (*kafka.Log, error) {
	options := kafka.Options{
		Marks:  marks,
		Topics: cfg.Topics(), MaxEvent: cfg.Ingest.MaxEventBytes, MaxUpload: cfg.Upload.MaxWireBytes,
		MaxBuffered: int(cfg.Upload.MaxInFlightBytes), Lost: lost, Stopped: stopped, Log: logger,
	}
	if err := cfg.Kafka.Connect(&options); err != nil {
		return nil, err
	}
	return kafka.Open(options)
}

// openKafka opens the log on Kafka and looks at its topics. Nothing works without it, so it is waited for.
func (a *App) openKafka(
	ctx context.Context, marks ports.LogMarks, lost func(domain.Loss),
) (ports.Log, error) {
	log, err := newKafka(a.cfg, a.logger, marks, lost, func(topic string, partition int32, err error) {
		a.health.Lost(
			domain.Say(status.PartitionEnded, domain.Args{"topic": topic, "partition": int64(partition), "error": err.Error()}),
		)
	})
	if err != nil {
		return nil, err
	}
	a.onStop("log", within(log.Close))
	brokers := strings.Join(a.cfg.Kafka.Brokers, ", ")
	a.health.Phase(domain.Say(status.StartingKafka, domain.Args{"brokers": brokers}))
	weak, err := a.checkKafka(ctx, log)
	for told := false; err != nil; weak, err = a.checkKafka(ctx, log) {
		if domain.ClassOf(err) != domain.Unavailable {
			return nil, err
		}
		if !told {
			a.logger.Warn("Kafka does not answer as it should; docket waits for it", "brokers", brokers, "error", err)
			told = true
		}
		if err := sleep(ctx, startRetry); err != nil {
			return nil, err
		}
	}
	unreplicated := slices.DeleteFunc(slices.Clone(weak), func(w kafka.Weakness) bool { return !w.Unreplicated })
	if len(unreplicated) > 0 && a.role != status.Serve && a.cfg.Kafka.Unreplicated != kafka.Allow {
		return nil, domain.Errorf(
			domain.Misconfigured,
			"docket %s does not start, because what it acknowledges could be lost with one broker: %s. "+
				"Give the topics three replicas and min.insync.replicas=2, or say that you accept it with "+
				"DOCKET_KAFKA_UNREPLICATED=allow",
			a.role,
			wordsOf(unreplicated),
		)
	}
	for _, w := range weak {
		a.logger.Warn("what is acknowledged is less safe than docket promises", "why", w.Text)
	}
	a.run("marks of the log", log.KeepMarks)
	a.run("topic check", func(ctx context.Context) { a.watchTopics(ctx, log, weak) })
	return log, nil
}

// checkKafka looks at the topics and, where it may, creates those that are missing.
func (a *App) checkKafka(ctx context.Context, log *kafka.Log) ([]kafka.Weakness, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if a.role == status.Serve && a.cfg.Migrate {
		created, err := migrateTopics(ctx, log, a.topics)
		if err != nil {
			return nil, err
		}
		if len(created) > 0 {
			a.logger.Info("topics were created", "topics", strings.Join(created, ","))
		}
	}
	weak, err := log.Check(ctx)
	if err != nil {
		return nil, err
	}
	return weak, log.Ready(ctx) // the leaders of new topics take a moment
}

// wordsOf lists weaknesses in one line.
func wordsOf(weak []kafka.Weakness) string {
	words := make([]string, len(weak))
	for i, w := range weak {
		words[i] = w.Text
	}
	return strings.Join(words, "; ")
}

// watchTopics pages when the topics become less safe while docket runs. It does not unready: refusing uploads would
// lose them for certain.
func (a *App) watchTopics(ctx context.Context, log *kafka.Log, weak []kafka.Weakness) {
	gauge := newWeaknesses(a.reg, len(weak))
	known := wordsOf(weak)
	for sleep(ctx, weakEvery) == nil {
		try, cancel := context.WithTimeout(ctx, startTimeout)
		weak, err := log.Check(try)
		cancel()
		switch {
		case err == nil:
		case domain.ClassOf(err) == domain.Misconfigured:
			weak = []kafka.Weakness{{Text: err.Error()}}
		default:
			continue
		}
		gauge.Set(float64(len(weak)))
		if now := wordsOf(weak); now != known {
			known = now
			if now != "" {
				a.logger.Error("the topics have changed: what is acknowledged is less safe than docket promises", "why", now)
			}
		}
	}
}

// sleep waits; its error says that ctx ended first.
func sleep(ctx context.Context, d time.Duration) error {
	if !job.Sleep(ctx, d) {
		return domain.Errorf(domain.Canceled, "stopped: %w", ctx.Err())
	}
	return nil
}
