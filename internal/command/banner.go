package command

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/app"
	"github.com/docket-project/docket/internal/status"
)

// printBanner tells a newcomer where everything is and what OPA needs.
func printBanner(w io.Writer, a *app.App) {
	cfg := a.Config()
	fmt.Fprintf(w, "docket %s %s, %s\n\n", app.Version, a.Role(), cfg.Describe())
	if a.UploadAddr() != "" {
		fmt.Fprintf(w, "  OPA posts to         %s/logs\n", a.UploadURL())
	}
	if a.ConsoleAddr() != "" {
		fmt.Fprintf(w, "  Look at decisions    %s/\n", a.ConsoleURL())
		fmt.Fprintf(w, "  The API answers at   %s/api/v1/decisions\n", a.ConsoleURL())
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

`, indent(api.OPAConfig(a.UploadURL(), a.OPATokenFile())), os.Args[0])
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
