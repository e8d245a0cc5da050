package app

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// opaConfig is what OPA needs to upload to docket. deploy/opa/config.yaml is the same text; a test keeps it so.
func opaConfig(url, tokenFile string) string {
	credentials := ""
	if tokenFile != "" {
		credentials = "\n    credentials:\n      bearer:\n        token_path: " + tokenFile
	}
	return `services:
  docket:
    url: ` + url + credentials + `

decision_logs:
  service: docket
  reporting:
    buffer_type: size
    buffer_size_limit_bytes: 67108864 # 64 MiB; without a bound an outage fills OPA's memory
    upload_size_limit_bytes: 1048576  # 1 MiB compressed
    min_delay_seconds: 1
    max_delay_seconds: 5

status:
  service: docket
`
}

// printBanner tells a newcomer where everything is and what OPA needs.
func printBanner(w io.Writer, a *App) {
	scheme := "http"
	if a.cfg.TLSCertFile != "" {
		scheme = "https"
	}
	upload := scheme + "://" + a.UploadAddr()
	token := ""
	if a.cfg.UploadTokensFile != "" {
		token = "/etc/docket/token"
	}
	fmt.Fprintf(w, `docket %[1]s, embedded: everything is kept in %[2]s

  OPA posts to         %[3]s/logs
  The API answers at   %[4]s://%[5]s/api/v1/decisions
  Metrics and health   http://%[6]s/metrics  /livez  /readyz

Paste this into OPA's configuration:

%[7]s
Or try it without OPA, from another terminal:

  %[8]s send examples/decisions.json
  %[8]s find --denied --since 1h
  %[8]s status

`, Version, a.cfg.Data, upload, scheme, a.ConsoleAddr(), a.AdminAddr(), indent(opaConfig(upload, token)), os.Args[0])
}

func indent(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		if line != "" {
			lines[i] = "    " + line
		}
	}
	return strings.Join(lines, "\n")
}
