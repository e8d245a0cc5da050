package app

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"gopkg.in/yaml.v3"

	"github.com/docket-project/docket/internal/adapters/httpapi"
	"github.com/docket-project/docket/internal/adapters/kafka"
	"github.com/docket-project/docket/internal/domain"
)

// Config is everything that can be set. A flag beats its environment variable, which beats the key of the same name in
// the YAML file: --console-listen, DOCKET_CONSOLE_LISTEN and console_listen are one setting.
type Config struct {
	Data string `help:"Directory of the embedded log and store, where Kafka or PostgreSQL does not replace them." env:"DOCKET_DATA" default:"./data" type:"path"`

	Listen        string `help:"Upload listener, where OPA posts." env:"DOCKET_LISTEN" default:"127.0.0.1:8080"`
	ConsoleListen string `help:"Console listener, where people and programs ask." env:"DOCKET_CONSOLE_LISTEN" default:"127.0.0.1:8081"`
	AdminListen   string `help:"Admin listener: /metrics, /livez, /readyz, and pprof on loopback. Unset: 127.0.0.1, port 9180 for serve, 9181 for ingest, 9182 for saver, 9183 for parking, 9184 for console." env:"DOCKET_ADMIN_LISTEN"`

	UploadTokensFile  string `help:"Bearer tokens for uploads, a line each: name, tenant, hex SHA-256 of the token. Read again when it changes." env:"DOCKET_UPLOAD_TOKENS_FILE" type:"path"`
	ConsoleTokensFile string `help:"Bearer tokens for the console, a line each: name, role (viewer or operator), hex SHA-256 of the token. Read again when it changes." env:"DOCKET_CONSOLE_TOKENS_FILE" type:"path"`
	TLSCertFile       string `name:"tls-cert-file" help:"Certificate for the upload and console listeners." env:"DOCKET_TLS_CERT_FILE" type:"path"`
	TLSKeyFile        string `name:"tls-key-file" help:"Key of the certificate." env:"DOCKET_TLS_KEY_FILE" type:"path"`
	Insecure          bool   `help:"Listen off loopback without tokens: something else guards the door." env:"DOCKET_INSECURE"`

	Retention Duration `help:"How long decisions are kept, by their own timestamp. Takes d for days." env:"DOCKET_RETENTION" default:"90d"`
	Migrate   bool     `help:"Create and update topics and schema at start, which only serve does." env:"DOCKET_MIGRATE" default:"true" negatable:""`

	MaxWireBytes     int64         `help:"Longest upload on the wire." env:"DOCKET_MAX_WIRE_BYTES" default:"8388608"`
	MaxInflatedBytes int           `help:"Longest upload when inflated." env:"DOCKET_MAX_INFLATED_BYTES" default:"67108864"`
	MaxInFlightBytes int64         `help:"All uploads being handled, on the wire and inflated; beyond it uploads are refused with 503." env:"DOCKET_MAX_IN_FLIGHT_BYTES" default:"268435456"`
	MaxEvents        int           `help:"Most events of an upload." env:"DOCKET_MAX_EVENTS" default:"50000"`
	MaxEventBytes    int           `help:"Longest event." env:"DOCKET_MAX_EVENT_BYTES" default:"4194304"`
	MaxDepth         int           `help:"Deepest nesting of an event." env:"DOCKET_MAX_DEPTH" default:"64"`
	PublishTimeout   time.Duration `help:"How long an upload waits for the log before it is refused with 503; at most 7.5s, because OPA waits 10 s for an answer." env:"DOCKET_PUBLISH_TIMEOUT" default:"7s"`

	SaverConcurrency  int           `help:"Most batches that are saved at once; with the embedded log it is one." env:"DOCKET_SAVER_CONCURRENCY" default:"4"`
	SaverBatchRecords int           `help:"Most records of one batch to the store." env:"DOCKET_SAVER_BATCH_RECORDS" default:"1000"`
	SaverBatchBytes   int           `help:"Most bytes of one batch to the store." env:"DOCKET_SAVER_BATCH_BYTES" default:"4194304"`
	SaverBatchWait    time.Duration `help:"Longest a record waits for its batch to fill." env:"DOCKET_SAVER_BATCH_WAIT" default:"100ms"`

	SaverAdaptive bool `help:"Save fewer batches at once while the store is slow to take them; off, it is always as many as come, up to the most." env:"DOCKET_SAVER_ADAPTIVE" default:"true" negatable:""`

	ParkingConcurrency int           `help:"Most batches that are replayed at once; with the embedded log it is one." env:"DOCKET_PARKING_CONCURRENCY" default:"2"`
	ParkingAdaptive    bool          `help:"Let the backlog yield to fresh decisions while the store is slow or busy; off, it takes all it may." env:"DOCKET_PARKING_ADAPTIVE" default:"true" negatable:""`
	ParkingMaxAttempts int           `help:"Failures of a row of its own fault before it is dead-lettered." env:"DOCKET_PARKING_MAX_ATTEMPTS" default:"10"`
	ParkingBackoffMin  time.Duration `help:"First ceiling of the backoff between such failures; it doubles, and the wait is drawn from zero to it." env:"DOCKET_PARKING_BACKOFF_MIN" default:"1s"`
	ParkingBackoffMax  time.Duration `help:"Last ceiling of that backoff." env:"DOCKET_PARKING_BACKOFF_MAX" default:"60s"`

	KafkaBrokers      []string `help:"Kafka instead of the embedded log: addresses to start from." env:"DOCKET_KAFKA_BROKERS" placeholder:"HOST:PORT,…"`
	KafkaUnreplicated string   `help:"What ingest, saver, parking and console do where a topic has fewer than three replicas or may lose what it acknowledged: refuse to start, or allow it." env:"DOCKET_KAFKA_UNREPLICATED" enum:"refuse,allow" default:"refuse"`
	KafkaTLS          bool     `name:"kafka-tls" help:"Reach the brokers by TLS." env:"DOCKET_KAFKA_TLS"`
	KafkaCAFile       string   `name:"kafka-ca-file" help:"Certificates to trust for it instead of the system's." env:"DOCKET_KAFKA_CA_FILE" type:"path"`
	KafkaSASL         string   `name:"kafka-sasl" help:"How to log in: none, plain, scram-sha-256 or scram-sha-512." env:"DOCKET_KAFKA_SASL" enum:"none,plain,scram-sha-256,scram-sha-512" default:"none"`
	KafkaUser         string   `help:"Who logs in." env:"DOCKET_KAFKA_USER"`
	KafkaPasswordFile string   `help:"File with the password; white space around it does not count." env:"DOCKET_KAFKA_PASSWORD_FILE" type:"path"`
	TopicPrefix       string   `help:"In front of the names of the topics decisions, parking, parking.dlq and dlq." env:"DOCKET_TOPIC_PREFIX" default:"docket."`

	DatabaseURL Secret `help:"PostgreSQL instead of the embedded store: a connection string such as postgres://docket@db:5432/docket. pool_max_conns bounds its connections, 8 unless set, twice: to write and to read." env:"DOCKET_DATABASE_URL"`

	LogLevel  string `help:"debug, info, warn or error." env:"DOCKET_LOG_LEVEL" enum:"debug,info,warn,error" default:"info"`
	LogFormat string `help:"text or json." env:"DOCKET_LOG_FORMAT" enum:"text,json" default:"text"`

	// Mappings stand in the file only.
	Mappings []domain.Mapping `kong:"-"`
}

// Duration is a time.Duration that also reads days.
type Duration time.Duration

// UnmarshalText reads 90d, 36h or 15m.
func (d *Duration) UnmarshalText(b []byte) error {
	text, factor := string(b), 1
	if n, ok := strings.CutSuffix(text, "d"); ok {
		text, factor = n+"h", 24
	}
	v, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 90d, 36h or 15m", b)
	}
	*d = Duration(int(v) * factor)
	return nil
}

// MarshalText writes whole days as days.
func (d Duration) MarshalText() ([]byte, error) {
	v := time.Duration(d)
	if v >= 24*time.Hour && v%(24*time.Hour) == 0 {
		return fmt.Appendf(nil, "%dd", v/(24*time.Hour)), nil
	}
	return []byte(v.String()), nil
}

// Secret is a text that is never printed.
type Secret string

// String hides the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "********"
}

// MarshalText hides the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// maxPublishTimeout keeps the answer within the 8 s that the upload API promises.
const maxPublishTimeout = 7500 * time.Millisecond

// maxBatchWait and a handler's time are less than what a group waits for a member.
const maxBatchWait = 10 * time.Second

// validate reports everything that is wrong for a role at once.
func (c *Config) validate(role Role) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if role != Serve && c.embedded() {
		var missing []string
		if len(c.KafkaBrokers) == 0 {
			missing = append(missing, "DOCKET_KAFKA_BROKERS")
		}
		if c.DatabaseURL == "" {
			missing = append(missing, "DOCKET_DATABASE_URL")
		}
		bad("docket %s shares Kafka and PostgreSQL with the other roles: set %s; or run everything in one process, with nothing else installed, with docket serve",
			role, strings.Join(missing, " and "))
	}
	if (c.KafkaSASL != "none") != (c.KafkaUser != "" && c.KafkaPasswordFile != "") {
		bad("kafka_sasl, kafka_user and kafka_password_file go together: set all of them or none")
	}
	if c.KafkaCAFile != "" && !c.KafkaTLS {
		bad("kafka_ca_file is set, but kafka_tls is not")
	}
	if (c.TLSCertFile == "") != (c.TLSKeyFile == "") {
		bad("tls_cert_file and tls_key_file go together: set both or neither")
	}
	for _, l := range []struct {
		role               Role
		name, addr, tokens string
	}{{Ingest, "listen", c.Listen, c.UploadTokensFile}, {Console, "console_listen", c.ConsoleListen, c.ConsoleTokensFile}} {
		if role.is(l.role) && l.tokens == "" && !c.Insecure && !httpapi.Loopback(l.addr) {
			bad("%s %s can be reached from other machines, and nobody would be asked who they are: "+
				"set DOCKET_%s_TOKENS_FILE, or --insecure if something in front of docket asks", l.name, l.addr,
				map[string]string{"listen": "UPLOAD", "console_listen": "CONSOLE"}[l.name])
		}
	}
	if c.PublishTimeout <= 0 || c.PublishTimeout > maxPublishTimeout {
		bad("publish_timeout %s: more than 0 and at most %s", c.PublishTimeout, maxPublishTimeout)
	}
	for _, n := range []struct {
		name string
		is   int64
	}{
		{"max_wire_bytes", c.MaxWireBytes}, {"max_inflated_bytes", int64(c.MaxInflatedBytes)}, {"max_events", int64(c.MaxEvents)},
		{"max_event_bytes", int64(c.MaxEventBytes)}, {"max_depth", int64(c.MaxDepth)}, {"saver_batch_records", int64(c.SaverBatchRecords)},
		{"saver_batch_bytes", int64(c.SaverBatchBytes)}, {"saver_batch_wait", int64(c.SaverBatchWait)},
		{"saver_concurrency", int64(c.SaverConcurrency)}, {"parking_concurrency", int64(c.ParkingConcurrency)},
		{"parking_max_attempts", int64(c.ParkingMaxAttempts)}, {"parking_backoff_min", int64(c.ParkingBackoffMin)},
		{"retention", int64(c.Retention)},
	} {
		if n.is <= 0 {
			bad("%s has to be more than 0", n.name)
		}
	}
	if len(c.KafkaBrokers) > 0 && c.MaxEventBytes > kafka.LargestEvent {
		bad("max_event_bytes %d: docket's topics in Kafka take at most %d", c.MaxEventBytes, kafka.LargestEvent)
	}
	if len(c.KafkaBrokers) > 0 && c.MaxWireBytes > kafka.LargestUpload {
		bad("max_wire_bytes %d: docket's topics in Kafka take at most %d", c.MaxWireBytes, kafka.LargestUpload)
	}
	if c.SaverBatchWait > maxBatchWait {
		bad("saver_batch_wait %s: at most %s, because a consumer group does not wait for longer", c.SaverBatchWait, maxBatchWait)
	}
	if c.MaxDepth > 1000 {
		bad("max_depth %d: at most 1000", c.MaxDepth)
	}
	if c.MaxInFlightBytes < int64(c.MaxInflatedBytes)+c.MaxWireBytes {
		bad("max_in_flight_bytes %d has to be at least max_inflated_bytes + max_wire_bytes, or no large upload is ever taken", c.MaxInFlightBytes)
	}
	if c.ParkingBackoffMax < c.ParkingBackoffMin {
		bad("parking_backoff_max %s is less than parking_backoff_min %s", c.ParkingBackoffMax, c.ParkingBackoffMin)
	}
	if _, err := domain.NewProjector(c.Mappings); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return domain.Errorf(domain.Misconfigured, "%w", err)
	}
	return nil
}

// keyOf is a flag's name in the file.
func keyOf(flag string) string { return strings.ReplaceAll(flag, "-", "_") }

// file is a configuration file, read.
type file struct {
	name     string
	values   map[string]string
	lines    map[string]int
	mappings []domain.Mapping
}

// readFile reads a YAML file. Nested keys are joined by "_", so parking: {max_attempts: 10} is parking_max_attempts.
func readFile(name string) (*file, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	var doc, more yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s line %d: there is a second document: one is read", name, more.Line)
	}
	f := &file{name: name, values: map[string]string{}, lines: map[string]int{}}
	if len(doc.Content) == 0 {
		return f, nil
	}
	return f, f.add("", doc.Content[0])
}

func (f *file) add(prefix string, n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("%s line %d: want keys and values", f.name, n.Line)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := prefix+n.Content[i].Value, n.Content[i+1]
		if line, twice := f.lines[key]; twice {
			return fmt.Errorf("%s line %d: %s is set already, in line %d", f.name, n.Content[i].Line, key, line)
		}
		f.lines[key] = n.Content[i].Line
		switch {
		case key == "mappings":
			delete(f.lines, key)
			if err := decodeStrictly(value, &f.mappings); err != nil {
				return fmt.Errorf("%s line %d: mappings: %w", f.name, value.Line, err)
			}
		case value.Kind == yaml.MappingNode:
			delete(f.lines, key)
			if err := f.add(key+"_", value); err != nil {
				return err
			}
		case value.Kind == yaml.SequenceNode:
			var items []string
			if err := value.Decode(&items); err != nil {
				return fmt.Errorf("%s line %d: %s: %w", f.name, value.Line, key, err)
			}
			f.values[key] = strings.Join(items, ",")
		default:
			f.values[key] = value.Value
		}
	}
	return nil
}

// decodeStrictly refuses keys that the type does not have.
func decodeStrictly(n *yaml.Node, into any) error {
	b, err := yaml.Marshal(n)
	if err != nil {
		return err
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	return dec.Decode(into)
}

// Validate refuses keys that no setting has; kong calls it before resolving.
func (f *file) Validate(app *kong.Application) error {
	known := map[string]bool{}
	for _, flag := range settings(app) {
		known[keyOf(flag.Name)] = true
	}
	var errs []error
	for key, line := range f.lines {
		if !known[key] {
			errs = append(errs, fmt.Errorf("%s line %d: there is no setting %q (docs/configuration.md lists them)", f.name, line, key))
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// Resolve gives kong the value of a flag that neither the command line nor the environment set.
func (f *file) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, env := range flag.Envs {
		if _, ok := os.LookupEnv(env); ok {
			return nil, nil
		}
	}
	v, ok := f.values[keyOf(flag.Name)]
	if !ok || !isSetting(flag) {
		return nil, nil
	}
	return v, nil
}

// settings are the flags that Config declares, wherever it is embedded.
func settings(app *kong.Application) []*kong.Flag {
	var out []*kong.Flag
	seen := map[string]bool{}
	_ = kong.Visit(app, func(n kong.Visitable, next kong.Next) error {
		if flag, ok := n.(*kong.Flag); ok && isSetting(flag) && !seen[flag.Name] {
			seen[flag.Name] = true
			out = append(out, flag)
		}
		return next(nil)
	})
	return out
}

var settingEnvs = func() map[string]bool {
	envs := map[string]bool{}
	for f := range reflect.TypeFor[Config]().Fields() {
		if env := f.Tag.Get("env"); env != "" {
			envs[env] = true
		}
	}
	return envs
}()

// isSetting tells a field of Config from the flags of other commands.
func isSetting(flag *kong.Flag) bool {
	return len(flag.Envs) > 0 && settingEnvs[flag.Envs[0]]
}
