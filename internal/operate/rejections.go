package operate

import (
	"context"
	"encoding/hex"
	"time"

	"github.com/docket-project/docket/internal/access"
	"github.com/docket-project/docket/internal/domain"
)

// Codes of what the audit says of acceptances.
const (
	// AcceptedUntil: args until.
	AcceptedUntil = "accepted_until"
	// Revoked: the acceptance is over.
	Revoked = "revoked"
	// RetentionApplied: a retention was put in force. Args days.
	RetentionApplied = "retention_applied"
	// LogRewound: the log is read again from a time on. Args records.
	LogRewound = "log_rewound"
	// LossAccepted: records that the log has lost were given up. Args group.
	LossAccepted = "loss_accepted"
)

// Rejections is what the store rejected lately, within a scope.
func (s *Service) Rejections(ctx context.Context, scope domain.Scope) (domain.RejectionReport, error) {
	r, err := s.store.RejectionReport(ctx, scope, s.now())
	for i, a := range r.Acceptances {
		if !a.Tenants.Within(scope) { // it counts for the caller's rows; who said what of others' is not the caller's
			r.Acceptances[i].Caller, r.Acceptances[i].Comment = "", ""
		}
	}
	return r, err
}

// Accept lets rows of the caller's tenants with a fingerprint be dead-lettered in spite of the guard, for
// domain.AcceptanceTerm. Errors: a Refusal, and those of the store.
func (s *Service) Accept(
	ctx context.Context, caller domain.Caller, fingerprint, why string,
) (domain.RejectionReport, error) {
	if err := checkFingerprint(caller, fingerprint); err != nil {
		return domain.RejectionReport{}, err
	}
	why, err := comment(why)
	if err != nil {
		return domain.RejectionReport{}, err
	}
	about := map[string]any{"fingerprint": fingerprint, "comment": why}
	if err := s.gate.Allow(ctx, caller, access.AcceptRejections, about); err != nil {
		return domain.RejectionReport{}, err
	}
	now := s.now().UTC().Truncate(time.Microsecond)
	a := domain.Acceptance{
		Fingerprint: fingerprint, Tenants: caller.Tenants, At: now, Until: now.Add(domain.AcceptanceTerm),
		Caller: caller.Name, Comment: why,
	}
	entry := domain.AuditEntry{
		At: now, Caller: caller.Name, Tenants: caller.Tenants, Action: "guard.accept", Target: fingerprint, Comment: why,
		Outcome: domain.Say(AcceptedUntil, domain.Args{"until": a.Until.Format(time.RFC3339)}),
	}
	if err := s.store.AcceptRejections(ctx, a, entry); err != nil {
		return domain.RejectionReport{}, err
	}
	return s.Rejections(ctx, caller.Tenants)
}

// Revoke ends the acceptances of a fingerprint that are within the caller's tenants. Errors: a Refusal, and those of
// the store.
func (s *Service) Revoke(
	ctx context.Context, caller domain.Caller, fingerprint string,
) (domain.RejectionReport, error) {
	if err := checkFingerprint(caller, fingerprint); err != nil {
		return domain.RejectionReport{}, err
	}
	about := map[string]any{"fingerprint": fingerprint}
	if err := s.gate.Allow(ctx, caller, access.RevokeAcceptance, about); err != nil {
		return domain.RejectionReport{}, err
	}
	now := s.now().UTC().Truncate(time.Microsecond)
	revoked, err := s.store.RevokeAcceptance(ctx, caller.Tenants, fingerprint, now, domain.AuditEntry{
		At: now, Caller: caller.Name, Tenants: caller.Tenants, Action: "guard.revoke", Target: fingerprint,
		Outcome: domain.Say(Revoked, nil),
	})
	if err != nil {
		return domain.RejectionReport{}, err
	}
	report, err := s.Rejections(ctx, caller.Tenants)
	if err != nil || revoked {
		return report, err
	}
	args := domain.Args{"fingerprint": fingerprint}
	for _, a := range report.Acceptances {
		if a.Fingerprint == fingerprint {
			return report, refuse(NotAllowed, AcceptanceOfOthers, args)
		}
	}
	return report, refuse(Absent, NoAcceptance, args)
}

func checkFingerprint(caller domain.Caller, fingerprint string) error {
	if err := Allow(caller); err != nil {
		return err
	}
	if b, err := hex.DecodeString(fingerprint); err != nil || len(b) != domain.FingerprintBytes {
		return refuse(Mistaken, NoFingerprint, domain.Args{"fingerprint": fingerprint})
	}
	return nil
}
