package cli

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
)

// Identity is how a command shows docket who asks, and knows that it is docket which answers.
type Identity struct {
	TokenFile string `help:"File with the bearer token." env:"DOCKET_TOKEN_FILE" type:"path" placeholder:"FILE"`
	CAFile    string `name:"ca-file" help:"Certificates that docket's own is checked by, instead of the system's (PEM)." env:"DOCKET_CA_FILE" type:"path" placeholder:"FILE"`
	CertFile  string `name:"client-cert-file" help:"Certificate to show docket." env:"DOCKET_CLIENT_CERT_FILE" type:"path" placeholder:"FILE"`
	KeyFile   string `name:"client-key-file" help:"Key of that certificate." env:"DOCKET_CLIENT_KEY_FILE" type:"path" placeholder:"FILE"`
}

// show adds the token to a request, and returns the client to send it with.
func (i Identity) show(r *http.Request) (*http.Client, error) {
	if i.TokenFile != "" {
		token, err := os.ReadFile(i.TokenFile)
		if err != nil {
			return nil, fail(ExitMisconfigured, "read the token: %v", err)
		}
		text := strings.TrimSpace(string(token))
		if text == "" || strings.ContainsAny(text, " \t\r\n") {
			return nil, fail(ExitMisconfigured, "%s has to have one token in it, and nothing else", i.TokenFile)
		}
		r.Header.Set("Authorization", "Bearer "+text)
	}
	return i.client()
}

// clients are those of identities that were used before: a command may make many requests.
var clients sync.Map

func (i Identity) client() (*http.Client, error) {
	i.TokenFile = ""
	if i == (Identity{}) {
		return http.DefaultClient, nil
	}
	if known, ok := clients.Load(i); ok {
		return known.(*http.Client), nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if i.CAFile != "" {
		pem, err := os.ReadFile(i.CAFile)
		if err != nil {
			return nil, fail(ExitMisconfigured, "read the certificates of --ca-file: %v", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fail(ExitMisconfigured, "there is no certificate in %s (--ca-file wants PEM)", i.CAFile)
		}
	}
	if (i.CertFile == "") != (i.KeyFile == "") {
		return nil, fail(ExitUsage, "--client-cert-file and --client-key-file go together: set both or neither")
	}
	if i.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(i.CertFile, i.KeyFile)
		if err != nil {
			return nil, fail(ExitMisconfigured, "read the client certificate: %v", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	via := http.DefaultTransport.(*http.Transport).Clone()
	via.TLSClientConfig = cfg
	made, _ := clients.LoadOrStore(i, &http.Client{Transport: via})
	return made.(*http.Client), nil
}

// whyNot says what to look at where docket did not answer.
func whyNot(err error) string {
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return "Its certificate is signed by nobody that this machine knows: give the signer's certificate with --ca-file."
	}
	return "Is it running (docket serve), and is this its address? See --server, --upload-server."
}
