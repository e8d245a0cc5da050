package command

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/docket-project/docket/internal/app"
	"github.com/docket-project/docket/internal/status"
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
func printBanner(w io.Writer, a *app.App) {
	cfg := a.Config()
	scheme := "http"
	if cfg.TLSCertFile != "" {
		scheme = "https"
	}
	upload := scheme + "://" + a.UploadAddr()
	token := ""
	if cfg.UploadTokensFile != "" {
		token = "/etc/docket/token"
	}
	fmt.Fprintf(w, "docket %s %s, %s\n\n", app.Version, a.Role(), cfg.Describe())
	if a.UploadAddr() != "" {
		fmt.Fprintf(w, "  OPA posts to         %s/logs\n", upload)
	}
	if a.ConsoleAddr() != "" {
		fmt.Fprintf(w, "  The API answers at   %s://%s/api/v1/decisions\n", scheme, a.ConsoleAddr())
	}
	fmt.Fprintf(w, "  Metrics and health   http://%s/metrics  /livez  /readyz\n\n", a.AdminAddr())
	if a.Role() != status.Serve {
		return
	}
	fmt.Fprintf(w, `Paste this into OPA's configuration:

%[1]s
Or try it without OPA, from another terminal:

  %[2]s send examples/decisions.json
  %[2]s find --denied --since 1h
  %[2]s status

`, indent(opaConfig(upload, token)), os.Args[0])
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
