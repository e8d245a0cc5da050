package app

import (
	"context"
	"slices"

	"github.com/docket-project/docket/internal/adapters/auth"
	"github.com/docket-project/docket/internal/status"
)

// callers know who asks, on each listener.
type callers struct {
	upload, console auth.Authenticator
	uses            *auth.Uses
	// sessions are people's, where they need tokens; nil otherwise.
	sessions *auth.Sessions
}

// authenticators make the callers of the role's listeners: by what they show where something is granted to a
// credential, and otherwise everybody alike, which Config.Validate allows on loopback or when it is told to.
func (a *App) authenticators() (c callers, err error) {
	known, err := a.credentials()
	if err != nil {
		return c, err
	}
	c.uses = auth.NewUses(a.logger)
	for listener, of := range known {
		of.Listener, of.Uses = listener, c.uses
		c.uses.List(listener, of.Tokens)
	}
	c.upload, c.console = auth.AnonymousUploader(), auth.AnonymousOperator()
	if upload := known[auth.UploadListener]; upload != nil {
		c.upload = upload
	}
	if console := known[auth.ConsoleListener]; console != nil {
		c.console = console
		if console.Tokens != nil {
			if c.sessions, err = auth.NewSessions(console, a.cfg.Console.SessionKeyFile); err != nil {
				return c, err
			}
			c.console = c.sessions
		}
	}
	refused := auth.NewRefusals(a.reg)
	c.upload = auth.Watch(c.upload, auth.UploadListener, refused, a.logger)
	c.console = auth.Watch(c.console, auth.ConsoleListener, refused, a.logger)
	return c, nil
}

// credentials are those of each listener of the role that asks for some.
func (a *App) credentials() (map[string]*auth.Credentials, error) {
	var authorities *auth.Authorities
	var keys auth.KeySets
	var err error
	if a.cfg.TLSClientCAFile != "" {
		authorities, err = auth.LoadAuthorities(a.cfg.TLSClientCAFile, a.cfg.TLSClientCRLFile, a.logger)
		if err != nil {
			return nil, err
		}
	}
	if len(a.cfg.Sections.Issuers) > 0 && (a.role.Is(status.Ingest) || a.role.Is(status.Console)) {
		ctx, cancel := context.WithCancel(context.Background())
		a.onStop("keys of issuers", func(context.Context) error { cancel(); return nil })
		if keys, err = auth.LoadKeys(ctx, a.cfg.Sections.Issuers, a.reg, a.logger); err != nil {
			return nil, err
		}
	}
	out := map[string]*auth.Credentials{}
	for listener, of := range map[string]struct {
		role  status.Role
		grant auth.Grant
	}{auth.UploadListener: {status.Ingest, auth.Uploader}, auth.ConsoleListener: {status.Console, auth.ConsoleUser}} {
		if !a.role.Is(of.role) || !a.cfg.asks(listener) {
			continue
		}
		known := &auth.Credentials{
			Issuers: auth.NewIssuers(listener, a.cfg.Sections.Issuers, keys),
			Certificates: auth.NewCertificates(
				authorities, listener, a.cfg.Sections.ClientCertificates, slices.Contains(a.cfg.TLSClientRequired, listener),
			),
		}
		if file := a.cfg.tokensFile(listener); file != "" {
			if known.Tokens, err = auth.LoadTokens(file, of.grant, a.logger); err != nil {
				return nil, err
			}
		}
		out[listener] = known
	}
	return out, nil
}
