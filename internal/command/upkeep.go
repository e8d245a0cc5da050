package command

import (
	"context"

	"github.com/docket-project/docket/internal/adapters/cli"
	"github.com/docket-project/docket/internal/app"
	"github.com/docket-project/docket/internal/status"
)

// migrateCommand is `docket migrate`.
type migrateCommand struct {
	settings
}

// Run creates or updates what docket keeps, wherever the settings say, and stops.
func (c *migrateCommand) Run(ctx context.Context, out cli.Out) error {
	return app.Migrate(ctx, c.Config, newLogger(out.Stderr, c.Config), out.Stdout)
}

// logCommands are `docket log …`.
type logCommands struct {
	AcceptLoss acceptLossCommand `cmd:"" help:"Give up damaged or missing records of the log, note which, and go on behind them."`
	Rewind     rewindCommand     `cmd:"" help:"Read the log again from a time on, after the store has lost what it had."`
}

type rewindCommand struct {
	settings
	Since string `help:"From when on: an RFC 3339 time, or a duration back such as 90m." required:""`
	Yes   bool   `help:"Do it. Without this, only list how far back it would go."`
}

// Run moves the groups that save back.
func (c *rewindCommand) Run(ctx context.Context, out cli.Out) error {
	return app.Rewind(ctx, c.Config, newLogger(out.Stderr, c.Config), c.Since, c.Yes, out.Stdout)
}

// backupCommand is `docket backup`.
type backupCommand struct {
	settings
	Directory string `arg:"" help:"Where to: an empty directory, or one that is not there yet."`
}

// Run copies the embedded files.
func (c *backupCommand) Run(ctx context.Context, out cli.Out) error {
	return app.Backup(ctx, c.Config, newLogger(out.Stderr, c.Config), c.Directory, out.Stdout)
}

// verifyCommand is `docket verify`.
type verifyCommand struct {
	settings
}

// Run reads everything in the data directory.
func (c *verifyCommand) Run(ctx context.Context, out cli.Out) error {
	return app.Verify(ctx, c.Config, newLogger(out.Stderr, c.Config), out.Stdout)
}

// retentionCommands are `docket retention …`.
type retentionCommands struct {
	Apply applyRetentionCommand `cmd:"" help:"Put the configured retention in force, also where it is shorter, and drop what is past it."`
}

type applyRetentionCommand struct {
	settings
	Yes bool `help:"Do it. Without this, only list the days that would go."`
}

// Run drops days.
func (c *applyRetentionCommand) Run(ctx context.Context, out cli.Out) error {
	return app.ApplyRetention(ctx, c.Config, newLogger(out.Stderr, c.Config), c.Yes, out.Stdout)
}

type acceptLossCommand struct {
	settings
	Yes bool `help:"Do it. Without this, only list what would be given up."`
}

// Run repairs the log that the settings name.
func (c *acceptLossCommand) Run(ctx context.Context, out cli.Out) error {
	return app.AcceptLoss(ctx, c.Config, newLogger(out.Stderr, c.Config), c.Yes, out.Stdout)
}

// policyCommands are `docket policy …`.
type policyCommands struct {
	Test policyTestCommand `cmd:"" help:"Tell what is kept of events with the policies of the configuration: what they mask, and what they leave out."`
}

type policyTestCommand struct {
	settings
	cli.PolicyTest `embed:""`
}

// Run applies the policies to the events of files.
func (c *policyTestCommand) Run(out cli.Out) error {
	if err := c.Validate(status.Serve); err != nil {
		return err
	}
	p, err := app.Projector(c.Config)
	if err != nil {
		return err
	}
	content, err := app.Content(c.Config, p, nil)
	if err != nil {
		return err
	}
	return c.Test(out, cli.Policies{Content: content, Projector: p, Limits: c.Ingest.Limits()})
}

// mappingCommands are `docket mapping …`.
type mappingCommands struct {
	Test mappingTestCommand `cmd:"" help:"Tell what becomes of events with the mappings of the configuration, and which rule decides."`
}

type mappingTestCommand struct {
	Sections        app.Sections `kong:"-"`
	cli.MappingTest `embed:""`
}

// Run projects the events of files.
func (c *mappingTestCommand) Run(out cli.Out) error {
	p, err := app.Projector(app.Config{Sections: c.Sections})
	if err != nil {
		return err
	}
	return c.Test(out, p)
}
