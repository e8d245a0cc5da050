// Package app puts docket together: configuration, composition, lifecycle and telemetry. It is the only package that
// knows every other one, and holds no rule of its own about decisions.
package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
	"github.com/mattn/go-isatty"
	"gopkg.in/yaml.v3"

	"github.com/docket-project/docket/internal/adapters/cli"
)

// Version, Commit and Date are set by the linker.
var (
	Version = "dev"
	Commit  = ""
	Date    = ""
)

// commandLine is the grammar of cmd/docket.
type commandLine struct {
	ConfigFile string `name:"config" help:"YAML file with settings." env:"DOCKET_CONFIG" type:"path" placeholder:"FILE"`

	Serve   serveCommand   `cmd:"" help:"Run everything in one process, with nothing else installed."`
	Ingest  ingestCommand  `cmd:"" help:"Run the role that takes uploads; needs Kafka and PostgreSQL, as the next three do."`
	Saver   saverCommand   `cmd:"" help:"Run the role that stores what was taken."`
	Parking parkingCommand `cmd:"" help:"Run the role that replays what the store could not take."`
	Console consoleCommand `cmd:"" help:"Run the role that answers people and programs."`
	Send    cli.Send       `cmd:"" help:"Send decisions from files, as an OPA would."`
	Find    cli.Find       `cmd:"" help:"Search decisions."`
	Show    cli.Show       `cmd:"" help:"Show one decision: what was decided, and why."`
	Trail   cli.Trail      `cmd:"" help:"Tell where a decision is: stored, waiting, dead, or never received."`
	DLQ     cli.DLQ        `cmd:"" name:"dlq" help:"Look into dead letters, and replay or discard them."`
	Audit   cli.Audit      `cmd:"" help:"Tell what operators did, and why."`
	Status  cli.Status     `cmd:"" help:"Tell whether anything is arriving, from which OPAs, and what waits."`
	Flood   cli.Flood      `cmd:"" help:"See what the store refuses, and let it go."`
	Migrate migrateCommand `cmd:"" help:"Create or update topics and schema, and stop."`
	Config  configCommand  `cmd:"" help:"Print the settings in force, secrets hidden."`
	Log     logCommands    `cmd:"" help:"Mend the durable log."`
	Version versionCommand `cmd:"" help:"Print the version."`
	Help    cli.Topic      `cmd:"" help:"Read about: replay, trail."`

	Completion kongcompletion.Completion `cmd:"" help:"Make the shell complete commands and flags."`
}

// Exec runs docket with the process's arguments behind first, until a signal tells it to stop, and returns its exit code.
func Exec(first ...string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return Main(ctx, append(first, os.Args[1:]...), os.Stdout, os.Stderr)
}

// Main runs docket with args and returns its exit code. It ends early, and in good order, when ctx is done.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	code, err := run(ctx, args, stdout, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "docket: %v\n", err)
	}
	return code
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (int, error) {
	var file *file
	kctx, grammar, err := parse(args, stdout, stderr, nil)
	name := grammar.ConfigFile
	if err == nil && name != "" {
		if file, err = readFile(name); err != nil {
			return cli.ExitMisconfigured, err
		}
		if err := file.Validate(kctx.Model); err != nil {
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
	if file != nil {
		for _, c := range grammar.configs() {
			c.Mappings = file.mappings
		}
	}
	kctx.BindTo(ctx, (*context.Context)(nil))
	out := cli.Out{Stdout: stdout, Stderr: stderr, Terminal: isTerminal(stderr)}
	unknown := unknownVariables(kctx.Model)
	if _, role := adminListen[Role(kctx.Command())]; !role { // which has a log to warn in
		for _, name := range unknown {
			fmt.Fprintf(stderr, "docket: %s sets nothing; is it misspelt?\n", name)
		}
	}
	if err := kctx.Run(out, unknown); err != nil {
		return cli.ExitCode(err), err
	}
	return cli.ExitDone, nil
}

// parse reads the command line, with a file behind flags and environment.
func parse(args []string, stdout, stderr io.Writer, f *file) (*kong.Context, *commandLine, error) {
	grammar := &commandLine{}
	options := []kong.Option{
		kong.Name("docket"),
		kong.Description("The record of every decision that Open Policy Agent makes."),
		kong.Writers(stdout, stderr),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
	}
	if f != nil {
		options = append(options, kong.Resolvers(f))
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
		if strings.HasPrefix(name, "DOCKET_") && !known[name] {
			out = append(out, name)
		}
	}
	return out
}

// configs are the settings wherever the grammar embeds them.
func (c *commandLine) configs() []*Config {
	return []*Config{
		&c.Serve.Config, &c.Ingest.Config, &c.Saver.Config, &c.Parking.Config, &c.Console.Config, &c.Config.Config, &c.Migrate.Config, &c.Log.AcceptLoss.Config,
	}
}

// roleCommand is a command that runs until it is told to stop.
type roleCommand struct {
	Config `embed:""`
}

func (r *roleCommand) serve(ctx context.Context, role Role, out cli.Out, unknown warnings) error {
	logger := newLogger(out.Stderr, r.Config)
	for _, name := range unknown {
		logger.Warn("this environment variable sets nothing; is it misspelt? docs/configuration.md lists them", "variable", name)
	}
	return Run(ctx, role, r.Config, logger, func(a *App) { printBanner(out.Stdout, a) })
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
	return c.serve(ctx, Serve, out, unknown)
}

// Run takes uploads until ctx is done.
func (c *ingestCommand) Run(ctx context.Context, out cli.Out, unknown warnings) error {
	return c.serve(ctx, Ingest, out, unknown)
}

// Run stores until ctx is done.
func (c *saverCommand) Run(ctx context.Context, out cli.Out, unknown warnings) error {
	return c.serve(ctx, Saver, out, unknown)
}

// Run replays until ctx is done.
func (c *parkingCommand) Run(ctx context.Context, out cli.Out, unknown warnings) error {
	return c.serve(ctx, Parking, out, unknown)
}

// Run answers until ctx is done.
func (c *consoleCommand) Run(ctx context.Context, out cli.Out, unknown warnings) error {
	return c.serve(ctx, Console, out, unknown)
}

func newLogger(w io.Writer, c Config) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.LogLevel)) // an enum
	options := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// configCommand is `docket config`.
type configCommand struct {
	Config `embed:""`
}

// Run prints every setting under its name in the file, as YAML that can be used as one.
func (c *configCommand) Run(kctx *kong.Context, out cli.Out) error {
	for _, flag := range kctx.Flags() {
		if !isSetting(flag) {
			continue
		}
		value := flag.Target.Interface()
		if d, ok := value.(time.Duration); ok {
			value = d.String()
		}
		b, err := json.Marshal(value)
		if err != nil {
			return err
		}
		fmt.Fprintf(out.Stdout, "%s: %s\n", keyOf(flag.Name), b)
	}
	if len(c.Mappings) > 0 {
		b, err := yaml.Marshal(map[string]any{"mappings": c.Mappings})
		if err != nil {
			return err
		}
		fmt.Fprintf(out.Stdout, "%s", b)
	}
	return c.validate(Serve)
}

type versionCommand struct{}

// Run prints one line.
func (versionCommand) Run(out cli.Out) error {
	_, err := fmt.Fprintln(out.Stdout, strings.TrimSpace("docket "+Version+" "+Commit+" "+Date))
	return err
}
