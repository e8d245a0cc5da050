package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/docket-project/docket/internal/config"
	"github.com/docket-project/docket/internal/domain"
)

// Config is what can be set of Kafka.
type Config struct {
	Brokers      []string `help:"Kafka instead of the embedded log: addresses to start from." env:"BROKERS" type:"names" placeholder:"HOST:PORT,…"`
	Unreplicated string   `help:"What ingest, saver, parking and console do where a topic has fewer than three replicas or may lose what it acknowledged: refuse to start, or allow it." env:"UNREPLICATED"`
	TLS          bool     `name:"tls" help:"Reach the brokers by TLS." env:"TLS"`
	CAFile       string   `name:"ca-file" help:"Certificates to trust for it instead of the system's." env:"CA_FILE" type:"path"`
	SASL         string   `name:"sasl" help:"How to log in: none, plain, scram-sha-256 or scram-sha-512." env:"SASL"`
	User         string   `help:"Who logs in." env:"USER"`
	PasswordFile string   `help:"File with the password; white space around it does not count." env:"PASSWORD_FILE" type:"path"`
}

// What Config.Unreplicated may be.
const (
	Refuse = "refuse"
	Allow  = "allow"
)

// noSASL is Config.SASL of who logs in nowhere.
const noSASL = "none"

// Default is no Kafka.
func Default() Config { return Config{Unreplicated: Refuse, SASL: noSASL} }

// On says that Kafka is the log.
func (c Config) On() bool { return len(c.Brokers) > 0 }

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	errs := []error{
		config.OneOf("kafka_unreplicated", c.Unreplicated, Refuse, Allow),
		config.OneOf("kafka_sasl", c.SASL, noSASL, "plain", "scram-sha-256", "scram-sha-512"),
		config.Together(
			"kafka_sasl, kafka_user and kafka_password_file", c.SASL != noSASL, c.User != "", c.PasswordFile != "",
		),
	}
	if c.CAFile != "" && !c.TLS {
		errs = append(errs, errors.New("kafka_ca_file is set, but kafka_tls is not"))
	}
	return errors.Join(errs...)
}

// ValidateSizes reports uploads and events that the topics would not take, in bytes.
func (c Config) ValidateSizes(event int, upload int64) error {
	var errs []error
	if c.On() && event > LargestEvent {
		errs = append(errs, fmt.Errorf("max_event_bytes %d: docket's topics in Kafka take at most %d", event, LargestEvent))
	}
	if c.On() && upload > LargestUpload {
		errs = append(errs, fmt.Errorf("max_wire_bytes %d: docket's topics in Kafka take at most %d", upload, LargestUpload))
	}
	return errors.Join(errs...)
}

// Connect fills in how to reach the brokers. Errors: Misconfigured, for files that cannot be read.
func (c Config) Connect(o *Options) error {
	o.Brokers = c.Brokers
	if c.TLS {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return domain.Errorf(domain.Misconfigured, "read kafka_ca_file: %w", err)
		}
		o.TLS.RootCAs = x509.NewCertPool()
		if !o.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return domain.Errorf(domain.Misconfigured, "kafka_ca_file %s has no certificate in PEM", c.CAFile)
		}
	}
	if c.SASL != noSASL {
		password, err := os.ReadFile(c.PasswordFile)
		if err != nil {
			return domain.Errorf(domain.Misconfigured, "read kafka_password_file: %w", err)
		}
		o.SASL = mechanism(c.SASL, c.User, strings.TrimSpace(string(password)))
	}
	return nil
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
