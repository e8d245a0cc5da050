package command

import (
	"context"

	"github.com/docket-project/docket/internal/adapters/cli"
	"github.com/docket-project/docket/internal/app"
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
}

type acceptLossCommand struct {
	settings
	Yes bool `help:"Do it. Without this, only list what would be given up."`
}

// Run repairs the log that the settings name.
func (c *acceptLossCommand) Run(ctx context.Context, out cli.Out) error {
	return app.AcceptLoss(ctx, c.Config, newLogger(out.Stderr, c.Config), c.Yes, out.Stdout)
}
