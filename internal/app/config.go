package app

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/docket-project/docket/internal/access"
	"github.com/docket-project/docket/internal/adapters/auth"
	"github.com/docket-project/docket/internal/adapters/console"
	"github.com/docket-project/docket/internal/adapters/kafka"
	"github.com/docket-project/docket/internal/adapters/replaypolicy"
	"github.com/docket-project/docket/internal/adapters/uploadapi"
	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/config"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ingest"
	"github.com/docket-project/docket/internal/parking"
	"github.com/docket-project/docket/internal/policy"
	"github.com/docket-project/docket/internal/retention"
	"github.com/docket-project/docket/internal/saver"
	"github.com/docket-project/docket/internal/status"
)

// Config is everything that can be set. Each part is its owner's. The tags name the flags and variables for command; a
// key in the file is a flag with underscores.
type Config struct {
	Data string `help:"Directory of the embedded log and store, where Kafka or PostgreSQL does not replace them." env:"DOCKET_DATA" type:"path"`

	Listeners `embed:""`
	Console   console.Config   `embed:"" prefix:"console-"`
	Retention retention.Config `embed:""`
	Migrate   bool             `help:"Create and update topics and schema at start, which only serve does." env:"DOCKET_MIGRATE" negatable:""`

	Upload  uploadapi.Config `embed:""`
	Ingest  ingest.Config    `embed:""`
	Saver   saver.Config     `embed:"" prefix:"saver-" envprefix:"DOCKET_SAVER_"`
	Parking parking.Config   `embed:"" prefix:"parking-" envprefix:"DOCKET_PARKING_"`

	Kafka       kafka.Config `embed:"" prefix:"kafka-" envprefix:"DOCKET_KAFKA_"`
	TopicPrefix string       `help:"In front of the names of the topics decisions, parking, parking.dlq and dlq." env:"DOCKET_TOPIC_PREFIX"`

	DatabaseURL config.Secret `help:"PostgreSQL instead of the embedded store: a connection string such as postgres://docket@db:5432/docket. pool_max_conns bounds its connections, 8 unless set, twice: to write and to read." env:"DOCKET_DATABASE_URL"`

	SearchDatabaseURL config.Secret `help:"The same database as searches are to connect to it: with a role that can only read. As database_url unless set." env:"DOCKET_SEARCH_DATABASE_URL"`

	StoreEvents string `help:"How the store keeps events: compact, or json, which SQL can look into and which takes twice the room. Rows of both kinds are read alike." env:"DOCKET_STORE_EVENTS"`

	MaskKeysFile string `help:"Keys that the masks of policies hash with, a line each: version and at least 32 bytes in hexadecimal (docs/policies.md). The last one is used." env:"DOCKET_MASK_KEYS_FILE" type:"path"`

	AccessPolicy string `help:"Rego of your own that refuses callers of the console listener more than docket's policy does: a file, or a directory (docs/security.md)." env:"DOCKET_ACCESS_POLICY" type:"path"`

	LogLevel  string `help:"debug, info, warn or error." env:"DOCKET_LOG_LEVEL"`
	LogFormat string `help:"text or json." env:"DOCKET_LOG_FORMAT"`

	// Sections stand in the file only.
	Sections Sections `kong:"-"`
	// Replay is the program that decides by policies, where this one can.
	Replay replaypolicy.Program `kong:"-"`
	// LoadAccess makes the policy of access; nil in a program without OPA's library.
	LoadAccess LoadAccess `kong:"-"`
}

// LoadAccess makes the policy that says what callers may do, of docket's own and the operator's at a path; "" is none.
// Its error is Misconfigured.
type LoadAccess func(ctx context.Context, path string) (access.Policy, error)

// Listeners are the addresses, and who may ask there.
type Listeners struct {
	Listen        string `help:"Upload listener, where OPA posts." env:"DOCKET_LISTEN"`
	ConsoleListen string `help:"Console listener, where people and programs ask." env:"DOCKET_CONSOLE_LISTEN"`
	AdminListen   string `help:"Admin listener: /metrics, /livez, /readyz, and pprof on loopback. Unset: 127.0.0.1, port 9180 for serve, 9181 for ingest, 9182 for saver, 9183 for parking, 9184 for console." env:"DOCKET_ADMIN_LISTEN"`

	UploadTokensFile  string   `help:"Bearer tokens for uploads, a line each: name, tenant, hex SHA-256 of the token, terms (docs/security.md). Read again when it changes." env:"DOCKET_UPLOAD_TOKENS_FILE" type:"path"`
	ConsoleTokensFile string   `help:"Bearer tokens for the console, a line each: name, role (viewer, operator or admin), hex SHA-256 of the token, terms (docs/security.md). Read again when it changes." env:"DOCKET_CONSOLE_TOKENS_FILE" type:"path"`
	TLSCertFile       string   `name:"tls-cert-file" help:"Certificate for the upload and console listeners." env:"DOCKET_TLS_CERT_FILE" type:"path"`
	TLSKeyFile        string   `name:"tls-key-file" help:"Key of the certificate." env:"DOCKET_TLS_KEY_FILE" type:"path"`
	TLSClientCAFile   string   `name:"tls-client-ca-file" help:"Certificates of the authorities that the certificates of clients are checked by; client_certificates says what those may do. Read again when it changes." env:"DOCKET_TLS_CLIENT_CA_FILE" type:"path"`
	TLSClientCRLFile  string   `name:"tls-client-crl-file" help:"Lists of the client certificates that the authorities have revoked (PEM). Read again when it changes." env:"DOCKET_TLS_CLIENT_CRL_FILE" type:"path"`
	TLSClientRequired []string `name:"tls-client-required" help:"Listeners (upload, console) where everybody needs a client certificate of these authorities, beside a token or instead of one." env:"DOCKET_TLS_CLIENT_REQUIRED" type:"names" placeholder:"LISTENER,…"`
	AllowedHosts      []string `help:"Names that a request's Host may have, besides addresses and localhost. On loopback any other name is refused; elsewhere none is, unless this is set." env:"DOCKET_ALLOWED_HOSTS" type:"names" placeholder:"NAME,…"`
	Insecure          bool     `help:"Listen off loopback without tokens: something in front of docket asks who they are." env:"DOCKET_INSECURE"`
}

// How the store keeps events.
const (
	EventsCompact = "compact"
	EventsJSON    = "json"
)

// Sections are the settings that have a structure.
type Sections struct {
	// Mappings say what the events of a policy path mean, and where they have what people search by.
	Mappings Mappings `yaml:"mappings,omitempty"`
	// Issuers are those whose JSON web tokens are taken, and ClientCertificates those that TLSClientCAFile has signed.
	Issuers            []auth.Issuer            `yaml:"issuers,omitempty"`
	ClientCertificates []auth.ClientCertificate `yaml:"client_certificates,omitempty"`
	// Policies say how much may be uploaded, and what of it is kept.
	Policies []policy.Policy `yaml:"policies,omitempty"`
}

// DefaultConfig is that of `docket serve` without a word.
func DefaultConfig() Config {
	return Config{
		Data:      "./data",
		Listeners: Listeners{Listen: "127.0.0.1:8080", ConsoleListen: "127.0.0.1:8081"},
		Retention: retention.Default(), Migrate: true, Upload: uploadapi.Default(), Ingest: ingest.Default(),
		Saver: saver.Default(), Parking: parking.Default(), Kafka: kafka.Default(), TopicPrefix: domain.DefaultPrefix,
		StoreEvents: EventsCompact, LogLevel: "info", LogFormat: "text",
	}
}

// Validate reports everything that is wrong for a role at once.
func (c *Config) Validate(role status.Role) error {
	errs := []error{
		c.validateServers(role),
		c.Kafka.Validate(),
		c.validateListeners(role),
		auth.ValidateIssuers(c.Sections.Issuers),
		auth.ValidateCertificates(c.Sections.ClientCertificates),
		policy.Validate(c.Sections.Policies, c.MaskKeysFile == "" && makesRecords(role)),
		c.Ingest.Validate(),
		c.Upload.Validate(),
		c.Console.Validate(),
		c.Saver.Validate(),
		c.Parking.Validate(),
		c.Retention.Validate(),
		c.Kafka.ValidateSizes(c.Ingest.MaxEventBytes, c.Upload.MaxWireBytes),
		config.OneOf("store_events", c.StoreEvents, EventsCompact, EventsJSON),
		config.OneOf("log_level", c.LogLevel, "debug", "info", "warn", "error"),
		config.OneOf("log_format", c.LogFormat, "text", "json"),
	}
	needs := c.Upload.MaxWireBytes + int64(ingest.Largest(c.Ingest.Limits(), policy.Masking(c.Sections.Policies)))
	if c.Upload.MaxInFlightBytes < needs {
		errs = append(
			errs,
			fmt.Errorf(
				"max_in_flight_bytes %d has to be at least %d, or the largest upload is never taken: max_wire_bytes, "+
					"max_inflated_bytes (three times, or 42 MiB more, where policies mask: that makes copies) and 512 bytes for "+
					"each of max_events",
				c.Upload.MaxInFlightBytes, needs,
			),
		)
	}
	if role.Is(status.Console) && c.AccessPolicy != "" && c.LoadAccess == nil {
		errs = append(errs, errors.New("access_policy: this program has no OPA: run docket console, or docket serve"))
	}
	if role.Is(status.Console) {
		errs = append(errs, auth.CheckRedirects(c.Sections.Issuers, c.Console.Prefix))
	}
	if _, err := Projector(*c); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return domain.Errorf(domain.Misconfigured, "%w", err)
	}
	return nil
}

// validateServers reports the servers that a single role misses.
func (c *Config) validateServers(role status.Role) error {
	if c.SearchDatabaseURL != "" && c.DatabaseURL == "" {
		return errors.New("DOCKET_SEARCH_DATABASE_URL is set without DOCKET_DATABASE_URL: the embedded store has no roles")
	}
	if role == status.Serve || !c.Embedded() {
		return nil
	}
	var missing []string
	if !c.Kafka.On() {
		missing = append(missing, "DOCKET_KAFKA_BROKERS")
	}
	if c.DatabaseURL == "" {
		missing = append(missing, "DOCKET_DATABASE_URL")
	}
	return fmt.Errorf(
		"docket %s shares Kafka and PostgreSQL with the other roles: set %s; or run everything in one process, with nothing "+
			"else installed, with docket serve",
		role,
		strings.Join(missing, " and "),
	)
}

func (c *Config) validateListeners(role status.Role) error {
	errs := []error{
		config.Together("tls_cert_file and tls_key_file", c.TLSCertFile != "", c.TLSKeyFile != ""), c.validateClients(role),
	}
	for _, open := range []struct {
		role                          status.Role
		name, addr, listener, setting string
	}{
		{status.Ingest, "listen", c.Listen, auth.UploadListener, "DOCKET_UPLOAD_TOKENS_FILE"},
		{status.Console, "console_listen", c.ConsoleListen, auth.ConsoleListener, "DOCKET_CONSOLE_TOKENS_FILE"},
	} {
		if role.Is(open.role) && !c.asks(open.listener) && !c.Insecure && !web.Loopback(open.addr) {
			errs = append(
				errs,
				fmt.Errorf("%s %s can be reached from other machines, and docket would ask nobody who they are: "+
					"set %s (or issuers or client_certificates, docs/security.md), or --insecure if something in front of "+
					"docket asks", open.name, open.addr, open.setting),
			)
		}
	}
	return errors.Join(errs...)
}

// asks reports whether docket asks who somebody is on a listener.
func (c *Config) asks(listener string) bool {
	return c.tokensFile(listener) != "" || auth.Granted(listener, c.Sections.Issuers, c.Sections.ClientCertificates)
}

func (c *Config) tokensFile(listener string) string {
	if listener == auth.UploadListener {
		return c.UploadTokensFile
	}
	return c.ConsoleTokensFile
}

// validateClients reports settings of client certificates that miss another.
func (c *Config) validateClients(role status.Role) error {
	var errs []error
	for _, needs := range []struct {
		key string
		set bool
	}{
		{"tls_client_crl_file", c.TLSClientCRLFile != ""}, {"tls_client_required", len(c.TLSClientRequired) > 0},
		{"client_certificates", len(c.Sections.ClientCertificates) > 0},
	} {
		if needs.set && c.TLSClientCAFile == "" {
			errs = append(
				errs, fmt.Errorf("%s needs tls_client_ca_file: the authorities that certificates are checked by", needs.key),
			)
		}
	}
	if c.TLSClientCAFile != "" && c.TLSCertFile == "" {
		errs = append(errs, errors.New("tls_client_ca_file needs tls_cert_file: clients show certificates with TLS only"))
	}
	if c.TLSClientCAFile != "" && len(c.TLSClientRequired)+len(c.Sections.ClientCertificates) == 0 {
		errs = append(errs, errors.New("tls_client_ca_file does nothing without client_certificates or tls_client_required"))
	}
	for _, listener := range c.TLSClientRequired {
		if err := config.OneOf("tls_client_required", listener, auth.UploadListener, auth.ConsoleListener); err != nil {
			errs = append(errs, err)
		} else if _, served := listenersOf(role)[listener]; served && !c.asks(listener) {
			errs = append(errs, fmt.Errorf(
				"tls_client_required %s: a certificate alone says nothing; say in client_certificates what its holder may do, "+
					"or ask for tokens as well", listener,
			))
		}
	}
	return errors.Join(errs...)
}

// Embedded says whether anything is kept in the data directory.
func (c *Config) Embedded() bool { return !c.Kafka.On() || c.DatabaseURL == "" }

// Topics names the topics.
func (c *Config) Topics() domain.Topics { return domain.TopicsWithPrefix(c.TopicPrefix) }

// Describe says where decisions are kept, for people.
func (c *Config) Describe() string {
	log, store := "the log is embedded in "+c.Data, "the store is embedded in "+c.Data
	if !c.Kafka.On() && c.DatabaseURL == "" {
		return "embedded: everything is kept in " + c.Data
	}
	if c.Kafka.On() {
		log = "the log is Kafka at " + strings.Join(c.Kafka.Brokers, ", ")
	}
	if c.DatabaseURL != "" {
		store = "the store is PostgreSQL"
	}
	return log + ", " + store
}
