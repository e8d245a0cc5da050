package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/docket-project/docket/internal/adapters/kafka"
	"github.com/docket-project/docket/internal/adapters/postgres"
	"github.com/docket-project/docket/internal/adapters/sqlite"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/saver"
)

const (
	// dlqRetention is how long dead letters stay in the embedded log's topics.
	dlqRetention = 30 * 24 * time.Hour
	// startRetry is how often a process that starts asks for what is not there yet, and startTimeout bounds one question.
	startRetry   = time.Second
	startTimeout = 5 * time.Second
	// weakEvery is how often topics are looked at for a weakening.
	weakEvery = time.Minute
)

// backends opens the store and the log: each is the embedded one unless a setting names a server.
func (a *App) backends(ctx context.Context) (store ports.Store, log ports.Log, err error) {
	dataLoss := newDataLoss(a.reg)
	lost := func(topic string, n int64) {
		dataLoss.Add(float64(n))
		a.mu.Lock()
		defer a.mu.Unlock()
		a.lost = "topic " + topic + " has lost records: docket's log says which"
	}
	var dir *sqlite.Dir
	newStore := false
	if a.cfg.embedded() {
		if dir, err = sqlite.OpenDir(a.cfg.Data); err != nil {
			return nil, nil, err
		}
		a.onStop("data directory", func(context.Context) error { return dir.Close() })
		newStore = a.cfg.DatabaseURL == "" && dir.StoreIsNew()
	}
	if a.cfg.DatabaseURL != "" {
		store, err = a.openPostgres(ctx)
	} else {
		store, err = a.openStore(ctx, dir)
	}
	if err != nil {
		return nil, nil, err
	}
	if len(a.cfg.KafkaBrokers) > 0 {
		log, err = a.openKafka(ctx, lost)
	} else {
		log, err = a.openLog(ctx, dir, lost, newStore)
	}
	return store, log, err
}

// setPhase tells /readyz what a process that starts is waiting for.
func (a *App) setPhase(phase string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.phase = "docket is starting: " + phase
}

// openStore opens the embedded store.
func (a *App) openStore(ctx context.Context, dir *sqlite.Dir) (ports.Store, error) {
	store, err := sqlite.OpenStore(ctx, dir, sqlite.StoreOptions{Window: a.cfg.window(), Fatal: a.fatal, Log: a.logger, Migrate: a.cfg.Migrate})
	if err != nil {
		return nil, err
	}
	a.onStop("store", within(store.Close))
	registerPool(a.reg, store.Pool)
	return store, nil
}

// openLog opens the embedded log.
func (a *App) openLog(ctx context.Context, dir *sqlite.Dir, lost func(string, int64), newStore bool) (ports.Log, error) {
	a.setPhase("it verifies the log")
	options := logOptions(a.topics, a.logger, a.fatal, lost)
	options.Migrate = a.cfg.Migrate
	log, err := sqlite.OpenLog(ctx, dir, options)
	if err != nil {
		return nil, err
	}
	a.onStop("log", within(log.Close))
	if handed, err := log.Backlog(ctx, saver.Group, a.topics.Decisions); err == nil && newStore && handed[0].Committed > 0 {
		a.logger.Error("the store is new, but the log has handed decisions to one before: if its file was lost, stop docket and restore it from a backup",
			"data", a.cfg.Data, "decisions", handed[0].Committed)
	}
	return log, nil
}

// logOptions are the embedded log's topics and hooks.
func logOptions(topics domain.Topics, logger *slog.Logger, fatal func(error), lost func(string, int64)) sqlite.LogOptions {
	return sqlite.LogOptions{
		Topics: []sqlite.Topic{
			{Name: topics.Decisions}, {Name: topics.Parking},
			{Name: topics.ParkingDLQ, Retention: dlqRetention}, {Name: topics.DLQ, Retention: dlqRetention},
		},
		Fatal: fatal, Lost: lost, Log: logger, Migrate: true,
	}
}

func newPostgres(cfg Config, logger *slog.Logger) (*postgres.Store, error) {
	return postgres.Open(postgres.Options{URL: string(cfg.DatabaseURL), Window: cfg.window(), Log: logger})
}

// openPostgres opens the store on PostgreSQL. The database being away keeps nobody from starting: uploads are taken and
// parked meanwhile. The schema is looked at, or made, as soon as it is back.
func (a *App) openPostgres(ctx context.Context) (ports.Store, error) {
	store, err := newPostgres(a.cfg, a.logger)
	if err != nil {
		return nil, err
	}
	a.onStop("store", within(func() error {
		store.Close()
		return nil
	}))
	registerPool(a.reg, store.Pool)
	prepare := store.CheckSchema
	if a.role == Serve && a.cfg.Migrate {
		prepare = store.Migrate
	}
	a.setPhase("it looks at the database")
	try := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, startTimeout)
		defer cancel()
		return prepare(ctx)
	}
	failure := try(ctx)
	if failure != nil && domain.ClassOf(failure) != domain.Unavailable {
		return nil, failure
	}
	if failure != nil {
		a.logger.Warn("the database is away; docket starts without it", "error", failure)
	}
	a.run("store upkeep", func(ctx context.Context) {
		for failure != nil {
			if sleep(ctx, startRetry) != nil {
				return
			}
			before := failure
			if failure = try(ctx); failure != nil && domain.ClassOf(failure) != domain.Unavailable && failure.Error() != before.Error() {
				a.logger.Error("the database is back, but not fit to be used", "error", failure)
			}
		}
		if a.role.is(Saver) {
			store.Upkeep(ctx)
		}
	})
	return store, nil
}

// newKafka makes the log on Kafka.
func newKafka(cfg Config, logger *slog.Logger, lost func(string, int64), stopped func(string, int32, error)) (*kafka.Log, error) {
	options := kafka.Options{
		Brokers: cfg.KafkaBrokers, Topics: domain.TopicsWithPrefix(cfg.TopicPrefix), MaxEvent: cfg.MaxEventBytes, MaxUpload: cfg.MaxWireBytes,
		MaxBuffered: int(cfg.MaxInFlightBytes), Lost: lost, Stopped: stopped, Log: logger,
	}
	if cfg.KafkaTLS {
		options.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if cfg.KafkaCAFile != "" {
		pem, err := os.ReadFile(cfg.KafkaCAFile)
		if err != nil {
			return nil, domain.Errorf(domain.Misconfigured, "read kafka_ca_file: %w", err)
		}
		options.TLS.RootCAs = x509.NewCertPool()
		if !options.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return nil, domain.Errorf(domain.Misconfigured, "kafka_ca_file %s holds no certificate in PEM", cfg.KafkaCAFile)
		}
	}
	if cfg.KafkaSASL != "none" {
		password, err := os.ReadFile(cfg.KafkaPasswordFile)
		if err != nil {
			return nil, domain.Errorf(domain.Misconfigured, "read kafka_password_file: %w", err)
		}
		options.SASL = mechanism(cfg.KafkaSASL, cfg.KafkaUser, strings.TrimSpace(string(password)))
	}
	return kafka.Open(options)
}

func mechanism(name, user, password string) sasl.Mechanism {
	login := scram.Auth{User: user, Pass: password}
	switch name {
	case "scram-sha-256":
		return login.AsSha256Mechanism()
	case "scram-sha-512":
		return login.AsSha512Mechanism()
	default:
		return plain.Auth{User: user, Pass: password}.AsMechanism()
	}
}

// openKafka opens the log on Kafka and looks at its topics. Nothing works without it, so it is waited for.
func (a *App) openKafka(ctx context.Context, lost func(string, int64)) (ports.Log, error) {
	log, err := newKafka(a.cfg, a.logger, lost, func(topic string, partition int32, err error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.lost = fmt.Sprintf("partition %d of %s cannot be read: %v", partition, topic, err)
	})
	if err != nil {
		return nil, err
	}
	a.onStop("log", within(log.Close))
	a.setPhase("it waits for Kafka at " + strings.Join(a.cfg.KafkaBrokers, ", "))
	weak, err := a.checkKafka(ctx, log)
	for told := false; err != nil; weak, err = a.checkKafka(ctx, log) {
		if domain.ClassOf(err) != domain.Unavailable {
			return nil, err
		}
		if !told {
			a.logger.Warn("Kafka does not answer as it should; docket waits for it", "brokers", strings.Join(a.cfg.KafkaBrokers, ","), "error", err)
			told = true
		}
		if err := sleep(ctx, startRetry); err != nil {
			return nil, err
		}
	}
	if len(weak) > 0 && a.role != Serve && a.cfg.KafkaUnreplicated != "allow" {
		return nil, domain.Errorf(domain.Misconfigured, "docket %s does not start, because what it acknowledges could be lost with one broker: %s. "+
			"Give the topics three replicas and min.insync.replicas=2, or say that you accept it with DOCKET_KAFKA_UNREPLICATED=allow", a.role, strings.Join(weak, "; "))
	}
	for _, why := range weak {
		a.logger.Warn("what is acknowledged is less safe than docket promises", "why", why)
	}
	a.run("topic check", func(ctx context.Context) { a.watchTopics(ctx, log, weak) })
	return log, nil
}

// checkKafka looks at the topics and, where it may, creates those that are missing.
func (a *App) checkKafka(ctx context.Context, log *kafka.Log) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if a.role == Serve && a.cfg.Migrate {
		created, err := log.Migrate(ctx)
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

// watchTopics pages when the topics become less safe while docket runs. It does not unready: refusing uploads would lose
// them for certain.
func (a *App) watchTopics(ctx context.Context, log *kafka.Log, weak []string) {
	gauge := newWeaknesses(a.reg, len(weak))
	known := strings.Join(weak, "; ")
	for sleep(ctx, weakEvery) == nil {
		try, cancel := context.WithTimeout(ctx, startTimeout)
		weak, err := log.Check(try)
		cancel()
		switch {
		case err == nil:
		case domain.ClassOf(err) == domain.Misconfigured:
			weak = []string{err.Error()}
		default:
			continue
		}
		gauge.Set(float64(len(weak)))
		if now := strings.Join(weak, "; "); now != known {
			known = now
			if now != "" {
				a.logger.Error("the topics have changed: what is acknowledged is less safe than docket promises", "why", now)
			}
		}
	}
}

// sleep waits; its error says that ctx ended first.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return domain.Errorf(domain.Canceled, "stopped: %w", ctx.Err())
	case <-t.C:
		return nil
	}
}

// embedded says whether anything is kept in the data directory.
func (c *Config) embedded() bool { return len(c.KafkaBrokers) == 0 || c.DatabaseURL == "" }

func (c *Config) window() domain.Window {
	return domain.Window{Retention: time.Duration(c.Retention), Ahead: domain.DefaultAhead}
}

// limits are the caps on an upload's content.
func (c *Config) limits() domain.Limits {
	return domain.Limits{Inflated: c.MaxInflatedBytes, Events: c.MaxEvents, Depth: c.MaxDepth, Event: c.MaxEventBytes}
}

// describe says where decisions are kept, for people.
func (c *Config) describe() string {
	log, store := "the log is embedded in "+c.Data, "the store is embedded in "+c.Data
	if len(c.KafkaBrokers) == 0 && c.DatabaseURL == "" {
		return "embedded: everything is kept in " + c.Data
	}
	if len(c.KafkaBrokers) > 0 {
		log = "the log is Kafka at " + strings.Join(c.KafkaBrokers, ", ")
	}
	if c.DatabaseURL != "" {
		store = "the store is PostgreSQL"
	}
	return log + ", " + store
}
