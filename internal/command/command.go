// Package command is docket's command line: the grammar, where a setting's value comes from, and the commands that run
// a role or look after what it keeps. The commands that ask a console are cli's; what a role is made of is app's.
package command

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
	"github.com/mattn/go-isatty"
	"golang.org/x/term"
	"gopkg.in/yaml.v3"

	"github.com/docket-project/docket/internal/adapters/cli"
	"github.com/docket-project/docket/internal/adapters/replaypolicy"
	"github.com/docket-project/docket/internal/app"
	"github.com/docket-project/docket/internal/config"
	"github.com/docket-project/docket/internal/status"
)

// commandLine is the grammar of cmd/docket.
type commandLine struct {
	Reach       cli.Reach        `embed:""`
	ShowVersion kong.VersionFlag `name:"version" help:"Print the version."`
	ConfigFile  string           `name:"config" help:"YAML file with settings." env:"DOCKET_CONFIG" type:"path" placeholder:"FILE"`

	Serve        serveCommand     `cmd:"" help:"Run everything in one process, with nothing else installed."`
	Ingest       ingestCommand    `cmd:"" help:"Run the role that takes uploads; needs Kafka and PostgreSQL, as the next three do."`
	Saver        saverCommand     `cmd:"" help:"Run the role that stores decisions."`
	Parking      parkingCommand   `cmd:"" help:"Run the role that replays what the store could not take."`
	Console      consoleCommand   `cmd:"" help:"Run the role that answers people and programs."`
	Send         cli.Send         `cmd:"" help:"Send decisions from files, as an OPA would."`
	Find         cli.Find         `cmd:"" help:"Search decisions."`
	Show         cli.Show         `cmd:"" help:"Show one decision: what was decided, and why; -o raw prints its exact bytes."`
	Diff         cli.Diff         `cmd:"" help:"Tell in what two decisions differ, or one and the last like it that was allowed."`
	Stats        cli.Stats        `cmd:"" help:"Count decisions: by outcome, by any field, and by time."`
	Trail        cli.Trail        `cmd:"" help:"Tell where a decision is: stored, waiting, dead, or never received."`
	DLQ          cli.DLQ          `cmd:"" name:"dlq" help:"Inspect dead letters, and replay or discard them."`
	Jobs         cli.Jobs         `cmd:"" help:"Look at jobs, and pause, resume or cancel them."`
	Audit        cli.Audit        `cmd:"" help:"List what operators did, and why."`
	Status       cli.Status       `cmd:"" help:"Tell whether everything is well, in one line, and what waits; --check is for scripts."`
	Credentials  cli.Credentials  `cmd:"" help:"List the tokens, certificates and issuers' subjects that docket knows, and when they were used last."`
	OPAs         cli.OPAs         `cmd:"" name:"opas" help:"List OPAs: live, silent and gone, by application, with what they say of themselves."`
	Migrate      migrateCommand   `cmd:"" help:"Create or update topics and schema, and stop."`
	Config       configCommand    `cmd:"" help:"Print the settings in force, secrets hidden."`
	ReplayPolicy cli.ReplayPolicy `cmd:"" name:"replay-policy" help:"Decide stored decisions again, by another policy: what would come out otherwise?"`

	Erase     cli.Erase       `cmd:"" help:"Erase what is kept about somebody, and store nothing of it again. Without --yes, only report."`
	Reproject cli.Reproject   `cmd:"" help:"Compute the columns of stored decisions anew, after mappings have changed. Without --yes, only report."`
	Mapping   mappingCommands `cmd:"" help:"Try out mappings: which part of an event means what."`
	Policy    policyCommands  `cmd:"" help:"Try out policies: what is kept of an event."`
	Log       logCommands     `cmd:"" help:"Repair the durable log, or read it again."`

	Backup    backupCommand     `cmd:"" help:"Copy the embedded log and store to a directory, also while docket runs."`
	Verify    verifyCommand     `cmd:"" help:"Read the embedded log and store whole, and tell what is damaged or missing."`
	Retention retentionCommands `cmd:"" help:"Change how long decisions are kept."`

	Version versionCommand `cmd:"" help:"Print the version."`
	Help    cli.Topic      `cmd:"" help:"Read about replay, trail, and the causes of dead letters."`

	Completion kongcompletion.Completion `cmd:"" help:"Make the shell complete commands and flags."`
}

// OPA is what a program does with OPA's library, which is as large as a third of docket. The zero OPA is of one that
// can do without.
type OPA struct {
	// Decide decides stored decisions again.
	Decide replaypolicy.Decider
	// Access makes the policy of what callers may do.
	Access app.LoadAccess
}

// Exec runs docket with the process's arguments behind first, until a signal tells it to stop, and returns its exit
// code.
func Exec(opa OPA, first ...string) int {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup
		signals = append(signals, syscall.SIGHUP) // a terminal that is closed, and some supervisors
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	return program(ctx, opa, append(first, os.Args[1:]...), os.Stdout, os.Stderr)
}

// Main runs docket with args and returns its exit code. It ends early, and in good order, when ctx is done.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return program(ctx, OPA{}, args, stdout, stderr)
}

func program(ctx context.Context, opa OPA, args []string, stdout, stderr io.Writer) int {
	code, err := run(ctx, opa, args, stdout, stderr)
	if err != nil && err.Error() != "" {
		fmt.Fprintf(stderr, "docket: %s\n", cli.PrintableLines(err.Error()))
	}
	return code
}

func run(ctx context.Context, opa OPA, args []string, stdout, stderr io.Writer) (int, error) {
	kctx, grammar, err := parse(args, stdout, stderr, nil)
	name := grammar.ConfigFile
	var sections app.Sections
	if err == nil && name != "" {
		file, err := config.Read(name, &sections)
		if err != nil {
			return cli.ExitMisconfigured, err
		}
		if err := (fileResolver{file}).Validate(kctx.Model); err != nil {
			return cli.ExitMisconfigured, err
		}
		if kctx, grammar, err = parse(args, stdout, stderr, file); err != nil {
			return cli.ExitMisconfigured, fmt.Errorf("%s: %w", name, err)
		}
	}
	if err != nil && strings.Contains(err.Error(), "(from envar ") { // kong has no type for it
		return cli.ExitMisconfigured, err
	}
	if err != nil {
		return cli.ExitUsage, fmt.Errorf("%w\nTry docket --help", err)
	}
	fill(kctx, sections)
	fill(kctx, cli.Console(grammar.Reach))
	fill(kctx, programOf(opa.Decide, sections))
	fill(kctx, opa.Access)
	kctx.BindTo(ctx, (*context.Context)(nil))
	kctx.Bind(opa.Decide)
	out, done := outputs(kctx, stdout, stderr)
	defer done()
	unknown := unknownVariables(kctx.Model)
	if _, role := app.AdminListen[status.Role(kctx.Command())]; !role { // a role warns in its log
		for _, name := range unknown {
			fmt.Fprintf(stderr, "docket: %s is no setting; is it spelled wrong?\n", name)
		}
	}
	if err := kctx.Run(out, unknown); err != nil {
		return cli.ExitCode(err), err
	}
	return cli.ExitDone, nil
}

// programOf is this program as what decides by a policy, where it can.
func programOf(decide replaypolicy.Decider, sections app.Sections) replaypolicy.Program {
	p := replaypolicy.Program{Mappings: sections.Mappings}
	if self, err := os.Executable(); err == nil && decide != nil {
		p.Path = self
	}
	return p
}

// outputs are where a command prints. On a terminal it knows how wide that is, has colours unless NO_COLOR is set
// (https://no-color.org), and what is longer than the screen goes through a pager, for which done waits.
func outputs(kctx *kong.Context, stdout, stderr io.Writer) (out cli.Out, done func()) {
	done = func() {}
	var terminal cli.Terminal
	behind := stdout
	if isTerminal(stdout) {
		width, height, err := term.GetSize(int(stdout.(*os.File).Fd())) //nolint:forcetypeassert // isTerminal
		if err == nil {
			terminal.Width = width
		}
		terminal.Colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
		if f, _ := find[cli.Find](kctx); isPaged(kctx.Command()) && !f.Follow {
			if p := pagerOf(stdout, height); p != nil {
				behind, done = p, func() { _ = p.Close() } // the person has left
			}
		}
	}
	out = cli.Out{
		Stdout: cli.Screen(behind), Stderr: cli.Screen(stderr, '\r'), Raw: stdout, Terminal: isTerminal(stderr),
	}
	if isTerminal(stdout) {
		out.Raw = out.Stdout
	}
	if form, has := find[cli.Form](kctx); has {
		form.Onto(out.Stdout, terminal)
	}
	return out, done
}

// parse reads the command line. Behind flags and environment stand the file, if there is one, and the defaults.
func parse(args []string, stdout, stderr io.Writer, file *config.File) (*kong.Context, *commandLine, error) {
	grammar := &commandLine{}
	options := []kong.Option{
		kong.Name("docket"),
		kong.Description("The record of every decision that Open Policy Agent makes."),
		kong.Writers(stdout, stderr),
		kong.UsageOnError(),
		kong.Vars{"version": versionLine()},
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.PostBuild(withDefaults),
	}
	options = append(options, mappers()...)
	if file != nil {
		options = append(options, kong.Resolvers(fileResolver{file}))
	}
	p, err := kong.New(grammar, options...)
	if err != nil {
		return nil, grammar, err
	}
	kongcompletion.Register(p) // answers the shell, and ends the process, where that asks
	kctx, err := p.Parse(args)
	return kctx, grammar, err
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// warnings are for the log of a command that has one.
type warnings []string

// serviceLink are the variables that Kubernetes sets for a service named docket, or docket-something
// (https://kubernetes.io/docs/tutorials/services/connect-applications-service/#accessing-the-service).
var serviceLink = regexp.MustCompile(
	`^DOCKET_(\w+_)?(SERVICE_HOST=|SERVICE_PORT(_\w+)?=\d+$|PORT(_\d+_(TCP|UDP|SCTP))?=\w+://|` +
		`PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)=)`,
)

// unknownVariables names every DOCKET_* variable that no flag reads.
func unknownVariables(app *kong.Application) warnings {
	known := map[string]bool{}
	_ = kong.Visit(app, func(n kong.Visitable, next kong.Next) error {
		if flag, ok := n.(*kong.Flag); ok {
			for _, env := range flag.Envs {
				known[env] = true
			}
		}
		return next(nil)
	})
	var out warnings
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "DOCKET_") && !known[name] && !serviceLink.MatchString(kv) {
			out = append(out, name)
		}
	}
	return out
}

// roleCommand is a command that runs until it is told to stop.
type roleCommand struct {
	settings
}

func (r *roleCommand) serve(ctx context.Context, role status.Role, out cli.Out, unknown warnings) error {
	logger := newLogger(out.Stderr, r.Config)
	for _, name := range unknown {
		logger.Warn(
			"this environment variable sets nothing; is it misspelt? docs/configuration.md lists them", "variable", name,
		)
	}
	return app.Run(ctx, role, r.Config, logger, func(a *app.App) { printBanner(out.Stdout, a) })
}

type (
	serveCommand   struct{ roleCommand }
	ingestCommand  struct{ roleCommand }
	saverCommand   struct{ roleCommand }
	parkingCommand struct{ roleCommand }
	consoleCommand struct{ roleCommand }
)

// Run serves until ctx is done.
func (c *serveCommand) Run(ctx context.Context, out cli.Out, unknown warnings) error {
	return c.serve(ctx, status.Serve, out, unknown)
}

// Run takes uploads until ctx is done.
func (c *ingestCommand) Run(ctx context.Context, out cli.Out, unknown warnings) error {
	return c.serve(ctx, status.Ingest, out, unknown)
}

// Run stores until ctx is done.
func (c *saverCommand) Run(ctx context.Context, out cli.Out, unknown warnings) error {
	return c.serve(ctx, status.Saver, out, unknown)
}

// Run replays until ctx is done.
func (c *parkingCommand) Run(ctx context.Context, out cli.Out, unknown warnings) error {
	return c.serve(ctx, status.Parking, out, unknown)
}

// Run answers until ctx is done.
func (c *consoleCommand) Run(ctx context.Context, out cli.Out, unknown warnings) error {
	return c.serve(ctx, status.Console, out, unknown)
}

func newLogger(w io.Writer, c app.Config) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.LogLevel)) // app.Config.Validate refuses another
	options := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// configCommand is `docket config`.
type configCommand struct {
	settings
}

// Run prints every setting under its name in the file, as YAML that can be used as one.
func (c *configCommand) Run(kctx *kong.Context, out cli.Out) error {
	for _, flag := range kctx.Flags() {
		if !isSetting(flag) {
			continue
		}
		value := flag.Target.Interface()
		if list, ok := value.([]string); ok && list == nil {
			value = []string{} // null would be no list
		}
		if d, ok := value.(time.Duration); ok {
			value = d.String()
		}
		if flag.Tag.Type == "size" {
			value = spellFlag(flag)
		}
		b, err := json.Marshal(value)
		if err != nil {
			return err
		}
		fmt.Fprintf(out.Stdout, "%s: %s\n", keyOf(flag.Name), b)
	}
	b, err := yaml.Marshal(c.Sections)
	if err != nil {
		return err
	}
	if string(b) != "{}\n" {
		fmt.Fprintf(out.Stdout, "%s", b)
	}
	return c.Validate(status.Serve)
}

type versionCommand struct{}

// Run prints one line.
func (versionCommand) Run(out cli.Out) error {
	_, err := fmt.Fprintln(out.Stdout, versionLine())
	return err
}

func versionLine() string {
	return strings.TrimSpace("docket " + app.Version + " " + app.Commit + " " + app.Date)
}
